"""Linear models that CLCR is compared with, on the mean, spread and maximum over time (of the clip, or of each segment
where it has a label) of each column."""

from collections.abc import Mapping

from datasets import Dataset
from transformers.trainer_utils import EvalPrediction

from ..data.labels import LabelKind
from ..modalities import FEATURES_END
from ..training.baselines import Baselines
from ..training.linear_models import LinearModel


def linear_answers(
    model: str,
    join: str,
    splits: Mapping[str, Dataset],
    columns: Mapping[str, str],
    labels: LabelKind,
    group_column: str | None = None,
) -> dict[str, EvalPrediction]:
    """
    What a linear model, fitted to the split `train`, answers to the rows of the others.

    Args:
        model: "linear" or "lda". join: "joint", or "late": log-probabilities of classes are added up over modalities,
            and scores averaged. group_column: as of [`Baselines`].

    Raises:
        ValueError: labels that the model cannot tell, or no ready-made features.
    """
    if not any(column.endswith(FEATURES_END) for column in columns.values()):
        raise ValueError(f"{model}: no modality is ready-made features, only {', '.join(columns.values())}")
    fitted = Baselines(splits["train"], columns, labels, [LinearModel(model, join == "late")], group_column)
    answers = {name: fitted.answers(rows) for name, rows in splits.items() if name != "train"}
    return {name: EvalPrediction(found["linear"], truth) for name, (found, truth) in answers.items()}


__all__ = ["linear_answers"]
