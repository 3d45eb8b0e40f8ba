"""What each modality is called: in data sets and samples, in the processor, in the model, in figures.

Text, vision, audio and flow are written down here; a modality of a user's own name has ready features alone, and its
row follows from the name. A new standard modality is one more row, and one more argument of the model's `forward`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

FEATURES_END, MASK_END, INTERVALS_END = "_features", "_attention_mask", "_intervals"
# A file with frames and audio. It stands for vision and audio where they have no file of their own.
MEDIA = "media"


@dataclass(frozen=True)
class Modality:
    """
    One modality.

    Args:
        name: what the configuration calls it.
        title: what a reader calls it.
        columns: columns of a data set, and keys of a sample, that hold it raw; the one that says most about it first.
        arguments: arguments of the processor that take it raw.
        part: the processor's part that reads it.
        inputs: the model's raw inputs, the one that holds the values first.
        raw_mask: the mask of the raw input; that of features is always `mask`.
        channels: of the frames or spectrograms that a network for images reads it from; 0 without.
        suffixes: of files that hold it.
        colour: in figures; a palette that people who do not tell red from green can tell (Okabe and Ito).
    """

    name: str
    title: str
    columns: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    part: str | None = None
    inputs: tuple[str, ...] = ()
    raw_mask: str | None = None
    channels: int = 0
    suffixes: tuple[str, ...] = ()
    colour: str = "#56B4E9"

    @property
    def features(self) -> str:
        """Column, argument and model input of its ready features."""
        return self.name + FEATURES_END

    @property
    def mask(self) -> str:
        """The mask of its features."""
        return self.name + MASK_END

    @property
    def tokens(self) -> tuple[str, ...]:
        """Columns of inputs that are ready for the model: token ids with their mask."""
        return (*self.inputs, self.raw_mask or self.mask) if self.part == "tokenizer" else ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of a sample that belong to it and to no other modality."""
        rate = ("sampling_rate",) if self.part == "feature_extractor" else ()
        return (*(name for name in self.columns if name != MEDIA), *self.tokens, *rate, self.features, self.mask)


_VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".flv", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".3gp")
_SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac")
# fmt: off
_STANDARD = (
    Modality("text", "Text", ("text",), ("text",), "tokenizer", ("input_ids", "token_type_ids"), "attention_mask",
             colour="#0072B2"),
    Modality("vision", "Vision", ("images", "video", MEDIA), ("videos", "images"), "image_processor",
             ("pixel_values",), "vision_attention_mask", channels=3, suffixes=_VIDEOS, colour="#E69F00"),
    Modality("audio", "Audio", ("audio", MEDIA), ("audio",), "feature_extractor",
             ("input_values",), "audio_attention_mask", channels=1, suffixes=_SOUNDS, colour="#009E73"),
    Modality("flow", "Motion", ("flow",), ("flow",), None,
             ("flow_pixel_values",), "flow_attention_mask", channels=2, suffixes=(".npz",), colour="#CC79A7"),
)
# fmt: on
STANDARD = {each.name: each for each in _STANDARD}
STANDARD_MODALITIES = tuple(STANDARD)
TOKEN_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
RAW_COLUMNS = tuple(dict.fromkeys(column for each in _STANDARD for column in each.columns))
# Columns of files with frames or audio, each opened as one.
FILE_COLUMNS = (MEDIA, "video", "audio")


def modality(name: str) -> Modality:
    """The modality of this name; one of a user's own has features alone."""
    return STANDARD.get(name) or Modality(name, name)


def of_features(key: str) -> str | None:
    """The modality whose features a column or argument holds; None where it holds no features."""
    name = key.removesuffix(FEATURES_END)
    return name if name and name != key else None


def in_features(keys: Iterable[str]) -> list[str]:
    """Names of a user's own among the modalities whose features `keys` hold, in their order."""
    found = (of_features(key) for key in keys)
    return list(dict.fromkeys(name for name in found if name is not None and name not in STANDARD))
