"""Predictions as a table: which columns, a file that survives a kill, and the formats."""

import csv
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.folders import claim, read_json, release, replacing, versions, write_json
from ..data.table.read import Table, read_rows
from ..explain.decision import BIAS, JOINT, evidence_for
from ..onnx_graph import weights_digest

TABLE_FORMATS = (".csv", ".jsonl", ".parquet")
Row = dict[str, Any]
_BATCH_ROWS = 1024
# Parts of an answer that are dicts, and how the columns of their entries begin.
_BY_NAME = {name: name.removesuffix("s") for name in ("scores", "modality_weights", "private_gates")}
_BY_NAME["probabilities"] = "probability"


# -- columns and rows --------------------------------------------------------------------------------------------------


def column_types(config: Any, *, per_segment: bool = False, windows: bool = False) -> dict[str, type]:
    """Columns of the predictions of a model and their types, from its configuration. `per_segment`: of a model that
    labels segments; `windows`: of recordings in windows."""
    columns: dict[str, type] = {"id": str, "path": str}
    if per_segment:
        columns["segment"] = int
    if windows or per_segment:
        columns |= {"start": float, "end": float}
    if windows:
        columns["text"] = str
    names = [config.id2label[index] for index in range(config.num_labels)]
    problem = config.effective_problem_type
    if problem == "regression" and config.num_labels > 1:
        columns |= {f"score_{name}": float for name in names}
    else:
        columns |= {"score": float, "label": str}
    if problem == "regression" and config.score_interval:
        ends = [""] if config.num_labels == 1 else [f"_{name}" for name in names]
        columns |= {f"interval_{side}{end}": float for end in ends for side in ("low", "high")}
    if problem == "multi_label_classification":
        columns["labels"] = str
    if problem != "regression":
        columns |= {f"probability_{name}": float for name in names}
    if config.use_joint_path:
        columns |= {f"level_weight_{level}": float for level in range(1, config.effective_num_levels + 1)}
        for kind in ("modality_weight", "private_gate"):
            columns |= {f"{kind}_{name}": float for name in config.modalities}
    if config.has_modality_logits:
        scores = names if problem == "regression" and config.num_labels > 1 else [None]
        parts = [*config.modalities, JOINT, BIAS]
        columns |= {_evidence_column(part, score): float for score in scores for part in parts}
    return {**columns, "error": str}


def result_rows(name: str, path: str | None, result: Mapping[str, Any]) -> list[Row]:
    """The rows of one result of the pipeline, read with `top_k` of all labels: one, or one for each segment."""
    window = {key: result[key] for key in ("start", "end", "text") if key in result}
    head = {"id": name, "path": path, **window}
    if "segments" not in result:
        return [{**head, **_flat(result)}]
    rows = []
    for index, part in enumerate(result["segments"]):
        times = {key: part.get(key) for key in ("start", "end")}
        rows.append({**head, "segment": part.get("index", index), **times, **_flat(part)})
    return rows


def _flat(result: Mapping[str, Any]) -> Row:
    row = {key: result[key] for key in ("score", "label", "error") if key in result}
    spans = {f"_{name}": span for name, span in result.get("intervals", {}).items()}
    spans |= {"": result["interval"]} if "interval" in result else {}
    for end, (low, high) in spans.items():
        row |= {f"interval_low{end}": low, f"interval_high{end}": high}
    if "labels" in result:
        row["labels"] = "|".join(result["labels"])
    row |= {f"level_weight_{level}": weight for level, weight in enumerate(result.get("level_weights", ()), 1)}
    for key, column in _BY_NAME.items():
        row |= {f"{column}_{name}": value for name, value in result.get(key, {}).items()}
    if "modality_logits" in result:
        names = result.get("scores", [result.get("label", "")])
        for name in names:
            parts = evidence_for(result, name).items()
            row |= {_evidence_column(part, name if "scores" in result else None): value for part, value in parts}
    return row


def _evidence_column(part: str, score: str | None = None) -> str:
    """Name of the column of what a part adds to the answer, or to one of several scores."""
    return "_".join(filter(None, ("evidence", {JOINT: "joint", BIAS: "bias"}.get(part, part), score)))


# -- one model, one input ----------------------------------------------------------------------------------------------


def model_digest(model: Any, processor: Any) -> str:
    """A digest of a model's weights and settings: another model, another digest."""
    found = hashlib.sha256()
    for part in (model.config, processor):
        content = {key: value for key, value in part.to_dict().items() if not key.startswith(("_", "transformers_"))}
        found.update(json.dumps(content, sort_keys=True, default=str).encode())
    found.update(weights_digest(model).encode())
    return found.hexdigest()[:16]


