"""`CLCRTrainer`: transformers' Trainer with CLCR's loss parts in the log and two learning rates."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ProcessorMixin, Trainer, TrainingArguments
from transformers.trainer_pt_utils import nested_gather

from .log import shorten_log

# Parameters without weight decay, by parts of their names, besides those that transformers knows. Normalisations of
# several levels are matrices here. The map from raw parameters to bases ignores their length, so decay would only
# shrink them towards the point where that map has no derivative.
_NO_DECAY = ("norm", "raw_shared", "raw_private")


@dataclass
class CLCRTrainingArguments(TrainingArguments):
    r"""
    [`~transformers.TrainingArguments`] with CLCR's own settings.

    `learning_rate` 1e-3 and `weight_decay` 1e-4 are the paper's. The optimiser stays transformers' AdamW;
    `optim="sgd"` is the paper's choice and then takes `momentum`.

    Args:
        backbone_learning_rate (`float`, *optional*):
            Learning rate of the backbones (parameters with `backbone` in their name); `learning_rate` when left out.
            Pretrained backbones want a small one, such as 2e-5 (our reconstruction: the paper gives one rate).
        momentum (`float`, defaults to 0.9):
            Momentum of `optim="sgd"`, the paper's value; a `momentum=` inside `optim_args` goes before it.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the fusion (the paper's: 1e-3)."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay (the paper's: 1e-4)."})
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the backbones; learning_rate when left out."}
    )
    momentum: float = field(default=0.9, metadata={"help": "Momentum of --optim sgd (the paper's: 0.9)."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Keys of the batch that are labels."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Drop columns that the model's forward does not name; the collator does it."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone_learning_rate is not None and self.backbone_learning_rate < 0:
            raise ValueError(f"`backbone_learning_rate` must not be negative, got {self.backbone_learning_rate}")
        given: str | None = self.optim_args
        if self.optim == "sgd" and "momentum" not in (given or ""):
            self.optim_args: str | None = ",".join(filter(None, [given, f"momentum={self.momentum}"]))


class CLCRTrainer(Trainer):
    r"""
    Trainer for CLCR's heads. Adds three things to [`~transformers.Trainer`] and changes nothing else:

    - each logged training step also carries `loss_<part>` for every entry of the output's `loss_components`, and for
      every entry of `budget_statistics` one curve a level (`participation_1`, `slack_1`, `budget_1`, ...). They are
      means over all forward passes since the last log and over all processes. Nothing is copied to the host between
      two logs.
    - parameters of backbones train at `args.backbone_learning_rate`, if set.
    - no weight decay on biases, normalisations, vectors and the raw parameters of the orthonormal bases.

    Takes plain `TrainingArguments` too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sums: dict[str, torch.Tensor] = {}
        self._passes = 0
        # Trainer reads special tokens off any processor, and stops at one without a tokenizer: we save such a one.
        self._bare_processor: ProcessorMixin | None = None
        processor: Any = getattr(self, "processing_class", None)
        if isinstance(processor, ProcessorMixin) and processor.tokenizer is None:
            self._bare_processor, self.processing_class = processor, None
        shorten_log(self)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The model's loss; in training its parts are added up for the next log."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            self._add_up(outputs)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means gathered by `compute_loss` to a training log and passes it on."""
        if "loss" in logs:
            logs.update(self._take_means())
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self._bare_processor is not None:
            self._bare_processor.save_pretrained(output_dir or self.args.output_dir)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Saves the model and sends it with all that [`~hub.publish.publish`] sends. Always waits for the upload;
        `kwargs` go to `publish`. Returns the address of the commit, None in processes other than the first."""
        from ..hub.publish import publish

        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        name = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        private = self.args.hub_private_repo
        return publish(
            self.args.output_dir,
            name,
            private=private,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            **kwargs,
        )

    def _add_up(self, outputs: Any) -> None:
        parts = {f"loss_{name}": value for name, value in (outputs.get("loss_components") or {}).items()}
        for name, levels in (outputs.get("budget_statistics") or {}).items():
            parts.update({f"{name}_{level}": value for level, value in enumerate(levels, start=1)})
        for name, value in parts.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._passes += 1

    def _take_means(self) -> dict[str, float]:
        """Means since the last call, over all processes; one copy to the host."""
        if not self._sums:  # nothing was run, or the model has no parts to report
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] for name in names])[None] / self._passes
        values = nested_gather(means, self.args.parallel_mode).mean(0).tolist()
        self._sums, self._passes = {}, 0
        return dict(zip(names, values, strict=True))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters under weight decay: matrices that are neither normalisations nor raw bases."""
        matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
        names = super().get_decay_parameter_names(model)
        return [name for name in names if name in matrices and not any(part in name for part in _NO_DECAY)]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """transformers' optimiser, each of its groups cut in fusion and backbone; the fusion comes first."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = getattr(self.args, "backbone_learning_rate", None)
        if fresh and rate is not None:
            named = (self.model if model is None else model).named_parameters()
            backbone = {id(parameter) for name, parameter in named if "backbone" in name}
            optimizer.param_groups = _cut_groups(optimizer.param_groups, backbone, rate)
        return optimizer


def _cut_groups(groups: list[dict[str, Any]], backbone: set[int], rate: float) -> list[dict[str, Any]]:
    """Each group in two by whether `id(parameter)` is in `backbone`; those get learning rate `rate`, and come last."""
    fusion_groups, backbone_groups = [], []
    for group in groups:
        inside = [parameter for parameter in group["params"] if id(parameter) in backbone]
        outside = [parameter for parameter in group["params"] if id(parameter) not in backbone]
        fusion_groups.append({**group, "params": outside})
        backbone_groups.append({**group, "params": inside, "lr": rate})
    return [group for group in fusion_groups + backbone_groups if group["params"]]


__all__ = ["CLCRTrainer", "CLCRTrainingArguments"]
