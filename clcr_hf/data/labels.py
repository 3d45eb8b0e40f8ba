"""What the columns of a data set hold: which one each modality is read from, and what the labels are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, List

from ..modalities import FEATURES_END, STANDARD_MODALITIES, in_features, modality
from .columns import IGNORED
from .streamed import StreamedRows, some_at_a_time


@dataclass
class LabelKind:
    """
    What the labels of a data set are: a problem type of transformers, names, one a clip or one a segment.

    Args:
        names: of the classes or scores; None for one score without a name.
        label_scale, label_range: of scores, as in `CLCRConfig`.
    """

    problem_type: str
    names: list[str] | None
    per_segment: bool
    label_scale: str | None = None
    label_range: list | None = None

    @property
    def num_labels(self) -> int:
        """Outputs that a model needs."""
        return 1 if self.names is None else len(self.names)


def label_kind(
    splits: DatasetDict,
    names: Sequence[str] | None = None,
    scores: bool = False,
    label_scale: str | None = None,
    label_range: Sequence | None = None,
) -> LabelKind:
    """
    Reads the kind of labels off the column's type: floats mean regression, classes one label, lists of floats several
    labels (or `scores`); `labels` (a sequence) one class a segment.

    Args:
        names: names of several labels or scores; their numbers when left out.
        scores: whether lists of floats are scores (regression).
        label_scale: "sentiment" where a score runs from negative to positive.
        label_range: limits of the scores; when left out those of the training labels. On the scale of sentiment these
            are widened to whole numbers alike on both sides, and to [-3, 3] (from more than 1).

    Raises:
        ValueError: no column of labels, or a float for each segment, which no head of ours learns; a scale of sentiment
            for several scores.
    """
    train = next(iter(splits.values()))
    if "label" in train.features:
        kind = train.features["label"]
        if isinstance(kind, ClassLabel):
            return LabelKind("single_label_classification", list(kind.names), False)
        if is_multi_label(splits):
            count = len(train["label"][0])
            if names is not None and len(names) != count:
                raise ValueError(f"{len(names)} names for {count} labels: {', '.join(names)}")
            named = list(names or map(str, range(count)))
            if not scores:
                return LabelKind("multi_label_classification", named, False)
            if label_scale is not None:
                raise ValueError(f"label_scale={label_scale!r} is for one score a row; the data have {count}")
            return LabelKind("regression", named, False, None, _limits(train, None, label_range))
        own = None if label_scale is not None or not names else list(names)
        return LabelKind("regression", own, False, label_scale, _limits(train, label_scale, label_range))
    if "labels" not in train.features:
        raise ValueError(
            f"the data hold no labels; their columns are {train.column_names}. Give them in a table of clips, or put "
            "the clips into a folder for each class"
        )
    kind = train.features["labels"].feature
    if isinstance(kind, ClassLabel):
        return LabelKind("single_label_classification", list(kind.names), True)
    if "float" in str(kind.dtype):
        raise ValueError("one float a segment cannot be learned; name an array of classes with --label_column")
    found = {int(value) for split in splits.values() for row in split["labels"] for value in row if value != IGNORED}
    return LabelKind("single_label_classification", [str(value) for value in range(max(found) + 1)], True)


def _limits(train: Dataset, label_scale: str | None, given: Sequence | None) -> list | None:
    """`label_range` of `CLCRConfig`: as given, or from the training labels."""
    if given is not None:
        return [list(pair) if isinstance(pair, list | tuple) else float(pair) for pair in given]
    parts = [np.array(part, dtype=np.float64) for part in some_at_a_time(v for v in train["label"] if v is not None)]
    if not parts:
        return None
    lowest = np.min([part.min(axis=0) for part in parts], axis=0)
    highest = np.max([part.max(axis=0) for part in parts], axis=0)
    if label_scale is not None:
        widest = max(abs(lowest), abs(highest))
        limit = 1.0 if widest <= 1 else max(3.0, float(np.ceil(widest)))
        return [-limit, limit]
    if not np.all(lowest < highest):  # a score that never changes has no range
        return None
    return np.stack([lowest, highest], axis=-1).tolist()


def is_multi_label(splits: DatasetDict) -> bool:
    """Whether a row has several labels."""
    return isinstance(next(iter(splits.values())).features.get("label"), List)


def modality_columns(
    available: Collection[str], modalities: Sequence[str] | None = None, raw: Collection[str] = ()
) -> dict[str, str]:
    """
    The column that each modality is read from.

    Ready features go first, then token ids, then raw text and media; `images` before `video` before `media`. A modality
    of a user's own name has ready features alone.

    Args:
        available: columns of the data.
        modalities: those wanted; None for all that the data hold.
        raw: modalities with a backbone, for which token ids and raw columns go before features.

    Raises:
        ValueError: a wanted modality without a column, or none at all.
    """
    found = {}
    for name in (*STANDARD_MODALITIES, *in_features(available)) if modalities is None else modalities:
        each = modality(name)
        ready, rest = [each.features], [*each.tokens[:1], *each.columns]
        choices = rest + ready if name in raw else ready + rest
        column = next((column for column in choices if column in available), None)
        if column is not None:
            found[name] = column
        elif modalities is not None:
            advice = f"leave {name} out of --modalities" + (", or pass --compute_flow True" if name == "flow" else "")
            raise ValueError(
                f"the data have no column for {name} ({', '.join(choices)}): {advice}; "
                f"they have {', '.join(sorted(available))}"
            )
    if not found:
        raise ValueError(f"no column of the data holds a modality; they have {', '.join(sorted(available))}")
    return found


def filled_columns(splits: DatasetDict) -> list[str]:
    """Columns of the first split of which some row is not None."""
    rows = next(iter(splits.values()))
    if isinstance(rows, StreamedRows):
        return rows.filled_columns()
    return [name for name in rows.column_names if rows.data.column(name).null_count < len(rows.data)]


def is_raw(column: str) -> bool:
    """Whether a column holds text or files, which a processor has to read, rather than numbers."""
    return not column.endswith(FEATURES_END) and column != "input_ids"


def feature_shapes(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """
    Shape of each modality's features in the columns `<modality>_features`: `(T, D)` or `(L, T, D)`, of the first row
    that has any; a modality that no row has is left out.
    """
    shapes = {}
    for name in (name for name in dataset.column_names if name.endswith(FEATURES_END)):
        rows = dataset.select_columns([name])
        first = next((np.asarray(row[name]) for row in rows if row[name] is not None and len(row[name])), None)
        if first is not None:
            shapes[name.removesuffix(FEATURES_END)] = first.shape
    return shapes
