"""`clcr extract`: features of clips by pretrained backbones, written as shards that training reads.

Run on one machine as `clcr extract`, on several processes as `torchrun -m clcr_hf.extract` or
`accelerate launch -m clcr_hf.extract` with the same arguments: process r takes the clips i with i % processes == r.
See docs/extract.md.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import DatasetDict, Features

from .data.shards import ROWS_PER_SHARD
from .extract_backbones import AudioBackbone, TextBackbone, VisionBackbone, pool_to_rate
from .extract_media import CLIP_ERRORS, ClipReader, Piece, read_ahead
from .extract_output import RECORD, FailureList, ShardSet, claim, done_ids, finish
from .extract_rows import ClipTokens, make_row, row_features
from .extract_sources import Clip, ClipSource, open_source
from .speech import OPENSMILE_LEVELS, OpenSmile, SpeechRecogniser

logger = logging.getLogger("clcr_hf.extract")

# Tokens of sound a second: a syllable lasts about 0.2 s, and speech backbones give 50 tokens a second.
AUDIO_RATE = 5.0
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Processes that finish early wait for the others at the end.
_PATIENCE = timedelta(days=14)


@dataclass(frozen=True)
class ExtractSettings:
    """What the features are; see [`extract_features`]. A folder holds rows of one such set of settings."""

    text: str | None = None
    vision: str | None = None
    audio: str | None = None
    taps: str | list[int] = "auto"
    num_levels: int = 3
    fps: float | None = None
    num_frames: int | None = None
    token_grid: int = 1
    audio_rate: float | None = AUDIO_RATE
    window_seconds: float | None = None
    opensmile: str | None = None
    opensmile_window: float = 1.0
    transcribe: str | None = None
    language: str | None = None
    align: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not (self.text or self.vision or self.audio or self.opensmile or self.transcribe):
            raise ValueError("nothing to extract; give one or more of text, vision, audio, opensmile, transcribe")
        if self.fps is not None and self.num_frames is not None:
            raise ValueError("give fps or num_frames, not both")
        if self.opensmile not in (None, *OPENSMILE_LEVELS):
            raise ValueError(f"opensmile must be {' or '.join(OPENSMILE_LEVELS)}, not {self.opensmile!r}")
        if self.align not in (None, "words"):
            raise ValueError(f"align must be 'words' or None, not {self.align!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        for name in ("num_levels", "fps", "num_frames", "token_grid", "audio_rate", "window_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


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
            `layout`, `layout_options`, `split`: see [`~clcr_hf.extract_sources.open_source`].
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
        What `extract.json` holds: `settings`, `source`, `columns` (layers, widths), `versions`, `counts` (rows by
        split, failed clips, and rows that lack something, by reason).

    Raises:
        ValueError: settings that contradict each other.
        DataFormatError: no clips, or `out` holds features of other settings.
        OSError: no such model.
        ImportError: an extra that is not installed.
    """
    smile = "lld" if opensmile is True else opensmile or None
    settings = ExtractSettings(
        text=text,
        vision=vision,
        audio=audio,
        taps=taps if isinstance(taps, str) else list(taps),
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
        readers = _Readers.load(settings, torch.device(device or state.device))
    features = readers.features(clips)
    identity = {
        "source": clips.name,
        "settings": asdict(settings),
        "features": json.loads(json.dumps(features.to_dict())),
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
        extractor = _Extractor(settings, readers, shards, failures, batch_size)
        pieces = read_ahead(readers.clip_reader(settings), _with_bar(mine, total, progress, state), num_workers)
        extractor.run(pieces)
    state.wait_for_everyone()
    summary: dict[str, Any] = {}
    if state.is_main_process:
        seconds = round(time.perf_counter() - begin, 1)
        summary = finish(folder, identity, readers.describe(), seconds, state.num_processes)
    state.wait_for_everyone()
    return summary or json.loads((folder / RECORD).read_text(encoding="utf-8"))


# --- the models ------------------------------------------------------------------------------------------------------


@dataclass
class _Readers:
    """All that reads a clip, loaded once."""

    text: TextBackbone | None = None
    vision: VisionBackbone | None = None
    audio: AudioBackbone | None = None
    smile: OpenSmile | None = None
    recogniser: SpeechRecogniser | None = None

    @classmethod
    def load(cls, settings: ExtractSettings, device: torch.device) -> "_Readers":
        dtype = DTYPES[settings.dtype]
        options: dict[str, Any] = {"taps": settings.taps, "num_levels": settings.num_levels}
        options |= {"device": device, "dtype": dtype}
        readers = cls()
        if settings.text:
            readers.text = TextBackbone(settings.text, **options)
        if settings.vision:
            readers.vision = VisionBackbone(settings.vision, token_grid=settings.token_grid, **options)
        if settings.audio:
            readers.audio = AudioBackbone(settings.audio, **options)
        if settings.opensmile:
            readers.smile = OpenSmile(settings.opensmile, settings.opensmile_window)
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
        return row_features(shapes, clips.kept, text=heard or clips.has_text, words=heard or clips.has_words)

    def clip_reader(self, settings: ExtractSettings) -> ClipReader:
        """What decodes for them."""
        return ClipReader(
            self.vision,
            self.audio,
            self.smile,
            None if self.recogniser is None else self.recogniser.sampling_rate,
            fps=settings.fps,
            num_frames=settings.num_frames,
            window_seconds=settings.window_seconds,
            audio_rate=settings.audio_rate,
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
            columns[f"{self.smile_name}_features"] = {
                "opensmile": f"eGeMAPSv02 {self.smile.level}",
                "width": self.smile.width,
            }
        return columns


# --- the run ---------------------------------------------------------------------------------------------------------


class _Extractor:
    """Takes pieces as they come, runs the backbones over a batch of them, and writes each clip's row when it is
    complete."""

    def __init__(
        self,
        settings: ExtractSettings,
        readers: _Readers,
        shards: ShardSet,
        failures: FailureList,
        batch_size: int,
    ):
        self.settings, self.readers = settings, readers
        self.shards, self.failures = shards, failures
        self.batch_size = batch_size
        self.open: ClipTokens | None = None  # the clip whose pieces are coming
        self.broken: str | None = None  # id of a clip that failed in one of its pieces

    def run(self, pieces: Iterable[Piece]) -> None:
        for group in self._grouped(pieces):
            complete = [clip for piece in self._read(group) if (clip := self._take(piece)) is not None]
            self._write(complete)

    def _grouped(self, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
        """Pieces for one pass: together about `batch_size` frames or seconds of sound."""
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

    def _read(self, group: list[Piece]) -> list["_ReadPiece"]:
        """Pieces with their tokens. Where a pass fails, each piece is tried by itself, to find the one at fault."""
        read = [_ReadPiece(piece) for piece in group]
        try:
            self._forward([item for item in read if item.piece.error is None])
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except CLIP_ERRORS as error:
            for item in read:
                if item.piece.error is not None:
                    continue
                try:
                    if len(read) == 1:
                        raise error
                    self._forward([item])
                except (MemoryError, torch.cuda.OutOfMemoryError):
                    raise
                except CLIP_ERRORS as own:
                    item.piece.error = own
        return read

    def _forward(self, items: list["_ReadPiece"]) -> None:
        vision, audio = self.readers.vision, self.readers.audio
        seen = [item for item in items if item.piece.pixels is not None]
        if vision is not None and seen:
            pixels = [item.piece.pixels for item in seen if item.piece.pixels is not None]
            found = vision.read(pixels, [item.piece.num_frames for item in seen], self.batch_size)
            for item, taps in zip(seen, found, strict=True):
                item.vision = taps
        heard = [item for item in items if item.piece.sound is not None]
        if audio is not None and heard:
            longest = max(item.piece.sound_end - item.piece.sound_begin for item in heard)
            at_once = max(1, int(self.batch_size / max(audio.max_seconds or longest, 1.0)))
            sounds = [item.piece.sound for item in heard if item.piece.sound is not None]
            for item, taps in zip(heard, audio.read(sounds, at_once), strict=True):
                item.audio = taps

    def _take(self, read: "_ReadPiece") -> ClipTokens | None:
        """Adds a piece to its clip; the clip, when this was its last."""
        piece, clip = read.piece, read.piece.job.clip
        if self.broken == clip.id:
            return None
        if self.open is None or self.open.clip is not clip:
            self.open = ClipTokens(clip)
        try:
            if piece.error is not None:
                raise piece.error
            self._add(self.open, read)
        except CLIP_ERRORS as error:
            self.failures.add(clip, error)
            self.open, self.broken = None, clip.id
            return None
        if not piece.job.last:
            return None
        complete, self.open = self.open, None
        return complete

    def _add(self, clip: ClipTokens, read: "_ReadPiece") -> None:
        piece, rate = read.piece, self.settings.audio_rate
        if read.vision is not None and self.readers.vision is not None and piece.frame_times is not None:
            clip.add("vision", read.vision, self.readers.vision.intervals(piece.frame_times, piece.frame_end))
        span = {"begin": piece.sound_begin, "keep": piece.job.keep, "end": piece.sound_end}
        if read.audio is not None and self.readers.audio is not None:
            step = self.readers.audio.step_seconds(read.audio.shape[1], piece.sound_end - piece.sound_begin)
            clip.add("audio", *pool_to_rate(read.audio, step, rate, **span))
        if piece.smile is not None:
            features, step = piece.smile
            clip.add(self.readers.smile_name, *pool_to_rate(features[None], step, rate, **span))
        if piece.speech is not None and self.readers.recogniser is not None:
            clip.transcript = self.readers.recogniser(piece.speech)

    def _write(self, clips: list[ClipTokens]) -> None:
        texts = [clip.text() for clip in clips]
        tokens: list[Any] = [None] * len(clips)
        present = [index for index, text in enumerate(texts) if text]
        if self.readers.text is not None and present:
            found = self.readers.text.read([texts[index] or "" for index in present], self.batch_size)
            for index, value in zip(present, found, strict=True):
                tokens[index] = value
        for clip, text in zip(clips, tokens, strict=True):
            try:
                row = make_row(clip, self.shards.features, text, self.settings.align == "words")
                self.shards.write(clip.clip.split, row)
            except CLIP_ERRORS as error:
                self.failures.add(clip.clip, error)
                continue
            self._note_lacks(clip.clip, row, text is not None and text.truncated)

    def _note_lacks(self, clip: Clip, row: dict[str, Any], truncated: bool) -> None:
        for name in row:
            if name.endswith("_features") and row[name] is None:
                lacking = name.removesuffix("_features")
                self.failures.note(clip, f"No{lacking.capitalize()}", f"the clip has no {lacking}; its column is empty")
        if truncated and self.readers.text is not None:
            limit = self.readers.text.max_tokens
            self.failures.note(clip, "TextTruncated", f"the text is longer than {limit} tokens; the rest is left out")


@dataclass
class _ReadPiece:
    """A piece and the tokens `(L, T, D)` that the backbones gave for it."""

    piece: Piece
    vision: Any = None
    audio: Any = None


# --- beside it -------------------------------------------------------------------------------------------------------


def _with_bar(clips: Iterable[Clip], total: int | None, progress: bool, state: PartialState) -> Iterable[Clip]:
    if not (progress and state.is_main_process):
        return clips
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    return tqdm(clips, total=total and max(total, 0), unit="clip", desc="extract")


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m clcr_hf.extract`, for launchers of several processes; the arguments are those of `clcr extract`."""
    from .cli import main as command

    try:
        command(["extract", *(sys.argv[1:] if argv is None else argv)])
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
