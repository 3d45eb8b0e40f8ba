"""Linear models of statistics over time: ridge, logistic regression and shrunk linear discriminants, of all modalities
together or of each by itself, and which of them does best on rows that it did not learn from.

Their inputs are `(N, F)`: of each modality its statistics, those of one kind after those of another, and a column that
is 1 where the modality is there. NaN is what is missing.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..configuration_clcr import STATISTICS
from .calibration import best_temperature, negative_log_likelihood

FOLDS = 3
_PENALTIES, _INVERSE_PENALTIES = np.logspace(-2, 5, 15), np.logspace(-4, 1, 6)
_SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9)
_NEVER = -30.0  # logit of a class that discriminants cannot tell
_WIDEST = 1_000  # columns of a modality of which discriminants are made unasked: their time grows with the cube


@dataclass(frozen=True)
class LinearMap:
    """
    An affine map of statistics.

    Args:
        center: `(F,)`, taken off first; what is NaN then counts as 0. weight: `(F, C)`. bias: `(C,)`. All float64.
    """

    center: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """`(N, F)` to `(N, C)`."""
        return np.nan_to_num(inputs - self.center) @ self.weight + self.bias


@dataclass(frozen=True)
class LinearModel:
    """
    A kind of linear model.

    Args:
        kind: "linear" for ridge or logistic regression, "lda" for linear discriminant analysis with shrinkage.
        late: one a modality, whose log-probabilities are added up (scores: averaged), in place of one of all columns.
        statistics: of `STATISTICS`, what it reads.
    """

    kind: str = "linear"
    late: bool = False
    statistics: tuple[str, ...] = STATISTICS

    def named(self, scores: bool) -> str:
        """What it is called."""
        name = "linear discriminants" if self.kind == "lda" else ("ridge" if scores else "logistic") + " regression"
        return f"{name}{' of each modality, summed,' if self.late else ''} on {' and '.join(self._read())}"

    def _read(self) -> list[str]:
        words = {"mean": "means", "spread": "spreads", "max": "maxima"}
        *first, last = (words[each] for each in self.statistics)
        return [", ".join(first), last] if first else [last]


MEANS = LinearModel(statistics=("mean",))
UNASKED = (MEANS, LinearModel(), LinearModel("lda", late=True))  # those among which the training rows choose


@dataclass(frozen=True)
class Problem:
    """
    What is to be learned.

    Args:
        inputs: `(N, F)` float64. target: `(N, K)`. known: bool `(N, K)`.
        widths: statistics of each modality, of all kinds together.
        type: `problem_type` of transformers. constant: `(C,)`, the answer where nothing can be learned.
        groups: `(N,)` int64, which rows are of one speaker or the like; None: any two may be apart.
    """

    inputs: np.ndarray
    target: np.ndarray
    known: np.ndarray
    widths: Sequence[int]
    type: str
    constant: np.ndarray
    groups: np.ndarray | None = None

    @property
    def classes(self) -> bool:
        """Whether one class is right."""
        return self.type == "single_label_classification"

    def part(self, rows: np.ndarray) -> "Problem":
        """Some of its rows."""
        own = (self.inputs[rows], self.target[rows], self.known[rows])
        return Problem(*own, self.widths, self.type, self.constant, self.groups_of(rows))

    def groups_of(self, rows: np.ndarray) -> np.ndarray | None:
        """The groups of some of its rows, where they are known."""
        return None if self.groups is None else self.groups[rows]

    def read_by(self, model: LinearModel) -> list[np.ndarray]:
        """The columns that each of the model's maps reads, numbered; the last of a modality says whether it is there.
        Where nothing of a modality differs from step to step, mean and maximum are one, and the mean is read alone."""
        found, start = [], 0
        for width in self.widths:
            columns = width // len(STATISTICS)
            spreads = self.inputs[:, start + columns : start + 2 * columns]
            read = model.statistics if (np.nan_to_num(spreads) > 0).any() else ("mean",)
            places = [start + columns * STATISTICS.index(each) for each in read]
            numbers = [np.arange(place, place + columns) for place in places]
            found.append(np.concatenate([*numbers, [start + width]]))
            start += width + 1
        return found if model.late else [np.concatenate(found)]


def best(problem: Problem, candidates: Sequence[LinearModel]) -> tuple[LinearModel, LinearMap]:
    """
    The candidate that answers best in three-fold cross-validation (classes: negative log-likelihood at the temperature
    that suits it; scores: absolute error in units of their spread), and its map, learned from all rows. The first of
    equals, and the first where too few rows are there to tell. Discriminants, surer of themselves the more columns they
    read, are brought to the temperature that suited them in the validation.
    """
    first = candidates[0]
    possible = [each for each in candidates if each == first or _possible(problem, each)]
    fitted = {each: _fit(problem, each) for each in possible}
    if len(possible) > 1:
        costs = {each: _cost(problem, each, settings) for each, (_, settings) in fitted.items()}
        first = min(costs, key=lambda each: costs[each][0])
        if first.kind == "lda":
            found, temperature = fitted[first][0], costs[first][1]
            return first, LinearMap(found.center, found.weight / temperature, found.bias / temperature)
    return first, fitted[first][0]


def _possible(problem: Problem, model: LinearModel) -> bool:
    """Whether a candidate after the first is worth its time."""
    known = problem.known.any(axis=1)
    if known.sum() < 10 * FOLDS:
        return False
    groups = problem.read_by(model)
    if model.kind != "lda":  # more columns than means alone, and examples to compare by
        told = not problem.classes or (np.bincount(problem.target[known, 0].astype(int)) >= FOLDS).sum() > 1
        return told and sum(map(len, groups)) > sum(map(len, problem.read_by(MEANS)))
    if not problem.classes or max(map(len, groups)) > _WIDEST:
        return False
    there = [problem.target[known & (problem.inputs[:, own[-1]] == 1), 0].astype(int) for own in groups]
    return all(np.bincount(each, minlength=len(problem.constant)).min() >= 2 * FOLDS for each in there)


def _deal(count: int, classes: np.ndarray | None, groups: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    Rows to learn from and rows to answer, three times: by whole groups where that leaves each class in both.

    Args:
        classes: `(count,)`, None for other labels. groups: `(count,)` or None.
    """
    rows = np.arange(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer examples than folds
        if groups is not None and len(np.unique(groups)) >= FOLDS:
            whole = GroupKFold(FOLDS) if classes is None else StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
            found = list(whole.split(rows, classes, groups))
            if classes is None or all(
                len(np.unique(classes[part])) == len(np.unique(classes)) for pair in found for part in pair
            ):
                return found
        split = KFold if classes is None else StratifiedKFold
        return list(split(FOLDS, shuffle=True, random_state=0).split(rows, classes))


def _cost(problem: Problem, model: LinearModel, settings: Any) -> tuple[float, float]:
    """What it costs on rows that it did not learn from, and the temperature that suits it there."""
    rows = np.flatnonzero(problem.known.any(axis=1))
    classes = problem.target[rows, 0].astype(int) if problem.classes else None
    answers = np.zeros((len(rows), len(problem.constant)))
    for learned, asked in _deal(len(rows), classes, problem.groups_of(rows)):
        answers[asked] = _fit(problem.part(rows[learned]), model, settings)[0](problem.inputs[rows[asked]])
    if problem.type == "regression":
        known, target = problem.known[rows], problem.target[rows]
        spread = np.nanstd(np.where(known, target, np.nan), axis=0) + 1e-12
        return float(np.mean((np.abs(answers - target) / spread)[known])), 1.0
    truth = problem.target[rows] if classes is None else classes
    if classes is None:
        whole = problem.known[rows].all(axis=1)
        answers, truth = answers[whole], truth[whole]
        if not len(truth):
            return 0.0, 1.0
    temperature = best_temperature(answers, truth)
    return negative_log_likelihood(answers, truth, temperature), temperature


def _fit(problem: Problem, model: LinearModel, settings: Any = None) -> tuple[LinearMap, list[Any]]:
    """The map of a model, and its penalties or shrinkages, one a group of columns; `settings`: those, found before."""
    width, labels = problem.inputs.shape[1], len(problem.constant)
    center, weight, bias = np.zeros(width), np.zeros((width, labels)), np.zeros(labels)
    groups, found = problem.read_by(model), []
    for number, columns in enumerate(groups):
        one = _discriminants if model.kind == "lda" else _regression
        own, setting = one(problem, columns, model.late, None if settings is None else settings[number])
        center[columns], weight[columns], bias = own.center, own.weight, bias + own.bias
        found.append(setting)
    if problem.type == "regression":
        weight, bias = weight / len(groups), bias / len(groups)
    elif model.kind == "lda" and model.late:
        bias = problem.constant  # how common classes are
    return LinearMap(center, weight, bias), found


def _regression(problem: Problem, columns: np.ndarray, late: bool, setting: Any) -> tuple[LinearMap, Any]:
    """Ridge or logistic regression; the constant where nothing can be learned."""
    scaler = StandardScaler().fit(problem.inputs[:, columns])
    scaled = np.nan_to_num(scaler.transform(problem.inputs[:, columns]))  # what is missing counts as the mean
    weight, bias = np.zeros((len(columns), len(problem.constant))), problem.constant.astype(np.float64)
    settings = [None] * problem.target.shape[1] if setting is None else list(setting)
    for number, (values, kept) in enumerate(zip(problem.target.T, problem.known.T, strict=True)):
        if problem.classes:
            given = (scaled[kept], values[kept].astype(int), bias, settings[number], problem.groups_of(kept))
            weight, bias, settings[number] = _logits(*given)
        elif problem.type == "regression" and kept.sum() > 1:
            chosen = settings[number] or RidgeCV(_PENALTIES).fit(scaled[kept], values[kept]).alpha_
            ridge = Ridge(chosen).fit(scaled[kept], values[kept])
            weight[:, number], bias[number], settings[number] = ridge.coef_, ridge.intercept_, chosen
        elif problem.type == "multi_label_classification":
            classes, constant = (values[kept] > 0.5).astype(int), np.array([0.0, bias[number]])
            groups = problem.groups_of(kept)
            *both, settings[number] = _logits(scaled[kept], classes, constant, settings[number], groups)
            weight[:, number], bias[number] = (part[..., 1] - part[..., 0] for part in both)
    return LinearMap(np.nan_to_num(scaler.mean_), weight / scaler.scale_[:, None], bias), settings


def _logits(
    inputs: np.ndarray,
    classes: np.ndarray,
    constant: np.ndarray,
    strength: float | None,
    groups: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """
    Logistic regression of inputs `(N, F)`: weights `(F, C)`, biases `(C,)` and the inverse strength of the penalty.

    Args:
        classes: `(N,)`. One that has not an example in each fold has the same logit whatever the input: its share is
            then about right.
        constant: `(C,)`, the logits where nothing can be learned.
        strength: found before; None: by cross-validation, of whole `groups (N,)` where they are known.
    """
    weight, bias = np.zeros((inputs.shape[1], len(constant))), constant.copy()
    counts = np.bincount(classes, minlength=len(constant))
    common = np.flatnonzero(counts >= (FOLDS if strength is None else 1))
    if len(common) < 2:
        return weight, bias, strength
    kept = np.isin(classes, common)
    strengths = _INVERSE_PENALTIES if strength is None else [strength]
    search: Any = LogisticRegression(C=strengths[0])
    if strength is None:
        folds = _deal(int(kept.sum()), classes[kept], None if groups is None else groups[kept])
        search = GridSearchCV(search, {"C": strengths}, cv=folds, scoring="neg_log_loss")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of penalties too weak to be chosen
        # Turned, which the penalty does not notice, there are no more columns than rows.
        turned, found = make_pipeline(PCA(), search).fit(inputs[kept], classes[kept])
    model = found.best_estimator_ if strength is None else found
    coefficients = model.coef_ @ turned.components_
    intercepts = model.intercept_ - coefficients @ turned.mean_
    if len(common) == 2:  # one row, of the log-odds
        coefficients, intercepts = (np.stack((-one / 2, one / 2)).squeeze() for one in (coefficients, intercepts))
    weight[:, common], bias[common] = coefficients.T, intercepts
    if len(common) < len(bias):
        rare = np.setdiff1d(np.arange(len(bias)), common)
        level = logsumexp(inputs[kept] @ coefficients.T + intercepts, axis=1).mean()
        bias[rare] = level + np.log(np.maximum(counts[rare], 0.5) / kept.sum())
    return weight, bias, float(model.C)


def _discriminants(problem: Problem, columns: np.ndarray, late: bool, setting: Any) -> tuple[LinearMap, Any]:
    """
    Linear discriminants; the shrinkage is chosen by cross-validation. Of one modality, whose last column says whether
    it is there, they are learned from rows that have it and say nothing of others; and that classes differ in number
    counts once for all modalities.

    Raises:
        ValueError: labels that are not one class a row.
    """
    if not problem.classes:
        raise ValueError(f"linear discriminants tell classes, and these labels are {problem.type}")
    labels = len(problem.constant)
    kept = problem.known[:, 0]
    if late:
        kept = kept & (problem.inputs[:, columns[-1]] == 1)
    inputs, classes = problem.inputs[kept][:, columns], problem.target[kept, 0].astype(int)
    weight, bias = np.zeros((len(columns), labels)), np.zeros(labels)
    common = np.flatnonzero(np.bincount(classes, minlength=labels) >= FOLDS)
    if len(common) < 2:
        return LinearMap(np.zeros(len(columns)), weight, bias if late else problem.constant), setting
    inside = np.isin(classes, common)
    scaler = StandardScaler().fit(inputs)
    scaled = np.nan_to_num(scaler.transform(inputs))[inside]
    varying = np.flatnonzero(scaled.std(axis=0) > 1e-9)  # shrinkage looks at the mean variance of all columns
    found: Any = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=setting)
    if setting is None:
        folds = _deal(int(inside.sum()), classes[inside], problem.groups_of(np.flatnonzero(kept)[inside]))
        search = GridSearchCV(found, {"shrinkage": _SHRINKAGES}, cv=folds, scoring="neg_log_loss")
        found = search.fit(scaled[:, varying], classes[inside]).best_estimator_
    else:
        found.fit(scaled[:, varying], classes[inside])
    logits = np.full(labels, _NEVER)
    if len(common) == 2:  # one row, of the log-odds
        weight[varying, common[1]], logits[common] = found.coef_[0], (0.0, found.intercept_[0])
    else:
        weight[np.ix_(varying, common)], logits[common] = found.coef_.T, found.intercept_
    center = np.nan_to_num(scaler.mean_)
    weight /= scaler.scale_[:, None]
    if not late:
        return LinearMap(center, weight, logits), found.shrinkage
    logits[common] -= np.log(found.priors_)
    weight[-1], center[-1] = logits, 0.0
    return LinearMap(center, weight, bias), found.shrinkage


__all__ = ["MEANS", "UNASKED", "LinearMap", "LinearModel", "Problem", "best"]
