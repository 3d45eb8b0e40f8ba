"""What a source of rows is, and how one is found.

A benchmark is one file in `benchmarks/` that ends in its `Source`, and one line in `registry.py`. Training, `clcr
convert` and `clcr extract` then know it by its name (`--dataset`), with the options that its reader takes.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Features

from .arrow import gather_rows
from .columns import DataFormatError
from .files import find_file
from .registry import HOMES

Row = dict[str, Any]


@dataclass
class Rows:
    """
    Rows of a source that was opened.

    Args:
        features: types of the columns.
        stream: called for a fresh iterator of (split, row), in the same order each time.
        total: how many rows, where that is known beforehand.
        label_names: names of several labels or scores, whose column cannot hold them.
        scores: whether several numbers a row are scores (regression) and not classes.
        label_scale, label_range: what one score means and its limits, as of `CLCRConfig`; None where the source does
            not say.
        splits: the same rows in memory, where they are there already.
        title: what people call the data; empty for the title of the source.
    """

    features: Features
    stream: Callable[[], Iterator[tuple[str, Row]]]
    total: int | None = None
    label_names: Sequence[str] | None = None
    scores: bool = False
    label_scale: str | None = None
    label_range: Sequence[float] | None = None
    splits: DatasetDict | None = None
    title: str = ""

    @classmethod
    def of(cls, splits: DatasetDict, **more: Any) -> "Rows":
        """Rows that are in memory."""
        return cls(
            next(iter(splits.values())).features if splits else Features(),
            lambda: ((split, row) for split in splits for row in splits[split]),
            sum(map(len, splits.values())),
            splits=splits,
            **more,
        )

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        return self.stream()

    @property
    def about_labels(self) -> dict[str, Any]:
        """What the rows' columns cannot hold of their labels, as records of conversion and extraction keep it."""
        names = None if self.label_names is None else list(self.label_names)
        limits = None if self.label_range is None else list(self.label_range)
        found = {"scores": self.scores, "label_scale": self.label_scale, "label_range": limits}
        return {"label_names": names, **{name: value for name, value in found.items() if value}}

    def load(self) -> DatasetDict:
        """All rows in memory, by split; DataFormatError where there are none."""
        found = self.splits if self.splits is not None else gather_rows(self.features, self)
        if not found:
            raise DataFormatError(f"{self.title or 'the data'}: no rows are left; the warnings say why")
        return found


