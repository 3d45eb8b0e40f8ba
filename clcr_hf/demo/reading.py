"""What a model says of one clip, refused before it is decoded where it is too long."""

from ..explain.decision import Decision, explain
from ..limits import STRANGERS, check_text
from ..media import media_duration
from ..pipeline_clcr import CLCRPipeline
from ..samples import is_missing


def read_clip(
    pipe: CLCRPipeline,
    clip: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    *,
    max_seconds: float = float("inf"),
) -> Decision:
    """Reads a clip once as it is and once without each of its modalities.

    Args:
        pipe: a pipeline "multimodal-sentiment".
        clip: path of a video; its audio is read too unless `audio` is given.
        audio: path of an audio file.
        text: what is said.
        max_seconds: clips and audio files that last longer are refused before they are decoded.

    Raises:
        ValueError: nothing was given, or something too long (a text too: `limits.py`); or the model cannot read what
            was given.
        MediaError: a file that cannot be read.
    """
    given = {"media": clip, "audio": audio, "text": text}
    given = {name: value for name, value in given.items() if not is_missing(value)}
    if not given:
        raise ValueError("There is nothing to read yet: give a clip, audio or a transcript.")
    check_text(given.get("text"), "the transcript")
    for path in filter(None, (clip, audio)):
        check_duration(path, max_seconds)
    return explain(pipe, given)


def check_duration(path: str, max_seconds: float) -> None:
    """Refuses a file that lasts too long, or whose frames cost too much; nothing of it is decoded.

    Raises:
        ValueError: more than `max_seconds`.
        MediaError: it cannot be read, or is larger than strangers may send.
    """
    seconds = media_duration(path, STRANGERS)
    if seconds > max_seconds:
        raise ValueError(f"{path} lasts {seconds:.1f} s and at most {max_seconds:g} s are read here: cut it shorter.")
