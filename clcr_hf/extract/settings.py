"""The settings of an extraction, once: the command's options, `extract_features` and the table of docs/extract.md are
made from them."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from ..data.options import argument_help, read_options
from ..data.registry import ROWS_PER_SHARD

# Tokens of audio a second: a syllable lasts about 0.2 s, and speech backbones give 50 tokens a second.
AUDIO_RATE = 5.0
DTYPES = ("float32", "float16", "bfloat16")
OPENSMILE_LEVELS = ("lld", "functionals")


def _setting(default: Any, part: str, *, word: Any = None, flag: str | None = None) -> Any:
    """
    A field.

    Args:
        part: features (what they are: a folder holds rows of one such set), rows (where they come from) or run.
        word: its type on the command line, where that is not the field's own.
        flag: its name there, where that is not the field's own.
    """
    return field(default=default, metadata={"part": part, "word": word, "flag": flag})


@dataclass(frozen=True)
class ExtractSettings:
    """
    How features are extracted.

    Args:
        vision: Backbone for frames: hub name or folder.
        audio: Backbone for audio.
        text: Backbone for transcripts.
        taps: early-middle-late, last (no axis of levels), or layers such as 4,8,12.
        num_levels: How many layers early-middle-late takes.
        fps: Frames a second that are read.
        num_frames: Frames of a clip instead. Default: 16.
        face_crop: Cut frames to the speaker's face: dlib, or your own detector as module:function.
        token_grid: Tokens of a frame: the square of this.
        audio_rate: Tokens of audio a second; 0 keeps the backbone's own.
        window_seconds: Longest stretch of audio read at a time. Default: what the backbone reads, else 20.
        opensmile: eGeMAPS by openSMILE (licence: not commercial).
        opensmile_level: lld (25, each 10 ms) or functionals (88, each second).
        opensmile_window: Seconds that one set of functionals is for.
        transcribe: Speech recogniser for clips without text.
        language: Language for Whisper, such as en.
        align: words: one token a word in every modality; needs word times.
        dtype: float32, float16, bfloat16, of the backbones.
        dataset: Benchmark whose folder is read, a name as in `clcr train`.
        dataset_options: Options of its loader, as fold=2,seed=1.
        split: Folder: of clips that do not say. Default: train.
        label_column: Table: column of the labels.
        label_names: Table: classes in order, as happy,sad.
        label_separator: Table: what lies between several labels of a cell.
        task: Table: auto, regression, classification, multi_label, segments.
        keep_columns: Table: columns to carry over, as speaker,age.
        batch_size: Frames, seconds of audio or texts in a forward pass.
        num_workers: Threads that decode.
        device: cpu, cuda, cuda:1. Default: a GPU if there is one.
        rows_per_shard: Rows a file; a run that is killed loses no more.
        limit: Only the first so many clips.
        retry_failed: Try again what failed before.

    Raises:
        ValueError: settings that contradict each other.
    """

    vision: str | None = _setting(None, "features")
    audio: str | None = _setting(None, "features")
    text: str | None = _setting(None, "features")
    taps: str | Sequence[int] = _setting("early-middle-late", "features", word=str)
    num_levels: int = _setting(3, "features", flag="levels")
    fps: float | None = _setting(None, "features")
    num_frames: int | None = _setting(None, "features")
    face_crop: str | None = _setting(None, "features")
    token_grid: int = _setting(1, "features")
    audio_rate: float | None = _setting(AUDIO_RATE, "features", word=float)
    window_seconds: float | None = _setting(None, "features")
    opensmile: bool | str = _setting(False, "features", word=bool)
    opensmile_level: str = _setting("lld", "features")
    opensmile_window: float = _setting(1.0, "features")
    transcribe: str | None = _setting(None, "features")
    language: str | None = _setting(None, "features")
    align: str | None = _setting(None, "features")
    dtype: str = _setting("float32", "features")
    dataset: str | None = _setting(None, "rows")
    dataset_options: Mapping[str, Any] | None = _setting(None, "rows", word=str | None)
    split: str | None = _setting(None, "rows")
    label_column: str | None = _setting(None, "rows")
    label_names: Sequence[str] | None = _setting(None, "rows", word=str | None)
    label_separator: str | None = _setting(None, "rows")
    task: str = _setting("auto", "rows")
    keep_columns: Sequence[str] = _setting((), "rows", word=str | None)
    batch_size: int = _setting(64, "run")
    num_workers: int = _setting(2, "run")
    device: str | None = _setting(None, "run")
    rows_per_shard: int = _setting(ROWS_PER_SHARD, "run")
    limit: int | None = _setting(None, "run")
    retry_failed: bool = _setting(False, "run")

    def __post_init__(self) -> None:
        self._settle()
        if not (self.text or self.vision or self.audio or self.opensmile or self.transcribe):
            raise ValueError("nothing to extract; give one or more of text, vision, audio, opensmile, transcribe")
        if self.fps is not None and self.num_frames is not None:
            raise ValueError("give fps or num_frames, not both")
        for name, known in {"opensmile_level": OPENSMILE_LEVELS, "align": (None, "words"), "dtype": DTYPES}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(map(str, known))}, not {getattr(self, name)!r}")
        positive = ("num_levels", "fps", "num_frames", "token_grid", "audio_rate", "window_seconds")
        for name in (*positive, "batch_size", "rows_per_shard", "limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, got {self.num_workers}")

    def _settle(self) -> None:
        """Give what may be said in two ways one form."""
        settled: dict[str, Any] = {"taps": "early-middle-late" if self.taps == "auto" else self.taps}
        if not isinstance(self.taps, str):
            settled["taps"] = list(self.taps)
        if isinstance(self.opensmile, str):
            settled |= {"opensmile": True, "opensmile_level": self.opensmile}
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_words(cls, **words: Any) -> "ExtractSettings":
        """Settings as the command line gives them: lists with commas, options as text, 0 for no rate."""
        for name in ("label_names", "keep_columns"):
            words[name] = words[name].split(",") if words.get(name) else cls.__dataclass_fields__[name].default
        if words["taps"][:1].isdigit():
            words["taps"] = [int(layer) for layer in words["taps"].split(",")]
        words["dataset_options"] = read_options(words["dataset_options"], "--dataset-options") or None
        return cls(**{**words, "audio_rate": words["audio_rate"] or None})

    def identity(self) -> dict[str, Any]:
        """What the features are, as `extract.json` records it."""
        found = {each.name: getattr(self, each.name) for each in self.of("features")}
        level = found.pop("opensmile_level")
        if self.face_crop is None:  # folders of before version 0.2 go on
            del found["face_crop"]
        return found | {"opensmile": level if self.opensmile else None}

    def source_options(self) -> dict[str, Any]:
        """Where the rows come from, as far as it is said."""
        values = {each.name: getattr(self, each.name) for each in self.of("rows")}
        return {name: value for name, value in values.items() if value != self.__dataclass_fields__[name].default}

    @classmethod
    def of(cls, part: str) -> list[Field]:
        """The fields of a part: features, rows or run."""
        return [each for each in fields(cls) if each.metadata["part"] == part]


def flag_of(setting: Field) -> str:
    """What the command line calls a setting."""
    return "--" + (setting.metadata["flag"] or setting.name).replace("_", "-")


def table() -> str:
    """The settings as a table in Markdown, for docs/extract.md."""
    what = argument_help(ExtractSettings)
    lines = ["| option | in Python | default | what |", "|---|---|---|---|"]
    for each in fields(ExtractSettings):
        default = "" if each.default in (None, MISSING, (), False) else f"`{each.default}`"
        lines.append(f"| `{flag_of(each)}` | `{each.name}` | {default} | {what[each.name]} |")
    return "\n".join(lines)