@dataclass(frozen=True)
class Source:
    """
    A source of rows.

    Args:
        about: one line for `--help`.
        read: called with the path and the options (its keyword-only parameters), gives a `DatasetDict`, [`Rows`], or
            an object with `features` that iterates over (split, row) and may have `total`, `label_names` and `title`.
        title: what people call the data, for the model card; `{option}` stands for the value of an option. Empty: the
            name of the file or folder.
        stream: as `read`, for `clcr convert` and `clcr extract` where whole rows should not be held in memory.
        parameters_of: further functions whose keyword-only parameters `read` takes as options.
        is_file: whether a file is read, rather than a folder.
        files: names of the file, looked for in order where a folder is given.
        recognise: whether what a path names is certainly of this kind; it looks at names alone.
        arguments: general arguments of training to the options that they are here, beside those of equal name.
        segments: whether `labels` of a row belong to stretches of equal length.
        label_scale: "sentiment" where scores run from negative to positive.
        label_range: limits of the scores, where the reader has no option `label_range`.
        generated: whether the rows are made by this package, so that no path is needed.
        by_name: whether what is read has a name, which need not be a path.
        name: what `--dataset` calls it, from the registry.
    """

    about: str
    read: Callable[..., Any]
    title: str = ""
    stream: Callable[..., Any] | None = None
    parameters_of: Sequence[Callable[..., Any]] = ()
    is_file: bool = False
    files: Sequence[str] = ()
    recognise: Callable[[Path], bool] = lambda path: False
    arguments: Mapping[str, str] = field(default_factory=dict)
    segments: bool = False
    label_scale: str | None = None
    label_range: tuple[float, float] | None = None
    generated: bool = False
    by_name: bool = False
    name: str = ""

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Options of the reader by name, with type and default."""
        return {
            name: parameter
            for function in (self.read, *self.parameters_of)
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }

    def check(self, options: Mapping[str, Any]) -> None:
        """DataFormatError for an option that the reader does not have, or a value that is not of its type."""
        known = self.options
        unknown = [name for name in options if name not in known]
        if unknown:
            told = [f"{name} ({_type_name(each.annotation)}, {each.default!r})" for name, each in known.items()]
            raise DataFormatError(f"{self.name} has no option {unknown[0]!r}; it takes {', '.join(told) or 'none'}")
        for name, value in options.items():
            kind = known[name].annotation
            if kind is not inspect.Parameter.empty and not _fits(value, kind):
                raise DataFormatError(f"{self.name}: {name}={value!r}, but {name} is {_type_name(kind)}")

    def locate(self, path: str | PathLike[str]) -> Path:
        """The file to read: `path`, or the first of `files` in it where it is a folder."""
        place = Path(path)
        if not self.files or not place.is_dir():
            return place
        found = find_file(place, self.files)
        if found is None:
            raise DataFormatError(f"{place}: no {' or '.join(self.files)} here; name the file itself (--data_file)")
        return found

    def open(self, path: str | PathLike[str] | None, *, streaming: bool = False, **options: Any) -> Rows:
        """
        The rows of a file or folder.

        Args:
            path: what is read; None for a source that makes its rows.
            streaming: go by `stream`, where the source has it.
            options: of the reader.

        Raises:
            DataFormatError: an option that there is not, or as the reader.
        """
        self.check(options)
        if path is None and not self.generated:
            raise DataFormatError(f"{self.name} needs the {'file' if self.is_file else 'folder'} to read")
        place = None if path is None else self.locate(path)
        opened = (self.stream if streaming and self.stream is not None else self.read)(place, **options)
        rows = Rows.of(opened) if isinstance(opened, DatasetDict) else opened
        if not isinstance(rows, Rows):
            known = {name: getattr(opened, name) for name in ("total", "label_names", "title") if hasattr(opened, name)}
            rows = Rows(opened.features, lambda: iter(opened), **known)
        defaults = {name: parameter.default for name, parameter in self.options.items()}
        rows.label_scale = rows.label_scale or self.label_scale
        if rows.label_range is None and rows.label_scale is not None:
            rows.label_range = {**defaults, **options}.get("label_range", self.label_range)
        title = self.title.format(**{**defaults, **options})
        rows.title = rows.title or title or (place.resolve().name if place is not None else self.name)
        return rows


def find_source(name: str) -> Source:
    """The source of a name; DataFormatError where there is none."""
    if name not in HOMES:
        raise DataFormatError(f"dataset {name!r} is none of {', '.join(HOMES)}")
    module, _, attribute = HOMES[name].partition(":")
    return replace(getattr(import_module(f".{module}", __package__), attribute or "SOURCE"), name=name)


def recognise(path: str | PathLike[str]) -> str | None:
    """
    The kind of a file or folder where that is certain; None where it is not, or nothing is there.

    Raises:
        DataFormatError: two kinds are recognised.
    """
    place = Path(path)
    found = [name for name in HOMES if place.exists() and find_source(name).recognise(place)]
    if len(found) > 1:
        raise DataFormatError(f"{place} may be {' or '.join(found)}; say which with --dataset")
    return found[0] if found else None


def has_files(*names: str) -> Callable[[Path], bool]:
    """A recogniser of folders: all of these names (patterns) are in it."""
    return lambda path: path.is_dir() and all(next(path.glob(name), None) is not None for name in names)


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else re.sub(r"[\w.]*\.(?=\w)", "", str(kind))


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value, as JSON or text gave it, is of a type; paths are given as texts, tuples as lists."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in inside)
    if kind in (bool, int, float, str, types.NoneType):
        exact = isinstance(value, bool) == (kind is bool)
        return exact and isinstance(value, (int, float) if kind is float else kind)
    base = origin or kind
    if base is PathLike:
        return isinstance(value, (str, PathLike))
    if isinstance(base, type) and issubclass(base, Mapping):
        return isinstance(value, Mapping)
    if isinstance(base, type) and issubclass(base, Sequence):
        each = inside[0] if inside else Any
        return isinstance(value, (list, tuple)) and all(_fits(item, each) for item in value)
    return True
