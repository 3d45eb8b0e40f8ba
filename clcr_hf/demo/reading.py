"""What a model says of one clip: its answer, and its answers with each modality left out."""

from dataclasses import dataclass, field
from typing import Any

from ..media import media_duration
from ..pipeline_clcr import CLCRPipeline

# What of a clip each modality is read from, as the pipeline names its inputs.
INPUTS = {"text": "text", "vision": "video", "audio": "audio"}


@dataclass
class Reading:
    """One clip as the model reads it.

    Attributes:
        result: the pipeline's result with its explanation.
        without: results without explanation, by the modality that was left out; empty where only one was there.
        seconds: how long the clip (or the sound) lasts; None for text alone.
    """

    result: dict[str, Any]
    without: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float | None = None


def read_clip(
    pipe: CLCRPipeline,
    clip: str | None = None,
    sound: str | None = None,
    text: str | None = None,
    *,
    max_seconds: float = float("inf"),
) -> Reading:
    """Reads a clip once as it is and once without each of its modalities.

    Args:
        pipe: a pipeline "multimodal-sentiment".
        clip: path of a video; its sound is read too unless `sound` is given.
        sound: path of a sound file.
        text: what is said.
        max_seconds: clips and sounds that last longer are refused before they are decoded.

    Raises:
        ValueError: nothing was given, or something too long; or the model cannot read what was given.
        MediaError: a file that cannot be read.
    """
    text = (text or "").strip() or None
    given = {"media": clip, "audio": sound, "text": text}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        raise ValueError("There is nothing to read yet: give a clip, a sound or a transcript.")
    durations = [check_duration(path, max_seconds) for path in (clip, sound) if path is not None]
    result = pipe(given, return_explanation=True)
    parts = {"text": text, "video": clip, "audio": sound or clip}
    return Reading(result, _without_each(pipe, parts, _modalities(result)), max(durations, default=None))


def check_duration(path: str, max_seconds: float) -> float:
    """Seconds that a file lasts; nothing of it is decoded.

    Raises:
        ValueError: more than `max_seconds`.
        MediaError: it cannot be read.
    """
    seconds = media_duration(path)
    if seconds > max_seconds:
        raise ValueError(f"{path} lasts {seconds:.1f} s and at most {max_seconds:g} s are read here: cut it shorter.")
    return seconds


def _modalities(result: dict[str, Any]) -> list[str]:
    """Those that the model found in its input."""
    return [name for name in INPUTS if result["tokens"].get(name)]


def _without_each(pipe: CLCRPipeline, parts: dict[str, str | None], present: list[str]) -> dict[str, dict[str, Any]]:
    if len(present) < 2:
        return {}
    return {
        gone: pipe({INPUTS[name]: parts[INPUTS[name]] for name in present if name != gone})  # read from the file again
        for gone in present
    }
