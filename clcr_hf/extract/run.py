"""The run of `clcr extract`: the backbones loaded once, pieces of clips through them in batches, rows out."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import DatasetDict, Features

from ..data.columns import DataFormatError
from ..data.folders import OutputFolder, read_json
from ..data.shards import ShardSet
from ..faces import allow_detector, find_detector
from .backbones import AudioBackbone, TextBackbone, TextTokens, VisionBackbone, pool_to_rate
from .clips import CLIP_ERRORS, DEVICE_ERRORS, ClipReader, Piece, read_ahead
from .output import FailureList, done_ids, finish
from .rows import ClipTokens, make_row, row_features
from .settings import ExtractSettings
from .sources import Clip, ClipSource, open_source
from .speech import OpenSmile, SpeechRecogniser

# Processes that finish early wait for the others at the end.
_PATIENCE = timedelta(days=14)
# Settings of the reader of clips.
_READING = ("fps", "num_frames", "face_crop", "window_seconds", "audio_rate")
# So many first clips that fail with one and the same message end the run.
_ALIKE = 20


# --- the models ------------------------------------------------------------------------------------------------------


@dataclass
class Readers:
    """All that reads a clip, loaded once."""

    text: TextBackbone | None = None
    vision: VisionBackbone | None = None
    audio: AudioBackbone | None = None
    smile: OpenSmile | None = None
    recogniser: SpeechRecogniser | None = None

    @classmethod
    def load(cls, settings: ExtractSettings, device: torch.device) -> "Readers":
        """The models that the settings name, on `device`."""
        dtype = getattr(torch, settings.dtype)
        options: dict[str, Any] = {"taps": settings.taps, "num_levels": settings.num_levels}
        options |= {"device": device, "dtype": dtype}
        readers = cls()
        if settings.text:
            readers.text = TextBackbone(settings.text, **options)
        if settings.face_crop is not None:
            allow_detector(settings.face_crop)
            find_detector(settings.face_crop)  # what is not installed is said at once
        if settings.vision:
            readers.vision = VisionBackbone(settings.vision, token_grid=settings.token_grid, **options)
        if settings.audio:
            readers.audio = AudioBackbone(settings.audio, **options)
        if settings.opensmile:
            readers.smile = OpenSmile(settings.opensmile_level, settings.opensmile_window)
        if settings.transcribe:
            readers.recogniser = SpeechRecogniser(
                settings.transcribe, language=settings.language, device=device, dtype=dtype
            )
        return readers

    @property
    def smile_name(self) -> str:
        """Whose features openSMILE's are."""
        return "audio" if self.audio is None else "egemaps"

    def backbones(self) -> dict[str, TextBackbone | VisionBackbone | AudioBackbone]:
        """Backbones by modality."""
        found = {"text": self.text, "vision": self.vision, "audio": self.audio}
        return {name: backbone for name, backbone in found.items() if backbone is not None}

    def features(self, clips: ClipSource) -> Features:
        """Columns of the rows."""
        shapes = {name: backbone.feature_shape for name, backbone in self.backbones().items()}
        if self.smile is not None:
            shapes[self.smile_name] = (None, self.smile.width)
        heard = self.recogniser is not None
        words = heard or clips.has("words", "word_intervals")
        return row_features(shapes, clips.kept, text=heard or clips.has("text"), words=words)

    def clip_reader(self, settings: ExtractSettings) -> ClipReader:
        """What decodes for them."""
        return ClipReader(
            self.vision,
            self.audio,
            self.smile,
            None if self.recogniser is None else self.recogniser.sampling_rate,
            **{name: getattr(settings, name) for name in _READING},
        )

    def describe(self) -> dict[str, Any]:
        """Of each column of features, what made it."""
        columns: dict[str, Any] = {
            f"{name}_features": {
                "backbone": backbone.source,
                "model_type": backbone.config.model_type,
                "layers": backbone.taps,
                "width": backbone.width,
            }
            for name, backbone in self.backbones().items()
        }
        if self.smile is not None:
            made_by = f"eGeMAPSv02 {self.smile.level}"
            columns[f"{self.smile_name}_features"] = {"opensmile": made_by, "width": self.smile.width}
        return columns


