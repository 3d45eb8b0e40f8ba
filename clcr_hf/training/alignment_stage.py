"""The alignment stage of a run: before any label is seen, modalities learn what they share (see `alignment.py`)."""

from copy import copy
from typing import Any

from transformers import PreTrainedModel
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..data import CLCRDataCollator
from ..data.columns import logger
from ..modeling_clcr import CLCRForPreTraining
from .trainer import CLCRTrainer, CLCRTrainingArguments


def align(
    model: PreTrainedModel, rows: Any, collator: CLCRDataCollator, args: CLCRTrainingArguments, epochs: float
) -> float:
    """
    Runs the alignment stage in place.

    Args:
        model: a head; its `clcr` learns, its readouts do not.
        rows: the training rows; labels among them are not looked at.
        args: those of the training that follows; length apart, they hold for the stage too.

    Returns:
        The mean loss of the stage.

    Raises:
        ValueError: a model of one modality, which has nothing to align.
    """
    own = copy(args)
    own.num_train_epochs, own.max_steps = epochs, -1
    own.eval_strategy, own.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
    own.load_best_model_at_end, own.push_to_hub = False, False
    stage = CLCRForPreTraining.around(model)
    trainer = CLCRTrainer(model=stage, args=own, data_collator=collator, train_dataset=rows, keeps_nothing=True)
    result = trainer.train()
    logger.info("alignment stage: %g epochs, mean loss %.3f", epochs, result.training_loss)
    return float(result.training_loss)


def warn_without_alignment(model: PreTrainedModel, epochs: float, is_new: bool) -> None:
    """Says so where agreement is to be learned from labels alone."""
    if model.config.evidence == "agreement" and is_new and not epochs:
        logger.warning(
            "evidence 'agreement' without an alignment stage is worse than 'norm': give --pretrain_epochs, e.g. 10"
        )


__all__ = ["align", "warn_without_alignment"]
