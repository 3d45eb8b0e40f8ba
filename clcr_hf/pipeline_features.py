"""`CLCRFeaturePipeline`, task "multimodal-feature-extraction": a clip to embeddings of a CLCR model, without a head."""

from typing import Any

import torch
from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling_clcr import CLCRModel
from .pipeline_clcr import PARAMETERS, CLCRPipeline, is_flag

TASK = "multimodal-feature-extraction"
_KINDS = ("clip", "modality", "level", "token")
_READING = ("on_error", "local_files", "max_bytes", "timeout", "max_seconds")


class CLCRFeaturePipeline(CLCRPipeline):
    """
    Reads clips to embeddings. Inputs, lists, streams, windows and limits are those of [`CLCRPipeline`].

    ```python
    embed = pipeline("multimodal-feature-extraction", model="path/to/model")
    embed({"media": "clip.mp4", "text": "what a lovely day"})["features"]
    ```

    A result is a dict of `features`, lists of floats, and what [`CLCRPipeline`] says besides (`error`, `windows`, what
    was cut). Parameters, of the pipeline or of a call, besides those of reading:

    - `by`: `"clip"`, the fused embedding `(2 d,)`, shared and private summary (`(d,)` without private path);
      `"modality"`, by name what each one present shares `(d,)`, levels weighed as the model weighs them; `"level"`, of
      each level `(L, d)` the same, a mean over the modalities present; `"token"`, by modality the tokens of the deepest
      level after the exchange `(T, d)`;
    - `return_tensors` (bool): float32 tensors in place of lists.

    Raises:
        ValueError: as [`CLCRPipeline`]; a model of segments or without a joint path, which has no embedding of a clip.
    """

    _backends = ("torch",)  # graphs have no embeddings among their outputs

    def _check_model(self) -> None:
        if not isinstance(self.model, CLCRModel) or self.model.per_segment or not self.model.config.use_joint_path:
            raise ValueError("CLCRFeaturePipeline needs a CLCRModel of whole clips with `use_joint_path=True`")

    def _parameters(self) -> dict[str, tuple[Any, str, tuple[int, ...]]]:
        return {
            "by": (lambda value: value in _KINDS, f"one of {', '.join(_KINDS)}", (1,)),
            "return_tensors": (is_flag, "true or false", (2,)),
            **{name: PARAMETERS[name] for name in _READING},
        }

    def _run_batch(self, samples: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        inputs, by = self._model_inputs(samples), options.get("by", "clip")
        outputs = self.model(**inputs, output_last_hidden_state=by == "token")
        found = _features(outputs, self.model.config.modalities, by)
        return [{"features": each, "cut": sample["cut"]} for each, sample in zip(found, samples, strict=True)]

    def _result(self, output: dict[str, Any], **options: Any) -> dict[str, Any]:
        found = output["features"]
        if options.get("return_tensors", False):
            return {"features": found}
        named = isinstance(found, dict)
        return {"features": {name: each.tolist() for name, each in found.items()} if named else found.tolist()}


def _features(outputs: Any, modalities: list[str], by: str) -> list[Any]:
    """Of each sample its embeddings on the CPU; see [`CLCRFeaturePipeline`]."""
    if by == "token":
        counts = dict(zip(modalities, outputs.token_counts.T.tolist(), strict=True))
        tokens, lengths = outputs.last_hidden_state.float().cpu(), outputs.token_budgets[0]
        parts = dict(zip(lengths, tokens.split([one.shape[1] for one in lengths.values()], 1), strict=True))
        return [
            {name: part[row, : counts[name][row]] for name, part in parts.items() if counts[name][row]}
            for row in range(len(tokens))
        ]
    if by == "clip":
        return list(outputs.pooler_output.float().cpu())
    summaries, present = outputs.common_summaries.float(), outputs.present  # (B, L, M, d), (B, M)
    if by == "level":
        share = present / present.sum(dim=-1, keepdim=True).clamp(min=1)
        return list(torch.einsum("bm,blmd->bld", share, summaries).cpu())
    mixed = torch.einsum("bl,blmd->bmd", outputs.level_weights.float(), summaries).cpu()
    return [
        {name: vector for name, vector, here in zip(modalities, row, known, strict=True) if here}
        for row, known in zip(mixed, present.tolist(), strict=True)
    ]


def register() -> None:
    """Makes `pipeline("multimodal-feature-extraction")` known to transformers; called when `clcr_hf` is imported."""
    PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=CLCRFeaturePipeline, pt_model=AutoModel, type="multimodal")
