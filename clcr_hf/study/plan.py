"""A study as its file states it, and the runs that it takes."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..checks import did_you_mean
from ..training.arguments import ABLATIONS, as_words, parse_args, read_recipe, used_arguments
from .changes import CHANGES, Change, overrides
from .features import SHARDS, FeaturesWanted
from .fusions import FUSIONS

LINEAR = ("linear", "lda")
_DATA = ("dataset", "dataset_dir", "dataset_name", "data_file")
JOINS = ("joint", "late")


@dataclass(frozen=True)
class Variant:
    """
    A row of the study's table.

    Args:
        name: what it is called.
        arguments: of `clcr train`, for this variant alone.
        model: None for CLCR; "linear" for ridge or logistic regression, "lda" for linear discriminant analysis, both on
            mean, spread and maximum over time of each column; another fusion in CLCR's place, see `fusions.py`.
        join: of a linear model: "joint", of all columns, or "late", one a modality, whose answers are added up.
        candidates: settings by name, of which each fold takes the one that is best on its validation rows.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    join: str = "joint"
    candidates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training and its measurement. `candidate`: of those among which validation chooses; such a run reads no test
    rows."""

    variant: str
    seed: int
    fold: int | None = None
    change: Change = Change()
    candidate: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    join: str = "joint"
    folds: Mapping[str, Any] | None = None

    @property
    def folder(self) -> str:
        """The name of its folder: readable, and another one where anything about the run is another."""
        content = json.dumps(asdict(self), sort_keys=True, default=str)
        parts = [self.variant, self.candidate, self.change.name, self.fold is not None and f"fold {self.fold + 1}"]
        words = re.sub(r"[^\w.-]+", "-", " ".join(filter(None, [*map(str, filter(None, parts)), f"seed {self.seed}"])))
        return f"{words[:80]}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Study:
    """
    A study.

    Args:
        variants: the rows of the table, in order.
        arguments: of `clcr train`, for all runs. `{seed}` in one stands for the run's seed.
        reference: the variant that others are compared with; the first when left out.
        seeds: each run is done with each.
        folds: `column` and `number`: each fold of the groups that the column names is the test split once, and
            validation is carved from the others by whole groups. Without it the data's own splits hold.
        changes: of data or settings, by kind; each is one condition beside the data as they are.
        metric: the one that is compared; left out: mae of scores, accuracy of classes, map of several labels.
        workers: runs at a time.
        features: what is extracted, once, to be the data of all runs.
    """

    variants: tuple[Variant, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    folds: Mapping[str, Any] | None = None
    changes: tuple[Change, ...] = (Change(),)
    metric: str | None = None
    workers: int = 1
    features: FeaturesWanted | None = None

    @property
    def first(self) -> str:
        """The variant that others are compared with."""
        return self.reference or self.variants[0].name

    def choices(self) -> list[Run]:
        """The runs by which candidates are chosen, with the first seed on the data as they are."""
        return [
            self._run(each, self.seeds[0], fold, Change(), name)
            for each in self.variants
            for name in each.candidates
            for fold in self._folds()
        ]

    def runs(self, chosen: Mapping[tuple[str, int | None], str]) -> list[Run]:
        """The runs that are compared. `chosen`: the candidate of each variant and fold that has some."""
        return [
            self._run(each, seed, fold, change, chosen.get((each.name, fold)), final=True)
            for seed in self.seeds
            for change in self.changes
            for each in self.variants
            if self.applies(change, each)
            for fold in self._folds()
        ]

    def applies(self, change: Change, variant: Variant) -> bool:
        """Whether a variant is run under a condition: another budget is none for a model without one."""
        return not change.of_settings or _has_budget(variant.model, {**self.arguments, **variant.arguments})

    def _folds(self) -> list[int | None]:
        return [None] if self.folds is None else list(range(self.folds["number"]))

    def _run(
        self, variant: Variant, seed: int, fold: int | None, change: Change, name: str | None, final: bool = False
    ) -> Run:
        arguments = {**self.arguments, **variant.arguments, **(variant.candidates[name] if name else {})}
        arguments = filled(arguments, "seed", seed)
        return Run(
            variant.name,
            seed,
            fold,
            change,
            None if final else name,
            change.settings(arguments),
            variant.model,
            variant.join,
            self.folds,
        )


def read_study(path: str | Path) -> Study:
    """
    The study that a YAML or JSON file states.

    Raises:
        ValueError: not such a file; names that mean nothing, the nearest one said; a variant, seed, fold or change that
            cannot be; arguments that `clcr train` refuses.
    """
    content, where = read_recipe(str(path)), f"the study {path}"
    known = {each.name for each in fields(Study)} - {"changes"} | CHANGES.keys()
    _refuse_unknown(where, content, known)
    variants = content.get("variants")
    if not isinstance(variants, Mapping) or not variants:
        raise ValueError(f"{where}: variants must name one or more, as in `variants: {{clcr: {{}}}}`")
    changes = [Change(), *(found for kind in CHANGES for found in Change.read(where, kind, content.get(kind)))]
    seeds = content.get("seeds", [0, 1, 2, 3, 4])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(each, int) for each in seeds):
        raise ValueError(f"{where}: seeds must be a list of whole numbers, got {seeds!r}")
    features, arguments = content.get("features"), _mapping(where, "arguments", content.get("arguments"))
    if features is not None:
        features = FeaturesWanted.read(where, _mapping(where, "features", features))
        named = [name for name in _DATA if name in arguments]
        if named:
            raise ValueError(f"{where}: the features are the data of all runs: leave out {', '.join(named)}")
        arguments = {**SHARDS, **arguments}
    study = Study(
        tuple(_variant(where, str(name), given) for name, given in variants.items()),
        arguments,
        content.get("reference"),
        tuple(seeds),
        _folds(where, content.get("folds")),
        tuple(changes),
        content.get("metric"),
        content.get("workers", 1),
        features,
    )
    names = [each.name for each in study.variants]
    if study.first not in names:
        raise ValueError(f"{where}: the reference {study.first!r} is none of the variants {', '.join(names)}")
    if not isinstance(study.workers, int) or study.workers < 1:
        raise ValueError(f"{where}: workers must be a whole number from 1, got {study.workers!r}")
    for change in study.changes:
        if not any(study.applies(change, each) for each in study.variants):
            raise ValueError(f"{where}: {change.kind}: no variant has a token budget")
    for run in {each.variant: each for each in [*study.choices(), *study.runs({})]}.values():
        words_of(run, "unused", where)
    return study


def filled(arguments: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Arguments in which `value` stands for `{name}`."""
    return {
        key: given.replace(f"{{{name}}}", str(value)) if isinstance(given, str) else given
        for key, given in arguments.items()
    }