# --- the run ---------------------------------------------------------------------------------------------------------


class Extractor:
    """Takes pieces as they come, runs the backbones over a batch of them, and writes each clip's row when it is
    complete."""

    def __init__(
        self,
        settings: ExtractSettings,
        readers: Readers,
        shards: ShardSet,
        failures: FailureList,
        batch_size: int,
    ):
        self.settings, self.readers = settings, readers
        self.shards, self.failures = shards, failures
        self.batch_size = batch_size
        self.open: ClipTokens | None = None  # the clip whose pieces are coming
        self.broken: str | None = None  # id of a clip that failed in one of its pieces
        self.complaints: Counter[str] = Counter()  # of the clips that failed before the first row
        self.written = False

    def run(self, pieces: Iterable[Piece]) -> None:
        """Writes the rows of all clips whose pieces come, in order."""
        for group in self._grouped(pieces):
            self._read(group)
            self._write([clip for piece in group if (clip := self._take(piece)) is not None])

    def _grouped(self, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
        """Pieces for one pass: together about `batch_size` frames or seconds of audio."""
        group: list[Piece] = []
        size = 0.0
        for piece in pieces:
            group.append(piece)
            size += max(1.0, piece.num_frames, piece.sound_end - piece.sound_begin)
            if size >= self.batch_size:
                yield group
                group, size = [], 0.0
        if group:
            yield group

    def _read(self, group: list[Piece]) -> None:
        """Gives pieces their tokens. Where a pass fails, each piece is tried by itself, to find the one at fault."""
        error = _fault(self._forward, [piece for piece in group if piece.error is None])
        for piece in group if error is not None else ():
            if piece.error is None:
                piece.error = error if len(group) == 1 else _fault(self._forward, [piece])

    def _forward(self, pieces: list[Piece]) -> None:
        vision, audio = self.readers.vision, self.readers.audio
        seen = [piece for piece in pieces if piece.pixels is not None]
        if vision is not None and seen:
            pixels = [piece.pixels for piece in seen if piece.pixels is not None]
            found = vision.read(pixels, [piece.num_frames for piece in seen], self.batch_size)
            for piece, taps in zip(seen, found, strict=True):
                piece.vision_taps = taps
        heard = [piece for piece in pieces if piece.sound is not None]
        if audio is not None and heard:
            longest = max(piece.sound_end - piece.sound_begin for piece in heard)
            at_once = max(1, int(self.batch_size / max(audio.max_seconds or longest, 1.0)))
            sounds = [piece.sound for piece in heard if piece.sound is not None]
            for piece, taps in zip(heard, audio.read(sounds, at_once), strict=True):
                piece.audio_taps = taps

    def _take(self, piece: Piece) -> ClipTokens | None:
        """Adds a piece to its clip; the clip, when this was its last."""
        clip = piece.job.clip
        if self.broken == clip.id:
            return None
        if self.open is None or self.open.clip is not clip:
            self.open = ClipTokens(clip)
        error = piece.error or _fault(self._add, self.open, piece)
        if error is not None:
            self._fail(clip, error)
            self.open, self.broken = None, clip.id
        if error is not None or not piece.job.last:
            return None
        complete, self.open = self.open, None
        return complete

    def _add(self, clip: ClipTokens, piece: Piece) -> None:
        rate = self.settings.audio_rate
        if piece.vision_taps is not None and self.readers.vision is not None and piece.frame_times is not None:
            times = self.readers.vision.intervals(piece.frame_times, piece.frame_end, piece.longest)
            clip.tokens["vision"].append((piece.vision_taps, times))
        span = {"begin": piece.sound_begin, "keep": piece.job.keep, "end": piece.sound_end}
        if piece.audio_taps is not None and self.readers.audio is not None:
            step = self.readers.audio.step_seconds(piece.audio_taps.shape[1], piece.sound_end - piece.sound_begin)
            clip.tokens["audio"].append(pool_to_rate(piece.audio_taps, step, rate, **span))
        if piece.smile is not None:
            features, step = piece.smile
            clip.tokens[self.readers.smile_name].append(pool_to_rate(features[None], step, rate, **span))
        if piece.speech is not None and self.readers.recogniser is not None:
            clip.transcript = self.readers.recogniser(piece.speech)

    def _write(self, clips: list[ClipTokens]) -> None:
        for clip, text in zip(clips, self._texts(clips), strict=True):
            try:
                if isinstance(text, Exception):
                    raise text
                row = make_row(clip, self.shards.features, text, self.settings.align == "words")
            except CLIP_ERRORS as error:
                self._fail(clip.clip, error)
                continue
            try:
                self.shards.write(clip.clip.split, row)
            except DataFormatError as error:  # not OSError: a full disk ends the run
                self._fail(clip.clip, error)
                continue
            self.written = True
            self._note_lacks(clip.clip, row, text is not None and text.truncated)

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

    def _texts(self, clips: list[ClipTokens]) -> list[TextTokens | Exception | None]:
        """Tokens of each clip's text, or what went wrong with it; None where there is none."""
        texts = [clip.text() for clip in clips]
        present = [text for text in texts if text]
        if self.readers.text is None or not present:
            return [None for _ in clips]
        found: list[Any] = []
        read = self.readers.text.read
        error = _fault(lambda: found.extend(read(present, self.batch_size)))
        if error is not None and len(clips) > 1:
            return [text for clip in clips for text in self._texts([clip])]
        tokens = iter(found if error is None else [error])
        return [next(tokens) if text else None for text in texts]

    def _note_lacks(self, clip: Clip, row: dict[str, Any], truncated: bool) -> None:
        for name in row:
            if name.endswith("_features") and row[name] is None:
                lacking = name.removesuffix("_features")
                self.failures.note(clip, f"No{lacking.capitalize()}", f"the clip has no {lacking}; its column is empty")
        if truncated and self.readers.text is not None:
            limit = self.readers.text.max_tokens
            self.failures.note(clip, "TextTruncated", f"the text is longer than {limit} tokens; the rest is left out")


def _fault(step: Callable[..., None], *arguments: Any) -> Exception | None:
    """What is wrong with a clip that a step fails on; None where it does not. What the device is at fault for is
    raised."""
    try:
        step(*arguments)
    except DEVICE_ERRORS:
        raise
    except CLIP_ERRORS as error:
        return error
    return None


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
    state = PartialState(cpu=chosen.device == "cpu", timeout=_PATIENCE)
    clips = open_source(source, **chosen.source_options())
    with state.main_process_first():  # a download by one process is the others' cache
        # "cuda" is this process's GPU, not the first.
        own = chosen.device in (None, state.device.type)
        readers = Readers.load(chosen, state.device if own else torch.device(str(chosen.device)))
    features = readers.features(clips)
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
        _write(folder.path, clips, chosen, readers, state, progress)
        state.wait_for_everyone()
        if state.is_main_process:
            seconds = round(time.perf_counter() - begin, 1)
            finish(folder, task, readers.describe(), seconds, state.num_processes)
        state.wait_for_everyone()
    return read_json(folder.record) or {}


def _write(
    folder: Path, clips: ClipSource, settings: ExtractSettings, readers: Readers, state: PartialState, progress: bool
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
    shards = ShardSet(folder, readers.features(clips), rank=state.process_index, rows_per_shard=settings.rows_per_shard)
    with shards:
        extractor = Extractor(settings, readers, shards, failures, settings.batch_size)
        pieces = read_ahead(readers.clip_reader(settings), _with_bar(mine, most, progress, state), settings.num_workers)
        extractor.run(pieces)


def _with_bar(clips: Iterable[Clip], total: int | None, progress: bool, state: PartialState) -> Iterable[Clip]:
    if not (progress and state.is_main_process):
        return clips
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    return tqdm(clips, total=total and max(total, 0), unit="clip", desc="extract")
