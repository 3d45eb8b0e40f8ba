"""`CLCRTrainer`: transformers' Trainer with CLCR's loss parts in the log and two learning rates."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import ProcessorMixin, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, nested_gather

from ..checks import did_you_mean
from ..configuration_clcr import CLCRConfig
from ..objective import total_loss
from .calibration import forget_calibration
from .log import shorten_log

logger = logging.getLogger("clcr_hf.training")

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
    Trainer for CLCR's heads. Adds to [`~transformers.Trainer`]:

    - each logged training step also carries `loss_<part>` for every entry of the output's `loss_components`, and for
      every entry of `budget_statistics` one curve a level (`participation_1`, `slack_1`, `budget_1`, ...), and the mean
      private gate of each modality (`private_gate_text`, ...). They are
      means over all forward passes since the last log and over all processes. Nothing is copied to the host between
      two logs.
    - parameters of backbones train at `args.backbone_learning_rate`, if set.
    - no weight decay on biases, normalisations, vectors and the raw parameters of the orthonormal bases;
    - what touches the labels leaves the regularisers in the loss, where transformers would take the labels from the
      model: `label_smoothing_factor` becomes `config.label_smoothing`; `compute_loss_func(outputs, labels,
      num_items_in_batch=None)` gives a batch's mean in place of the task loss alone;
    - `group_by_length` goes by the longest modality of a row; `dataloader_drop_last` drops rows of training alone.

    Takes plain `TrainingArguments` too.

    Raises:
        ValueError: label smoothing of anything but one class a row, `neftune_noise_alpha` without words to add noise
            to, `label_names` without "labels".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sums: dict[str, torch.Tensor] = {}
        self._passes = 0
        self._range_checked = False
        # Transformers takes the labels from the batch for either, and with them the regularisers from the loss.
        self._task_loss: Any = self.compute_loss_func  # type: ignore[has-type]
        self.compute_loss_func = None
        if isinstance(getattr(self.model, "config", None), CLCRConfig):
            self._take_over_options(self.model.config)
        # Trainer reads special tokens off any processor, and stops at one without a tokenizer: we save such a one.
        self._bare_processor: ProcessorMixin | None = None
        processor: Any = getattr(self, "processing_class", None)
        if isinstance(processor, ProcessorMixin) and processor.tokenizer is None:
            self._bare_processor, self.processing_class = processor, None
        shorten_log(self)

    def _take_over_options(self, config: CLCRConfig) -> None:
        """What transformers would do to a batch or model of one input and with labels taken out."""
        if self.args.label_smoothing_factor:
            learned = config.effective_problem_type
            if learned != "single_label_classification":
                raise ValueError(f"label_smoothing_factor smooths one class a row; this model learns {learned}")
            config.label_smoothing, self.label_smoother = float(self.args.label_smoothing_factor), None
        names = self.args.label_names
        if names is not None and "labels" not in names:
            raise ValueError(
                f"label_names={names} names no 'labels': batches hold them by that name, whatever the column is "
                "called. Leave label_names out"
            )
        if self.args.neftune_noise_alpha is not None:
            try:
                self.model.get_input_embeddings()
            except NotImplementedError as error:
                raise ValueError(f"neftune_noise_alpha adds noise to the embeddings of words. {error}") from error

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers'; what was calibrated for the weights before, and the share of a linear model in the answer,
        is forgotten, for it does not hold after."""
        config = getattr(self.model, "config", None)
        if isinstance(config, CLCRConfig):
            forget_calibration(config)
            config.linear_share = None if config.linear_share is None else 0.0
        return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The model's loss; in training its parts are added up for the next log."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._task_loss is not None:
            loss = self._task_loss(outputs, inputs.get("labels"), num_items_in_batch=num_items_in_batch)
            if outputs.get("loss_components"):
                outputs["loss_components"]["task"] = loss
                loss = total_loss(self.accelerator.unwrap_model(self.model).config, outputs["loss_components"])
            outputs["loss"] = loss
        if model.training:
            self._add_up(outputs)
            self._check_range(inputs.get("labels"))
        return (loss, outputs) if return_outputs else loss

    def _check_range(self, labels: torch.Tensor | None) -> None:
        """Says so, once, where scores lie outside `config.label_range`, in which answers will be kept."""
        if self._range_checked or labels is None or not labels.is_floating_point():
            return
        self._range_checked = True
        config = getattr(self.model, "config", None)
        if not isinstance(config, CLCRConfig) or config.num_labels != 1:
            return
        limits = config.score_ranges()[0]
        if limits is not None and config.problem_type in (None, "regression"):
            lowest, highest = labels.min().item(), labels.max().item()
            if lowest < limits[0] - 1e-6 or highest > limits[1] + 1e-6:
                logger.warning(
                    "scores from %g to %g are learned, and the pipeline will keep its answers in label_range=%s: build "
                    "the model with CLCRConfig(label_scale=None, label_range=[lowest, highest])",
                    lowest,
                    highest,
                    list(limits),
                )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As transformers'; says so where the rows have no labels, so that nothing was measured."""
        metrics = super().evaluate(*args, **kwargs)
        if not any(name.endswith("_loss") for name in metrics):
            logger.warning("the rows of this evaluation hold no labels: nothing was measured")
        return metrics

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As transformers', which hands the model's main input to the metrics (`include_for_metrics=["inputs"]`): the
        first of the batch, where the model reads no text."""
        if "inputs" in self.args.include_for_metrics and self.model.main_input_name not in inputs:
            self.model.main_input_name = next(name for name in inputs if name not in ("labels", "label"))
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _get_dataloader(self, dataset: Dataset, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """As transformers', but every row is measured: `dataloader_drop_last` is for training."""
        dropped = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = dropped and is_training
        try:
            return super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = dropped

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As transformers'; lengths to group by are those of the longest modality, not of `input_ids` alone."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if not self._measures_lengths(rows):
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(batch, lengths=[_length(rows[index]) for index in range(len(rows))])

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Any:
        if self._measures_lengths(eval_dataset):
            return SequentialSampler(eval_dataset)  # type: ignore[arg-type]
        return super()._get_eval_sampler(eval_dataset)

    def _measures_lengths(self, rows: Any) -> bool:
        """Whether rows are to be grouped by a length that no column of theirs states."""
        stated = self.args.length_column_name in getattr(rows, "column_names", ())
        return self.args.train_sampling_strategy == "group_by_length" and hasattr(rows, "__len__") and not stated

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError:
            wanted = str(self.args.metric_for_best_model).removeprefix("eval_")
            measured = [name.removeprefix("eval_") for name in metrics if name.startswith("eval_")]
            hint = did_you_mean(wanted, measured) or f" ({', '.join(measured)})"
            raise ValueError(f"metric_for_best_model={wanted!r} is none of the measured metrics{hint}") from None

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
        gates, present = outputs.get("private_gates"), outputs.get("modality_weights")
        if gates is not None and present is not None:
            names = self.accelerator.unwrap_model(self.model).config.modalities
            shares = gates.flatten(0, -2).sum(dim=0) / (present.flatten(0, -2) > 0).sum(dim=0).clamp(min=1)
            parts.update({f"private_gate_{name}": share for name, share in zip(names, shares, strict=True)})
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


def _length(row: Mapping[str, Any]) -> int:
    """Time steps of the longest modality of a row."""
    inputs = (value for name, value in row.items() if name not in ("labels", "label"))
    return max((len(value) for value in inputs if hasattr(value, "__len__")), default=0)


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
