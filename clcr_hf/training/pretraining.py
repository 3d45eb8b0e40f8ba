"""The alignment stage by itself, on rows with or without labels: what `examples/run_pretraining.py` runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers.trainer_utils import IntervalStrategy

from ..data import CLCRDataCollator
from ..data.folders import write_json
from .arguments import DataArguments, ModelArguments, parse_args
from .build import build_model
from .length import fit_length
from .log import plan, pretrained
from .one_writer import alone_in_output_dir
from .record import plain, record, report
from .rows import prepare
from .run import last_checkpoint, open_data
from .trainer import CLCRTrainer, CLCRTrainingArguments

RECORD = "pretraining.json"


def main(argv: Sequence[str] | None = None, **defaults: Any) -> dict[str, float]:
    """Parses the arguments and runs; returns the metrics. Arguments as in [`parse_args`]."""
    return run_pretraining(*parse_args(argv, **defaults))


@alone_in_output_dir
def run_pretraining(
    model_args: ModelArguments, data_args: DataArguments, args: CLCRTrainingArguments
) -> dict[str, float]:
    """
    Trains [`CLCRForPreTraining`] on the train split, without its labels. Writes model, processor and
    `pretraining.json` (seed, versions, command, settings, loss) to `args.output_dir`, which `--model_name_or_path`
    of a training run goes on from, and `from_pretrained` of every head.

    There is no measuring in between: the model of the last epoch is kept.

    Returns:
        Trainer's metrics of the stage, prefixed with `train_`.

    Raises:
        ValueError, DataFormatError: arguments or data that do not fit together; a model of one modality, which has
            nothing to align; another run that writes to `output_dir`.
        MediaError: with `strict_media`, a clip that cannot be read.
    """
    if data_args.metrics_by:
        raise ValueError("--metrics_by: the alignment stage measures nothing; leave it to the training that follows")
    checkpoint = last_checkpoint(args)
    data, columns, processor, carved = open_data(model_args, data_args, args, labelled=False)
    model = build_model(model_args, data_args, data, columns, processor, pretraining=True)
    data.splits = DatasetDict({"train": data.splits["train"]})
    rows = prepare(data.splits, columns, data_args, processor)
    args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    length = fit_length(args, len(rows["train"]), 0)
    if model_args.backbones and args.backbone_learning_rate is None:
        args.backbone_learning_rate = 2e-5
    trainer = CLCRTrainer(
        model=model,
        args=args,
        data_collator=CLCRDataCollator(getattr(processor.tokenizer, "pad_token_id", None) or 0),
        train_dataset=rows["train"],
        processing_class=processor,
    )
    if trainer.is_world_process_zero():
        print(plan(data.title, rows, carved, columns, model, args, length), flush=True)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = report(trainer, "train", {**result.metrics, "train_samples": len(rows["train"])})
    trainer.save_state()
    trainer.save_model(_internal_call=True)  # what is sent to the Hub goes at the end, with the record
    if trainer.is_world_process_zero():
        entry = record(model_args, data_args, args, data, columns, rows, trainer, metrics)
        write_json(Path(args.output_dir) / RECORD, entry, plain)
        print(pretrained(args.output_dir), flush=True)
    if args.push_to_hub:
        trainer.push_to_hub()
    return metrics


__all__ = ["main", "run_pretraining"]
