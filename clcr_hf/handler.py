"""Inference Endpoints: `publish` copies this file beside the model; the endpoint's server imports `EndpointHandler`."""

from typing import Any

from transformers import pipeline


class EndpointHandler:
    """
    Answers requests to an endpoint.

    Args:
        path: Folder of the model's repository.
    """

    def __init__(self, path: str = "") -> None:
        self.pipeline = pipeline("multimodal-sentiment", model=path, trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> Any:
        """`{"inputs": ..., "parameters": {...}}` to what [`CLCRPipeline`] returns."""
        return self.pipeline(data["inputs"], **(data.get("parameters") or {}))