# -- the file ----------------------------------------------------------------------------------------------------------


class PredictionFile:
    """
    A table of predictions that survives a kill. While it grows, its rows are kept in `<path>.partial`, a line a batch;
    what a killed run left there is kept, but for a line that is not whole. `finish` writes the table, whole or not at
    all, and `<path>.json`, the record of what it was made of.

    Args:
        path: the table; its suffix says the format (`TABLE_FORMATS`).
        identity: what the rows are made of: model, input, settings. A file of another identity is refused.
        columns: of `column_types`.
        about: what the record says besides.

    Attributes:
        done: how many inputs have their rows already.
        complete: whether the table is there already.

    Raises:
        ValueError: another format; a table, or the beginning of one, that was made of something else.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        identity: Mapping[str, Any],
        columns: Mapping[str, type],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.identity, self.columns = Path(path), dict(identity), dict(columns)
        self.about = dict(about or {})
        if self.path.suffix.lower() not in TABLE_FORMATS:
            raise ValueError(f"{self.path}: a table of predictions ends in {', '.join(TABLE_FORMATS)}")
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.record = self.path.with_name(self.path.name + ".json")
        self.done = 0
        self.complete = self.path.exists()
        if self.complete:
            self._check(read_json(self.record))
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._continue()

    def _continue(self) -> None:
        """Takes up what an earlier run left, up to its last whole line."""
        begun = self.partial.exists() and self.partial.stat().st_size > 0
        self._lock = claim(self.path, f"{self.partial}.lock")
        self._file = open(self.partial, "ab+")  # noqa: SIM115
        self._file.seek(0)
        whole = 0
        for line in self._file:
            content = _loads(line)
            if content is None:
                break
            if whole == 0:
                self._check(content)
            else:
                self.done += content["inputs"]
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)
        if not begun or whole == 0:
            self._line(self.identity)

    def _check(self, found: Mapping[str, Any] | None) -> None:
        if found is None:
            raise ValueError(f"{self.path} is there already and no prediction of ours; choose another --output")
        for key, value in self.identity.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{self.path} was begun with another {key} ({_short(found.get(key))} there, {_short(value)} here); "
                    "choose another --output, or delete it"
                )

    def add(self, rows: Sequence[Sequence[Row]]) -> None:
        """The rows of some more inputs, as one line: they are all there after a kill, or none of them."""
        self._line({"inputs": len(rows), "rows": [row for each in rows for row in each]})
        self.done += len(rows)

    def _line(self, content: Any) -> None:
        self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def rows(self) -> Iterator[Row]:
        """All rows so far, in order."""
        if self.complete:
            for row in read_rows(Table(self.path)):
                if self.path.suffix.lower() == ".csv":  # whose cells are all texts, and whose names are stripped
                    cells = {name: row[name.strip()] for name in self.columns}
                    row = {name: self.columns[name](cell) if cell else None for name, cell in cells.items()}
                yield row
            return
        with open(self.partial, "rb") as file:
            next(file)
            for line in file:
                yield from ({name: row.get(name) for name in self.columns} for row in json.loads(line)["rows"])

    def finish(self) -> dict[str, int]:
        """Writes the table and its record; returns how many rows it has, and how many of them have an error."""
        if self.complete:
            record = read_json(self.record) or {}
            return {name: record[name] for name in ("rows", "errors")}
        counts = {"rows": 0, "errors": 0}

        def counted() -> Iterator[Row]:
            for row in self.rows():
                counts["rows"] += 1
                counts["errors"] += row["error"] is not None
                yield row

        with replacing(self.path) as draft:
            _WRITERS[self.path.suffix.lower()](draft, counted(), self.columns)
            made_by = versions("clcr-hf", "torch", "transformers")
            write_json(self.record, {**self.about, **self.identity, **counts, "versions": made_by})
        self.close()
        self.partial.unlink()
        self.complete = True
        return counts

    def close(self) -> None:
        """Leaves the file as it is, to be continued."""
        if not self.complete:
            self._file.close()
            release(self._lock)


def _loads(line: bytes) -> dict[str, Any] | None:
    """A whole line of the file; None for one that a kill cut off."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"


# -- formats -----------------------------------------------------------------------------------------------------------


def _write_csv(path: Path, rows: Iterator[Row], columns: Mapping[str, type]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, rows: Iterator[Row], columns: Mapping[str, type]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, rows: Iterator[Row], columns: Mapping[str, type]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), float: pa.float64(), int: pa.int64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(rows, _BATCH_ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema))


_WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
