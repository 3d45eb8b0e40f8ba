"""The run of `clcr extract`: the backbones loaded once, pieces of clips through them in batches, rows out."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import DatasetDict, Features
from datasets.utils import tqdm

from ..data.columns import DataFormatError
from ..data.folders import OutputFolder, check_writable, read_json
from ..data.shards import ShardSet
from .backbones import pool_to_rate
from .clips import CLIP_ERRORS, ClipReader, Piece, fault, read_ahead
from .output import FailureList, done_ids, finish
from .readers import Readers
from .rows import ClipTokens, make_row, row_features
from .settings import ExtractSettings
from .sources import Clip, ClipSource, open_source

# Processes that finish early wait for the others at the end.
_PATIENCE = timedelta(days=14)
# So many first clips that fail with one and the same message end the run.
_ALIKE = 20


# --- the run ---------------------------------------------------------------------------------------------------------


class Extractor:
    """Takes pieces as they come, runs the backbones over a batch of them, and writes each clip's row when it is
    complete."""

    def __init__(self, settings: ExtractSettings, readers: Readers, shards: ShardSet, failures: FailureList):
        self.settings, self.readers = settings, readers
        self.shards, self.failures = shards, failures
        self.open: ClipTokens | None = None  # the clip whose pieces are coming
        self.complaints: Counter[str] = Counter()  # of the clips that failed before the first row
        self.written = False

    def run(self, pieces: Iterable[Piece]) -> None:
        """Writes the rows of all clips whose pieces come, in order."""
        for group in self._grouped(pieces):
            _together(self._forward, [piece for piece in group if piece.error is None])
            complete = []
            for piece in group:
                self.open = self.open or ClipTokens(piece.clip)
                self.open.add(piece)
                if piece.last:
                    complete.append(self.open)
                    self.open = None
            self._write(complete)

    def _grouped(self, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
        """Pieces for one pass: together about `batch_size` frames or seconds of audio."""
        group: list[Piece] = []
        size = 0.0
        for piece in pieces:
            group.append(piece)
            size += max(1.0, len(piece.frame_times), piece.sound_seconds)
            if size >= self.settings.batch_size:
                yield group
                group, size = [], 0.0
        if group:
            yield group

    def _forward(self, pieces: list[Piece]) -> None:
        """Gives pieces their tokens."""
        vision, audio, rate = self.readers.vision, self.readers.audio, self.settings.audio_rate
        seen = [piece for piece in pieces if piece.pixels is not None]
        if vision is not None and seen:
            counts = [len(piece.frame_times) for piece in seen]
            found = vision.read([piece.pixels for piece in seen], counts, self.settings.batch_size)
            for piece, taps in zip(seen, found, strict=True):
                piece.tokens["vision"] = taps, vision.intervals(piece.frame_times, piece.frames_end, piece.longest)
        heard = [piece for piece in pieces if piece.sound is not None]
        if audio is not None and heard:
            longest = audio.max_seconds or max(piece.sound_seconds for piece in heard)
            at_once = max(1, int(self.settings.batch_size / max(longest, 1.0)))
            found = audio.forward_items([piece.sound for piece in heard], at_once)
            for piece, taps in zip(heard, found, strict=True):
                step = audio.step_seconds(taps.shape[1], piece.sound_seconds)
                piece.tokens["audio"] = pool_to_rate(taps, step, rate, **piece.sound_span)
        for piece in pieces:
            if piece.smile is not None:
                features, step = piece.smile
                piece.tokens[self.readers.smile_name] = pool_to_rate(features[None], step, rate, **piece.sound_span)
            if piece.speech is not None and self.readers.recogniser is not None:
                piece.transcript = self.readers.recogniser(piece.speech)

    def _write(self, clips: list[ClipTokens]) -> None:
        if self.readers.text is not None:
            _together(self._read_texts, [clip for clip in clips if clip.error is None and clip.text()])
        for clip in clips:
            try:
                if clip.error is not None:
                    raise clip.error
                row = make_row(clip, self.shards.features, self.settings.align == "words")
            except CLIP_ERRORS as error:
                self._fail(clip.clip, error)
                continue
            try:
                self.shards.write(clip.clip.split, row)
            except DataFormatError as error:  # not OSError: a full disk ends the run
                self._fail(clip.clip, error)
                continue
            self.written = True
            self._note_lacks(clip, row)

    def _read_texts(self, clips: list[ClipTokens]) -> None:
        """Gives clips the tokens of their texts."""
        assert self.readers.text is not None
        found = self.readers.text.read([clip.text() or "" for clip in clips], self.settings.batch_size)
        for clip, tokens in zip(clips, found, strict=True):
            clip.text_tokens = tokens

    def _fail(self, clip: Clip, error: Exception) -> None:
        """Lists a clip as failed. When the first ones all fail alike, a setting is at fault and not the clips: what is
        said of a file names it, and so differs."""
        self.failures.add(clip, error)
        if self.written:
            return
        self.complaints[f"{type(error).__name__}: {error}"] += 1
        (complaint, count), *others = self.complaints.most_common(2)
        if count >= _ALIKE and not others:
            raise DataFormatError(
                f"the first {count} clips all failed alike ({complaint}). Mend that, then run again with retry_failed"
            ) from error

    def _note_lacks(self, clip: ClipTokens, row: dict[str, Any]) -> None:
        for name in row:
            if name.endswith("_features") and row[name] is None:
                lacking = name.removesuffix("_features")
                why = f"the clip has no {lacking}; its column is empty"
                self.failures.note(clip.clip, f"No{lacking.capitalize()}", why)
        if clip.text_tokens is not None and clip.text_tokens.truncated and self.readers.text is not None:
            why = f"the text is longer than {self.readers.text.max_tokens} tokens; the rest is left out"
            self.failures.note(clip.clip, "TextTruncated", why)


def _together(step: Callable[[list[Any]], None], items: list[Any]) -> None:
    """Takes a step with all items at once. Where it fails, each is tried by itself, to find those at fault: their
    `error` then says what is wrong."""
    error = fault(step, items) if items else None
    for item in items if error is not None else ():
        item.error = error if len(items) == 1 else fault(step, [item])


# --- the whole -------------------------------------------------------------------------------------------------------


def extract_features(
    source: str | os.PathLike[str] | DatasetDict,
    out: str | os.PathLike[str],
    settings: ExtractSettings | None = None,
    *,
    progress: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Reads clips, runs frozen backbones over them, and writes their features as shards.

    Stopped at any point, it goes on where it was when called again; with another number of processes too. Clips that
    cannot be read are skipped and listed in `failures-<process>.jsonl`.

    Args:
        source: a folder of clips, a table of clips, a benchmark's folder (with `dataset`), or loaded rows; see
            [`~clcr_hf.extract.sources.open_source`].
        out: folder of the shards; made when absent.
        settings: all settings at once.
        progress: show a bar.
        options: settings by name, fields of [`ExtractSettings`], in place of `settings`.

    Returns:
        What `extract.json` holds: `settings`, `source`, `label_names` (of several labels), `columns` (layers, widths),
        `versions`, `counts` (rows by split, failed clips, and rows that lack something, by reason).

    Raises:
        ValueError: settings that contradict each other, or that this source does not use.
        TypeError: an option that is no setting.
        DataFormatError: no clips, `out` holds features of other settings or is being written, or the first clips all
            fail alike, which is a setting's fault.
        OSError: no such model, or a full disk.
        ImportError: an extra that is not installed.
    """
    chosen = settings or ExtractSettings(**options)
    if settings is not None and options:
        raise ValueError(f"give settings or {', '.join(options)}, not both")
    check_writable(out, folder=True)
    state = PartialState(cpu=chosen.device == "cpu", timeout=_PATIENCE)
    clips = open_source(source, **chosen.source_options())
    with state.main_process_first():  # a download by one process is the others' cache
        # "cuda" is this process's GPU, not the first.
        own = chosen.device in (None, state.device.type)
        readers = Readers.load(chosen, state.device if own else torch.device(str(chosen.device)))
    clips.made = list(readers.shapes())
    heard = readers.recogniser is not None
    words = heard or clips.has("words", "word_intervals")
    features = row_features(readers.shapes(), clips.kept, text=heard or clips.has("text"), words=words)
    task = {
        "source": clips.name,
        "settings": chosen.identity(),
        "features": json.loads(json.dumps(features.to_dict())),
        **clips.rows.about_labels,
    }
    folder = OutputFolder(out, "extract")
    folder.finished(task)
    state.wait_for_everyone()
    with folder.writing(task) if state.is_main_process else nullcontext():
        state.wait_for_everyone()
        begin = time.perf_counter()
        _write(folder.path, clips, features, chosen, readers, state, progress)
        state.wait_for_everyone()
        if state.is_main_process:
            seconds = round(time.perf_counter() - begin, 1)
            columns = {f"{name}_features": maker.about for name, maker in readers.makers().items()}
            finish(folder, task, columns, seconds, state.num_processes)
        state.wait_for_everyone()
    return read_json(folder.record) or {}


def _write(
    folder: Path,
    clips: ClipSource,
    features: Features,
    settings: ExtractSettings,
    readers: Readers,
    state: PartialState,
    progress: bool,
) -> None:
    """This process's share of the clips, as shards."""
    failures = FailureList(folder, state.process_index)
    skip = done_ids(folder) | (set() if settings.retry_failed else failures.failed_ids())
    mine = (
        clip
        for index, clip in enumerate(islice(clips, settings.limit))
        if index % state.num_processes == state.process_index and clip.id not in skip
    )
    most = clips.total and min(clips.total, settings.limit or clips.total) // state.num_processes - len(skip)
    shards = ShardSet(folder, features, rank=state.process_index, rows_per_shard=settings.rows_per_shard)
    with shards:
        hidden = not (progress and state.is_main_process)
        bar = tqdm(mine, total=most and max(most, 0), unit="clip", desc="extract", disable=hidden)
        pieces = read_ahead(ClipReader(readers, settings), bar, settings.num_workers)
        Extractor(settings, readers, shards, failures).run(pieces)