def words_of(run: Run, output_dir: str, where: str) -> tuple[Any, Any, Any]:
    """Model, data and training arguments of a run, as `clcr train` has them; ValueError names the variant."""
    fixed = {"output_dir": output_dir, "seed": run.seed, "disable_tqdm": True, "report_to": "none"}
    fixed |= {"do_predict": run.candidate is None}
    words = [word for name, value in {**run.arguments, **fixed}.items() for word in as_words(name, value)]
    try:
        found = parse_args(words)
        if run.folds and found[0].pretrain_epochs and found[1].loader_options().get("missing_labels") == "drop":
            raise ValueError("rows without a label are in no fold, and cannot take part in --pretrain_epochs")
        if run.folds and found[1].group_column is None and "group_column" in used_arguments(str(found[1].dataset)):
            found[1].group_column = run.folds["column"]  # what folds keep together, the linear model does too
        if found[1].streaming and (run.folds or run.change.of_data or run.model in LINEAR):
            raise ValueError("folds, changes of the data and linear models want rows in memory: leave out --streaming")
    except ValueError as error:
        raise ValueError(f"{where}: variant {run.variant!r}: {error}") from error
    return found


def _variant(where: str, name: str, given: Any) -> Variant:
    where = f"{where}: variant {name!r}"
    given = dict(_mapping(where, "it", given))
    own = {key: given.pop(key) for key in ("model", "join", "candidates") if key in given}
    model = own.get("model")
    if model not in (None, *LINEAR, *FUSIONS) and ":" not in str(model):
        known = ", ".join((*LINEAR, *FUSIONS))
        raise ValueError(f"{where}: model must be one of {known}, or your own fusion as module:class, got {model!r}")
    if own.get("join", "joint") not in JOINS:
        raise ValueError(f"{where}: join must be one of {', '.join(JOINS)}, got {own['join']!r}")
    if "join" in own and model not in LINEAR:
        raise ValueError(f"{where}: join says how a linear model reads several modalities; say which with model")
    candidates = _mapping(where, "candidates", own.pop("candidates", None))
    found = {str(key): _mapping(where, f"candidate {key!r}", value) for key, value in candidates.items()}
    return Variant(name, given, candidates=found, **own)


def _has_budget(model: str | None, arguments: Mapping[str, Any]) -> bool:
    """Whether a token budget decides anything: CLCR's, of a new model of several modalities whose tokens cross."""
    named = arguments.get("modalities")
    alone = isinstance(named, str) or (isinstance(named, list) and len(named) == 1)
    if model is not None or arguments.get("model_name_or_path") or alone:
        return False
    fields = {**ABLATIONS.get(arguments.get("ablation") or "", {}), **overrides(arguments)}
    exchanges = fields.get("use_joint_path", True) and fields.get("use_intraced", True)
    return bool(exchanges) and not fields.get("dense_budget", False)


def _folds(where: str, given: Any) -> Mapping[str, Any] | None:
    if given is None:
        return None
    found = _mapping(where, "folds", given)
    _refuse_unknown(f"{where}: folds", found, {"column", "number"})
    number = found.get("number")
    if not isinstance(found.get("column"), str) or not isinstance(number, int) or number < 2:
        raise ValueError(f"{where}: folds needs a column and a number from 2, got {dict(found)}")
    return found


def _mapping(where: str, what: str, given: Any) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"{where}: {what} must be names with values, got {given!r}")
    return given or {}


def _refuse_unknown(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise ValueError(f"{where}: {unknown[0]} means nothing{did_you_mean(unknown[0], known)}")


__all__ = ["Run", "Study", "Variant", "filled", "read_study", "words_of"]
