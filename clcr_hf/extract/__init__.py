"""`clcr extract`: features of clips by pretrained backbones, written as shards that training reads.

Run on one machine as `clcr extract`, on several processes as `torchrun -m clcr_hf.extract` or
`accelerate launch -m clcr_hf.extract` with the same arguments: process r takes the clips i with i % processes == r.
See docs/extract.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import extract_features
    from .settings import ExtractSettings

__all__ = ["ExtractSettings", "extract_features"]


def __getattr__(name: str) -> Any:  # so that the command's help needs no torch
    if name == "extract_features":
        from .run import extract_features as found
    elif name == "ExtractSettings":
        from .settings import ExtractSettings as found  # type: ignore[assignment]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
