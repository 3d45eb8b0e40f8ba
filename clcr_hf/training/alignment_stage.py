"""The alignment stage of a run: before any label is seen, modalities learn what they share (see `alignment.py`)."""

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any

from transformers import PreTrainedModel
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..data import CLCRDataCollator
from ..data.columns import logger
from ..modeling_clcr import CLCRForPreTraining
from .data import LABEL_COLUMNS
from .trainer import CLCRTrainer, CLCRTrainingArguments


def align(
    model: PreTrainedModel,
    rows: Any,
    collator: CLCRDataCollator,
    args: CLCRTrainingArguments,
    epochs: float,
    learning_rate: float | None = None,
) -> float:
    """
    Runs the alignment stage in place.

    Args:
        model: a head; its `clcr` learns, its readouts do not.
        rows: the training rows; labels among them, which some may lack, are not looked at.
        args: those of the training that follows; length apart, they hold for the stage too.
        learning_rate: in place of theirs.

    Returns:
        The mean loss of the stage.

    Raises:
        ValueError: a model of one modality, which has nothing to align.
    """
    own = copy(args)
    own.num_train_epochs, own.max_steps = epochs, -1
    own.learning_rate = own.learning_rate if learning_rate is None else learning_rate
    own.eval_strategy, own.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
    own.load_best_model_at_end, own.push_to_hub = False, False
    stage = CLCRForPreTraining.around(model)
    collate = partial(_without_labels, collator)
    trainer = CLCRTrainer(model=stage, args=own, data_collator=collate, train_dataset=rows, keeps_nothing=True)
    result = trainer.train()
    logger.info("alignment stage: %g epochs, mean loss %.3f", epochs, result.training_loss)
    return float(result.training_loss)


def _without_labels(collator: CLCRDataCollator, rows: Sequence[dict[str, Any]]) -> Any:
    return collator([{name: value for name, value in row.items() if name not in LABEL_COLUMNS} for row in rows])


def warn_without_alignment(model: PreTrainedModel, epochs: float, is_new: bool) -> None:
    """Says so where agreement is to be learned from labels alone."""
    if model.config.evidence == "agreement" and is_new and not epochs:
        logger.warning(
            "evidence 'agreement' without an alignment stage is worse than 'norm': give --pretrain_epochs, e.g. 10"
        )


__all__ = ["align", "warn_without_alignment"]
