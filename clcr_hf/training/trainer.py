"""`CLCRTrainer`: transformers' Trainer with CLCR's loss parts in the log and two learning rates."""

import inspect
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import EarlyStoppingCallback, ProcessorMixin, Trainer, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler, nested_gather

from ..checks import did_you_mean
from ..configuration_clcr import CLCRConfig
from ..data.streamed import StreamedRows
from ..modeling_clcr import CLCRForPreTraining, CLCRModel
from ..objective import total_loss
from .calibration import forget_calibration
from .checkpoints import begin, find_checkpoint, finish, rotate, told_in_one_line
from .global_batch import deal_out, emptied, loss_weights, row_losses, without_repeats
from .log import shorten_log
from .stopping import FiniteWatch, StopSignals, TrainingStopped, spare_worker
from .stream_order import StreamOrder
from .whole_batch import WholeBatch

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
        exact_accumulation (`bool`, defaults to `False`):
            With `gradient_accumulation_steps` above 1: the regularisers' correlations and the alignment loss are those
            of the whole batch, for one more pass forward (see `whole_batch.py`). Not with `torch_compile` or
            DataParallel.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the fusion (the paper's: 1e-3)."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay (the paper's: 1e-4)."})
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the backbones; learning_rate when left out."}
    )
    momentum: float = field(default=0.9, metadata={"help": "Momentum of --optim sgd (the paper's: 0.9)."})
    exact_accumulation: bool = field(
        default=False, metadata={"help": "Correlations and alignment loss see all micro-batches, by a second pass."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Keys of the batch that are labels."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Drop columns that the model's forward does not name; the collator does it."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave losses that are not finite out of the log; the run stops at them."}
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
    - loss and gradients are those of all rows of an optimiser's step, however many processes and micro-batches share
      them: labels are counted over all of them, and the last batch of an epoch is dealt out without repeating a row.
      (The regularisers' correlations and the alignment loss see all processes, but one micro-batch, which a line says;
      or all of them with `args.exact_accumulation`.)
      `eval_loss` is the mean over all labels;
    - `group_by_length` goes by the longest modality of a row; `dataloader_drop_last` drops rows of training alone;
    - a checkpoint is marked as whole once all of it is on the disk, and only then may an older one go; a run goes on
      from whole ones alone, exactly: see [`find_checkpoint`](checkpoints.py);
    - SIGTERM, SIGUSR1 and Ctrl-C end training after the step under way and a checkpoint: [`TrainingStopped`] is raised;
    - a loss or weights that are not finite end training before anything is saved: FloatingPointError is raised.

    Takes plain `TrainingArguments` too.

    Args:
        keeps_nothing: a stage that is too short to be gone on with; a signal ends it without a checkpoint.

    Raises:
        ValueError: label smoothing of anything but one class a row, `neftune_noise_alpha` without words to add noise
            to, `label_names` without "labels", `exact_accumulation` where it cannot be.
    """

    def __init__(self, *args: Any, keeps_nothing: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keeps_nothing = keeps_nothing
        self._signals, self._finite = StopSignals(), FiniteWatch()
        self._saved_step, self._resumed = -1, False
        self._sums: dict[str, torch.Tensor] = {}
        self._passes = 0
        self._range_checked = False
        self._ends_idle = False
        self._whole: WholeBatch | None = None
        self._to_gather: list[Any] = []
        self._eval_rows: list[torch.Tensor] | None = None
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
        if self.args.neftune_noise_alpha is not None and self.model.get_input_embeddings() is None:
            raise ValueError(
                "neftune_noise_alpha adds noise to the embeddings of words. This CLCR model has no text backbone "
                "(`text_config.backbone_config`)"
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        As transformers'; what was calibrated for the weights before, and the share of a linear model in the answer, is
        forgotten, for it does not hold after.

        Args:
            resume_from_checkpoint: a path, `"last"` or true, or `"auto"`, see [`find_checkpoint`].

        Raises:
            TrainingStopped: a signal asked for it.
            FloatingPointError: the loss or the weights are not finite.
            ValueError: a checkpoint that is not whole.
        """
        config = getattr(self.model, "config", None)
        if isinstance(config, CLCRConfig):
            forget_calibration(config)
            config.linear_share = None if config.linear_share is None else 0.0
        if resume_from_checkpoint:
            run = self.args.output_dir, resume_from_checkpoint, self.args.world_size, self.is_world_process_zero()
            resume_from_checkpoint = find_checkpoint(*run, workers=self.args.dataloader_num_workers)
        self._finite, self._saved_step, self._resumed = FiniteWatch(), -1, bool(resume_from_checkpoint)
        self._whole = self._see_the_whole_batch()
        try:
            with self._signals:
                return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self._whole is not None:
                self._whole.release()

    def _see_the_whole_batch(self) -> WholeBatch | None:
        """What has the model do so, if asked for; else says what micro-batches change."""
        config, steps = getattr(self.model, "config", None), self.args.gradient_accumulation_steps
        if steps == 1 or not isinstance(config, CLCRConfig):
            return None
        if getattr(self.args, "exact_accumulation", False):
            if self.args.torch_compile or self.args.n_gpu > 1:
                raise ValueError("exact_accumulation does not go with torch_compile or DataParallel; leave it out")
            return WholeBatch(self.accelerator.unwrap_model(self.model))
        aligns = config.alignment_coef or not self._weighs_parts
        if (config.lambda_intra or config.lambda_inter or aligns) and self.is_world_process_zero():
            logger.warning(
                "gradient_accumulation_steps=%d: %s see one micro-batch at a time, not the whole batch, which "
                "exact_accumulation gives them for a second pass forward; labels are counted over all of it",
                steps,
                "the alignment loss and the regularisers' correlations" if aligns else "the regularisers' correlations",
            )
        return None

    @property
    def _weighs_parts(self) -> bool:
        """Whether the model takes `loss_weights`. (Not under DataParallel, which would cut them up.)"""
        bare = self.accelerator.unwrap_model(self.model)
        return self.args.n_gpu <= 1 and "loss_weights" in inspect.signature(bare.forward).parameters

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """As transformers', the batches of one optimiser's step; each with what it counts for in the loss."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        idle = self._ends_idle and self.accelerator.gradient_state.end_of_dataloader
        if idle and batches:
            batches[-1] = emptied(batches[-1])
        if batches and self._weighs_parts and all(batch.get("labels") is not None for batch in batches):
            config = self.accelerator.unwrap_model(self.model).config
            weights = loss_weights(config, batches, idle, self.accelerator, device)
            batches = [{**batch, "loss_weights": own} for batch, own in zip(batches, weights, strict=True)]
        self._to_gather = list(batches)
        return batches, items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As transformers', of one micro-batch."""
        if self._whole is not None:
            if self._to_gather:
                model.train()
                prepared = [self._prepare_inputs(each) for each in self._to_gather]
                self._whole.gather(model, prepared, self.compute_loss_context_manager)
                self._to_gather = []
            self._whole.prepare()
        return super().training_step(model, inputs, *args, **kwargs)

    def _run_epoch(self, *, model: nn.Module, epoch: int, train_dataloader: DataLoader, **kwargs: Any) -> None:
        """As transformers'. A run that was over, and was killed before what follows training, learns no more. Samplers
        and rows draw by the epoch, so that one that is gone on with in its midst is the same."""
        stops = [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
        stopped = any(each.early_stopping_patience_counter >= each.early_stopping_patience for each in stops)
        if self._resumed and (stopped or self.state.global_step >= self.state.max_steps):
            self.control.should_training_stop = True
            return
        if isinstance(getattr(train_dataloader, "generator", None), torch.Generator):
            train_dataloader.generator.manual_seed(self.args.seed + epoch)
        inner: Any = train_dataloader
        while getattr(inner, "batch_sampler", None) is not None:
            inner = inner.batch_sampler
        drawn: tuple[Any, ...] = (getattr(inner, "sampler", None), self.train_dataset)
        for each in drawn:
            if hasattr(each, "set_epoch"):
                each.set_epoch(epoch)
        super()._run_epoch(model=model, epoch=epoch, train_dataloader=train_dataloader, **kwargs)
        self._stop_if_asked(model, kwargs.get("trial"))

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: nn.Module, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        control: Any = self.control
        if control.should_log or control.should_evaluate or control.should_save:
            self._check_finite(weights=control.should_evaluate)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        # The last step of an epoch is followed by what is done once an epoch; the run stops after that.
        if self.state.epoch % 1 and not self.control.should_training_stop:
            self._stop_if_asked(model, trial)

    def _stop_if_asked(self, model: nn.Module, trial: Any) -> None:
        """Saves, says so and raises, where a signal asked any of the processes to stop."""
        number = self._signals.agreed()
        if not number:
            return
        said = "the alignment stage begins anew next time"
        if not self._keeps_nothing:
            if self._saved_step != self.state.global_step:
                self._save_checkpoint(model, trial)
                self.control: Any = self.callback_handler.on_save(self.args, self.state, self.control)
            said = f"checkpoint-{self.state.global_step} is saved, --resume_from_checkpoint auto goes on from it"
        if self.is_world_process_zero():
            logger.warning("stopped by %s after step %d: %s", signal.Signals(number).name, self.state.global_step, said)
        raise TrainingStopped(number)

    def _check_finite(self, weights: bool) -> None:
        named = self.accelerator.unwrap_model(self.model).named_parameters() if weights else ()
        self._finite.check(self.state.global_step, named, self.args.device)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self._check_finite(weights=True)
        return super()._finalize_training(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As transformers'; marked as whole at the end, after which older ones may go."""
        self._check_finite(weights=True)
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        limit, writes = self.args.save_total_limit, self.args.should_save
        with told_in_one_line(folder):
            if writes:
                begin(folder)
            self.accelerator.wait_for_everyone()
            self.args.save_total_limit = None  # transformers' own rotation waits neither for the mark nor for others
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.save_total_limit = limit
            self.accelerator.wait_for_everyone()
            if writes:
                workers = self.args.dataloader_num_workers if self._streams(self.train_dataset) else None
                finish(folder, self.args.world_size, workers)
                rotate(folder, limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        self._saved_step = self.state.global_step
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As transformers', which calls it before the checkpoint is whole."""
        if self._saved_step == self.state.global_step:
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_callback_state(self) -> None:
        """As transformers'; early stopping goes on counting where it was, with the patience of this run."""
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):  # one that the checkpoint knows nothing of
                self.state.stateful_callbacks.setdefault(type(callback).__name__, {})
        saved = self.state.stateful_callbacks.get("EarlyStoppingCallback")
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and isinstance(saved, dict):
                vars(callback).update(saved.get("attributes", {}))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The model's loss; in training its parts are added up for the next log."""
        aligns = isinstance(self.accelerator.unwrap_model(model), CLCRForPreTraining)
        if aligns and self._eval_rows is not None:
            inputs, number = without_repeats(inputs, self.accelerator)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._task_loss is not None:
            loss = self._task_loss(outputs, inputs.get("labels"), num_items_in_batch=num_items_in_batch)
            if "loss_weights" in inputs:
                loss = loss * inputs["loss_weights"][0]
            if outputs.get("loss_components"):
                outputs["loss_components"]["task"] = loss
                loss = total_loss(self.accelerator.unwrap_model(self.model).config, outputs["loss_components"])
            outputs["loss"] = loss
        if model.training:
            self._finite.see({**(outputs.get("loss_components") or {}), "sum": loss}, self.state.global_step + 1)
            self._add_up(outputs)
            self._check_range(inputs.get("labels"))
        elif aligns and self._eval_rows is not None:
            mean = self.accelerator.gather(loss.detach()[None]).mean()
            self._eval_rows.append(torch.stack((mean * number, mean.new_full((), number))))
        elif self._eval_rows is not None and self._weighs_parts and inputs.get("labels") is not None:
            config = self.accelerator.unwrap_model(self.model).config
            rows = row_losses(config, outputs["logits"], inputs["labels"])
            self._eval_rows.append(self.gather_function(rows).sum(dim=0))
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

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As transformers', but the loss is the mean over all labels, where transformers' is one over batches."""
        self._eval_rows = None if self._task_loss is not None else []
        bare = getattr(self.accelerator.unwrap_model(self.model), "base_model", None)
        if isinstance(bare, CLCRModel):
            bare.gathers = self.args.world_size > 1
        try:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            sums = torch.stack(self._eval_rows).cpu().double().sum(dim=0) if self._eval_rows else torch.zeros(2)
        finally:
            self._eval_rows = None
            if isinstance(bare, CLCRModel):
                bare.gathers = False
        loss, labels = sums.tolist()
        if labels and f"{metric_key_prefix}_loss" in output.metrics:
            output.metrics[f"{metric_key_prefix}_loss"] = loss / labels
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As transformers'; says so where the rows have no labels, so that nothing was measured."""
        metrics = super().evaluate(*args, **kwargs)
        if self.is_in_train and not math.isfinite(metrics.get("eval_loss", 0.0)):
            raise FloatingPointError(f"step {self.state.global_step}: the loss on validation is not finite")
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
            loader = super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = dropped
        if is_training and self.args.world_size > 1:
            dealt = deal_out(loader)
            self._ends_idle = dealt is not None and dealt.ends_idle
        inner = getattr(loader, "base_dataloader", loader)
        inner.worker_init_fn = partial(_start_worker, inner.worker_init_fn)
        # Seeds of workers come from a generator of their own: drawn from torch's, dropout would differ after a resume.
        inner.generator = torch.Generator().manual_seed(self.args.seed)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As transformers'; lengths to group by are those of the longest modality, not of `input_ids` alone. Streamed
        rows have an order of their own."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self._streams(rows):
            if self.args.train_sampling_strategy != "random":
                raise ValueError(
                    f"train_sampling_strategy {self.args.train_sampling_strategy}: rows that are streamed are shuffled "
                    "where they lie; leave it out, or leave out --streaming"
                )
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            workers = self.args.dataloader_num_workers
            return StreamOrder(rows.rows, self._train_batch_size, self.args.world_size, workers, seed)
        if not self._measures_lengths(rows):
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return _ByLength(batch, lengths=[_length(rows[index]) for index in range(len(rows))])

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Any:
        if self._measures_lengths(eval_dataset):
            return SequentialSampler(eval_dataset)  # type: ignore[arg-type]
        return super()._get_eval_sampler(eval_dataset)

    @staticmethod
    def _streams(rows: Any) -> bool:
        return isinstance(getattr(rows, "rows", None), StreamedRows)

    def _measures_lengths(self, rows: Any) -> bool:
        """Whether rows are to be grouped by a length that no column of theirs states."""
        stated = self.args.length_column_name in getattr(rows, "column_names", ())
        asked = self.args.train_sampling_strategy == "group_by_length" and not self._streams(rows)
        return asked and hasattr(rows, "__len__") and not stated

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


class _ByLength(LengthGroupedSampler):
    """In an order that the run's seed and the epoch decide, the same in all processes."""

    def set_epoch(self, epoch: int) -> None:
        self.generator = torch.Generator().manual_seed(torch.initial_seed() + epoch)


def _start_worker(start: Callable[[int], None] | None, number: int) -> None:
    """Begins a data loader's worker: as `start` does, and so that a signal to the whole run leaves it alone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, spare_worker)
    if start is not None:
        start(number)


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
