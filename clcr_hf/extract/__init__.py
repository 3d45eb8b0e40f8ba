"""`clcr extract`: features of clips by pretrained backbones, written as shards that training reads.

Run on one machine as `clcr extract`, on several processes as `torchrun -m clcr_hf.extract` or
`accelerate launch -m clcr_hf.extract` with the same arguments: process r takes the clips i with i % processes == r.
See docs/extract.md.
"""


import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import DatasetDict

from ..data.shards import ROWS_PER_SHARD
from .clips import read_ahead
from .output import RECORD, FailureList, ShardSet, claim, done_ids, finish
from .run import AUDIO_RATE, Extractor, ExtractSettings, Readers
from .sources import Clip, open_source

# Processes that finish early wait for the others at the end.
_PATIENCE = timedelta(days=14)


def extract_features(
    source: str | os.PathLike[str] | DatasetDict,
    out: str | os.PathLike[str],
    *,
    text: str | None = None,
    vision: str | None = None,
    audio: str | None = None,
    taps: str | Sequence[int] = "auto",
    num_levels: int = 3,
    fps: float | None = None,
    num_frames: int | None = None,
    token_grid: int = 1,
    audio_rate: float | None = AUDIO_RATE,
    window_seconds: float | None = None,
    opensmile: bool | str = False,
    opensmile_window: float = 1.0,
    transcribe: str | None = None,
    language: str | None = None,
    align: str | None = None,
    layout: str | None = None,
    layout_options: Mapping[str, Any] | None = None,
    split: str = "train",
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    task: str = "auto",
    keep_columns: Sequence[str] = (),
    batch_size: int = 64,
    num_workers: int = 2,
    device: str | None = None,
    dtype: str = "float32",
    rows_per_shard: int = ROWS_PER_SHARD,
    limit: int | None = None,
    retry_failed: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Reads clips, runs frozen backbones over them, and writes their features as shards.

    Stopped at any point, it goes on where it was when called again; with another number of processes too. Clips that
    cannot be read are skipped and listed in `failures-<process>.jsonl`.

    Args:
        source: a folder of clips, a table of clips, a benchmark's folder (with `layout`), or loaded rows; it and
            `layout`, `layout_options`, `split`: see [`~clcr_hf.extract.sources.open_source`].
        label_column, label_names, label_separator, task, keep_columns: of a table, see `load_manifest`.
        out: folder of the shards; made when absent.
        text, vision, audio: hub name or local folder of a transformers backbone for transcripts, frames, sound.
        taps: "auto" or "early-middle-late" (`num_levels` layers evenly spaced up to the last), a list of layers (0 is
            the embedding), or "last": the last layer alone, features without an axis of levels.
        num_levels: see `taps`; the `num_levels` of the model that will read the features.
        fps, num_frames: frames taken a second, or of a clip; by default 16 of each clip (or as many as a backbone
            that reads clips takes).
        token_grid: tokens of a frame, `token_grid ** 2`.
        audio_rate: tokens of sound a second, each the mean of what the backbone gives in its 1 / audio_rate seconds.
            None keeps the backbone's own.
        window_seconds: longest stretch of sound read at a time; by default what the backbone reads (30 s Whisper,
            10.2 s AST), 20 s for others.
        opensmile: "lld" (or True) or "functionals" of eGeMAPS; the latter one for each `opensmile_window` seconds. They
            are `audio_features`, or `egemaps_features` beside an `audio` backbone.
        transcribe: a speech recogniser for clips without text, hub name or folder; `language` is for Whisper.
        align: "words" for one token a word in every modality; needs word times, of the rows or of the recogniser.
        batch_size: frames, seconds of sound or texts in one forward pass. Memory grows with it and with nothing else.
        num_workers: threads that decode.
        device: "cpu", "cuda", ...; by default this process's GPU, or the CPU.
        dtype: of the backbones: float32, float16, bfloat16. Features are written as float32.
        rows_per_shard: a run that is killed loses what it did since its last shard.
        limit: only the first so many clips.
        retry_failed: try the clips again that failed before.
        progress: show a bar.

    Returns:
        What `extract.json` holds: `settings`, `source`, `label_names` (of several labels), `columns` (layers, widths),
        `versions`, `counts` (rows by split, failed clips, and rows that lack something, by reason).

    Raises:
        ValueError: settings that contradict each other.
        DataFormatError: no clips, `out` holds features of other settings, or the first clips all fail alike, which is a
            setting's fault.
        OSError: no such model, or a full disk.
        ImportError: an extra that is not installed.
    """
    smile = "lld" if opensmile is True else opensmile or None
    settings = ExtractSettings(
        text=text,
        vision=vision,
        audio=audio,
        taps="early-middle-late" if taps == "auto" else taps if isinstance(taps, str) else list(taps),
        num_levels=num_levels,
        fps=fps,
        num_frames=num_frames,
        token_grid=token_grid,
        audio_rate=audio_rate,
        window_seconds=window_seconds,
        opensmile=smile,
        opensmile_window=opensmile_window,
        transcribe=transcribe,
        language=language,
        align=align,
        dtype=dtype,
    )
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size is {batch_size} and num_workers {num_workers}; at least 1 and 0 are wanted")
    state = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    clips = open_source(
        source,
        layout=layout,
        layout_options=layout_options,
        split=split,
        label_column=label_column,
        label_names=label_names,
        label_separator=label_separator,
        task=task,
        keep_columns=keep_columns,
    )
    folder = Path(out)
    with state.main_process_first():  # a download by one process is the others' cache
        # "cuda" is this process's GPU, not the first.
        own = device in (None, state.device.type)
        readers = Readers.load(settings, state.device if own else torch.device(str(device)))
    features = readers.features(clips)
    identity = {
        "source": clips.name,
        "settings": asdict(settings),
        "features": json.loads(json.dumps(features.to_dict())),
        "label_names": None if clips.label_names is None else list(clips.label_names),
    }
    claim(folder, identity, state)
    failures = FailureList(folder, state.process_index)
    skip = done_ids(folder) | (set() if retry_failed else failures.failed_ids())
    mine = (
        clip
        for index, clip in enumerate(islice(clips, limit))
        if index % state.num_processes == state.process_index and clip.id not in skip
    )
    total = clips.total and min(clips.total, limit or clips.total) // state.num_processes - len(skip)
    begin = time.perf_counter()
    with ShardSet(folder, features, state.process_index, rows_per_shard) as shards, failures:
        extractor = Extractor(settings, readers, shards, failures, batch_size)
        pieces = read_ahead(readers.clip_reader(settings), _with_bar(mine, total, progress, state), num_workers)
        extractor.run(pieces)
    state.wait_for_everyone()
    summary: dict[str, Any] = {}
    if state.is_main_process:
        seconds = round(time.perf_counter() - begin, 1)
        summary = finish(folder, identity, readers.describe(), seconds, state.num_processes)
    state.wait_for_everyone()
    return summary or json.loads((folder / RECORD).read_text(encoding="utf-8"))


def _with_bar(clips: Iterable[Clip], total: int | None, progress: bool, state: PartialState) -> Iterable[Clip]:
    if not (progress and state.is_main_process):
        return clips
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    return tqdm(clips, total=total and max(total, 0), unit="clip", desc="extract")


