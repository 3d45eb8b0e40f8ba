"""Linear models that CLCR is compared with, on the mean, spread and maximum over time of each column."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from transformers.trainer_utils import EvalPrediction

from ..data.labels import LabelKind
from ..modalities import FEATURES_END, modality
from ..training.baselines import Baselines, LinearMap

_SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9)


class Discriminant(Baselines):
    """Linear discriminant analysis in place of logistic regression; its shrinkage is chosen inside the training rows.

    Raises:
        ValueError: labels that are not one class a row.
    """

    def _fit(self, inputs: np.ndarray, target: np.ndarray, known: np.ndarray) -> LinearMap:
        if not self._single:
            raise ValueError(f"lda tells classes, and these labels are {self.labels.problem_type}")
        kept, classes = known[:, 0], target[known[:, 0], 0].astype(int)
        scaler = StandardScaler().fit(inputs[kept])
        common = np.flatnonzero(np.bincount(classes) >= 3)
        inside = np.isin(classes, common)
        varying = np.flatnonzero(scaler.var_ > 0)  # shrinkage looks at the mean variance of all columns
        scaled = np.nan_to_num(scaler.transform(inputs[kept]))[inside][:, varying]
        search = GridSearchCV(
            LinearDiscriminantAnalysis(solver="lsqr"), {"shrinkage": _SHRINKAGES}, cv=StratifiedKFold(3)
        )
        found = search.fit(scaled, classes[inside]).best_estimator_
        weight, bias = np.zeros((inputs.shape[1], self.labels.num_labels)), np.full(self.labels.num_labels, -30.0)
        if len(common) == 2:
            weight[varying, common[1]], bias[common] = found.coef_[0], (0.0, found.intercept_[0])
        else:
            weight[np.ix_(varying, common)], bias[common] = found.coef_.T, found.intercept_
        return LinearMap(np.nan_to_num(scaler.mean_), weight / scaler.scale_[:, None], bias)


def linear_answers(
    model: str, join: str, splits: Mapping[str, Dataset], columns: Mapping[str, str], labels: LabelKind
) -> dict[str, EvalPrediction]:
    """
    What a linear model, fitted to the split `train`, answers to the rows of the others.

    Args:
        model: "linear" or "lda". join: "joint", or "late": log-probabilities of classes are added up over modalities,
            and scores averaged.

    Raises:
        ValueError: labels that the model cannot tell, a label a segment, or no ready-made features.
    """
    if labels.per_segment:
        raise ValueError(f"{model}: labels of segments are not for it")
    kind = {"linear": Baselines, "lda": Discriminant}[model]
    read = {name: column for name, column in columns.items() if column.endswith(FEATURES_END)}
    if not read:
        raise ValueError(f"{model}: no modality is ready-made features, only {', '.join(columns.values())}")
    splits = {name: _summarised(rows, read) for name, rows in splits.items()}
    groups = [{name: column} for name, column in read.items()] if join == "late" else [read]
    fitted = [kind(splits["train"], group, labels) for group in groups]
    found = {}
    for name in splits.keys() - {"train"}:
        answers, truths = zip(*(each.answers(splits[name]) for each in fitted), strict=True)
        parts = [each.get("linear", each["constant"]) for each in answers]
        if labels.problem_type == "single_label_classification":
            parts = [log_softmax(part, axis=-1) for part in parts]
        total = np.sum(parts, axis=0)
        scores = labels.problem_type == "regression"
        found[name] = EvalPrediction(total / len(parts) if scores else total, truths[0])
    return found


def _summarised(rows: Dataset, columns: Mapping[str, str]) -> Dataset:
    """One step a modality: mean, spread and maximum over the real steps of each column (of each level)."""
    features = Features(rows.features)
    for column in columns.values():
        features[column] = List(List(Value("float32")))
    masks = {column: modality(name).mask for name, column in columns.items()}

    def summary(row: dict[str, Any]) -> dict[str, Any]:
        return {column: _statistics(row[column], row.get(masks[column])) for column in columns.values()}

    present = [name for name in masks.values() if name in rows.column_names]
    return rows.map(summary, features=features).remove_columns(present)


def _statistics(value: Any, mask: Any) -> np.ndarray | None:
    if value is None or not np.size(value):
        return None
    steps = np.atleast_2d(np.asarray(value, dtype=np.float64))
    if mask is not None:
        steps = steps[..., np.asarray(mask, dtype=bool), :]
    if not steps.shape[-2]:
        return None
    parts = (steps.mean(axis=-2), steps.std(axis=-2), steps.max(axis=-2))
    return np.concatenate([part.ravel() for part in parts])[None].astype(np.float32)


__all__ = ["Discriminant", "linear_answers"]
