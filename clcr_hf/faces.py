"""The speaker's face in a clip: found in each frame, followed through the clip, cut out square.

A detector finds the faces of a frame. What follows is ours: boxes that are near in place and size are one track, the
speaker's is the track that is there longest, largest and with the mouth moving, its boxes are smoothed and cut out with
a margin. A frame in which the speaker is not seen is left out: it is missing, and no crop of it is made up.
The measure and its constants are a choice of this package; the paper takes features of ready face crops.
"""

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from transformers.utils import logging

from .media_files import optional

logger = logging.get_logger(__name__)
Detector = Callable[[np.ndarray], Sequence[Any]]

DEFAULT_DETECTOR = "dlib"
ENTRY_POINTS = "clcr_hf.face_detectors"
ALLOWED = "CLCR_FACE_DETECTORS"

_WIDTH = 640  # the longer side of a frame when faces are looked for, in pixels
_ENLARGED = 4.0  # small frames are enlarged for that by at most this factor
_WEAK = -0.3  # dlib's margin from which a detection may continue a track; one above 0 may begin it
_REACH = 1.0  # a face moves from one frame to the next by at most its own side
_GROWTH = 2.0  # and grows or shrinks by at most this factor
_JITTER = 0.1  # a box is smoothed by at most this share of its side
_MARGIN = 1.5  # side of the crop in sides of the box
_STILL = 8.0  # grey levels (0 to 255) below which what moves may be noise of the camera
_MAX_SIDE = 1024  # of a crop, in pixels
_local = threading.local()


def crop_faces(
    frames: np.ndarray | Sequence[np.ndarray], detector: str | Detector = DEFAULT_DETECTOR
) -> tuple[np.ndarray, np.ndarray]:
    """
    Follows the speaker's face through the frames of one clip and cuts it out.

    Args:
        frames: `(F, H, W, 3)` uint8 RGB in order, or a sequence of `(H, W, 3)` whose sizes may differ.
        detector: a name that [`find_detector`] knows, or the function itself: frames `(F, H, W, 3)` uint8 to F
            sequences of faces, each `(left, top, right, bottom)` in pixels with or without a score behind. A score
            above 0 (and a face without one) is sure enough to begin a track; a lower one only continues it.

    Returns:
        crops: `(K, S, S, 3)` uint8, square, of the K frames in which the speaker is seen. S is the median side of the
            crops, in pixels. K is 0 where the clip shows no face: `(0, 0, 0, 3)`.
        kept: `(K,)` int64, the rising indices of these frames.

    Raises:
        ValueError: frames of another shape or dtype, a detector that is not known or answers in another form.
        ImportError: the detector's package is not installed.
    """
    frames = [np.asarray(frame) for frame in frames]
    for frame in frames:
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frames must be (F, H, W, 3) uint8 RGB, got a frame {frame.shape} {frame.dtype}")
    faces = _detect(frames, find_detector(detector) if isinstance(detector, str) else detector)
    tracks = _follow(faces)
    if not tracks:
        return np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0, np.int64)
    kept, boxes = max(tracks, key=lambda track: _weight(frames, *track))  # of equals, the one seen first
    boxes = _smooth(boxes)
    side = int(np.clip(np.rint(np.median(boxes[:, 2]) * _MARGIN), 1, _MAX_SIDE))
    return np.stack([_cut(frames[at], box, side) for at, box in zip(kept, boxes, strict=True)]), kept


_said: list[str] = []


def say_no_face(clip: Any, where: str) -> None:
    """Warns of the first clip of this process in which no face was found."""
    clip = clip.get("path") if isinstance(clip, dict) else clip
    if not _said:
        _said.append(os.fspath(clip) if isinstance(clip, str | os.PathLike) else where)
        text = "no face was found in %s, which has no vision then; other clips without a face are not named"
        logger.warning(text, _said[0])


# --- detectors -------------------------------------------------------------------------------------------------------


def find_detector(name: str) -> Detector:
    """
    The detector of this name: `dlib`, an entry point of the group `clcr_hf.face_detectors`, or `module:function`.

    `module:function` is imported only where [`allow_detector`] or the environment variable `CLCR_FACE_DETECTORS`
    (names with commas between them) allows it: the name may come from a model that somebody else has published.

    Raises:
        ValueError: an unknown name, or one that is not allowed; ImportError: its package is not installed.
    """
    if name == DEFAULT_DETECTOR:
        _import_dlib()
        return _dlib_faces
    for each in entry_points(group=ENTRY_POINTS, name=name):
        return each.load()
    if ":" not in name:
        known = sorted({DEFAULT_DETECTOR, *(each.name for each in entry_points(group=ENTRY_POINTS))})
        raise ValueError(f"unknown face detector {name!r}; known: {', '.join(known)}, or your own as module:function")
    if name not in os.environ.get(ALLOWED, "").split(","):
        raise ValueError(
            f"the face detector {name!r} is code of its own, which is run only where you allow it: set {ALLOWED}={name}"
        )
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"the face detector {name!r} cannot be imported here: {error}") from error


def allow_detector(name: str) -> None:
    """Allows a detector `module:function` in this process and those that it starts."""
    allowed = [each for each in os.environ.get(ALLOWED, "").split(",") if each]
    os.environ[ALLOWED] = ",".join(dict.fromkeys([*allowed, name]))


def _import_dlib() -> Any:
    return optional("dlib", "face crops need dlib, which is not installed: pip install dlib-bin pillow")


def _dlib_faces(frames: np.ndarray) -> list[np.ndarray]:
    """Faces by dlib's frontal detector (gradient histograms; its weights are compiled into the library)."""
    if not hasattr(_local, "dlib"):  # it keeps its work in itself, so each thread has one
        _local.dlib = _import_dlib().get_frontal_face_detector()
    return [_dlib_frame(frame) for frame in frames]


def _dlib_frame(frame: np.ndarray) -> np.ndarray:
    """`(N, 5)` boxes in pixels of the frame, and scores."""
    height, width = frame.shape[:2]
    scale = min(_ENLARGED, _WIDTH / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    boxes, scores, _ = _local.dlib.run(_resized(frame, *size), 0, _WEAK)
    found = [(box.left(), box.top(), box.right() + 1, box.bottom() + 1) for box in boxes]
    edges = np.array(found, float).reshape(-1, 4) * np.tile(np.divide((width, height), size), 2)
    return np.column_stack([edges, np.array(scores, float)])


# --- tracks: a box is (middle x, middle y, side), in pixels ----------------------------------------------------------


def _detect(frames: Sequence[np.ndarray], detector: Detector) -> list[np.ndarray]:
    """For each frame its faces, `(N, 4)` float64: middle x, middle y, side (of an equal area), score."""
    alike = len({frame.shape for frame in frames}) == 1
    answers = list(detector(np.stack(frames))) if alike else [each for f in frames for each in detector(f[None])]
    if len(answers) != len(frames):
        raise ValueError(f"the face detector answered for {len(answers)} of {len(frames)} frames")
    return [_as_boxes(answer) for answer in answers]


def _as_boxes(answer: Any) -> np.ndarray:
    faces = np.asarray(answer, float)
    if faces.size == 0:
        return np.zeros((0, 4))
    if faces.ndim != 2 or faces.shape[1] not in (4, 5) or not np.isfinite(faces).all():
        raise ValueError(f"a face must be (left, top, right, bottom[, score]), all finite, got {answer!r:.200}")
    left, top, right, bottom = faces[:, :4].T
    score = faces[:, 4] if faces.shape[1] == 5 else np.ones(len(faces))
    boxes = np.stack([(left + right) / 2, (top + bottom) / 2, np.sqrt(np.abs((right - left) * (bottom - top))), score])
    return boxes.T[(right > left) & (bottom > top)]


def _follow(faces: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tracks as frames `(K,)` and boxes `(K, 3)`. Of all pairs of a track and a face, the nearest are joined first."""
    tracks: list[list[tuple[int, np.ndarray]]] = []
    for at, found in enumerate(faces):
        pairs = sorted(
            (distance, t, f)
            for t, track in enumerate(tracks)
            for f, face in enumerate(found)
            if (distance := _distance(track[-1][1], face)) <= 1
        )
        joined: set[int] = set()
        for _, t, f in pairs:
            if f not in joined and tracks[t][-1][0] != at:
                tracks[t].append((at, found[f]))
                joined.add(f)
        tracks += [[(at, face)] for f, face in enumerate(found) if f not in joined and face[3] > 0]
    return [(np.array([at for at, _ in track]), np.array([box[:3] for _, box in track])) for track in tracks]


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """How far two boxes are apart in place and size; above 1 they are not of one face."""
    moved = np.hypot(*(first[:2] - second[:2])) / (_REACH * max(first[2], second[2]))
    return float(max(moved, abs(np.log(first[2] / second[2])) / np.log(_GROWTH)))


def _weight(frames: Sequence[np.ndarray], kept: np.ndarray, boxes: np.ndarray) -> float:
    """
    How much of a speaker a track is: its sides in shares of the frame, summed, and up to twice that if it talks
    (the mouth moves more than the eyes do; a head that moves as a whole moves both).
    """
    sides = sum(box[2] / max(frames[at].shape[:2]) for at, box in zip(kept, boxes, strict=True))
    looks = np.stack([_look(frames[at], box) for at, box in zip(kept, boxes, strict=True)])
    moves = np.abs(np.diff(looks, axis=0)).mean(-1)  # (K - 1, 16), by row of the face
    mouth, eyes = (moves[:, 11:].mean(), moves[:, 3:8].mean()) if len(moves) else (0.0, 0.0)
    return float(sides * (1 + max(0.0, mouth - eyes) / (mouth + eyes + _STILL)))


def _look(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The face alone in grey, `(16, 16)` float64: rows 3 to 7 hold the eyes, from 11 on the mouth."""
    return _resized(_square(frame, box[:2], box[2]), 16, 16).mean(-1)


def _smooth(boxes: np.ndarray) -> np.ndarray:
    """
    Boxes `(K, 3)` without the detector's noise: each as the mean of itself and its two neighbours on either side (as
    many as both sides have), but near where it was, so that a jump of the head stays one. It goes by frames, not by
    seconds, so that frames in memory and those of a file are cut alike.
    """
    reach = [min(2, at, len(boxes) - 1 - at) for at in range(len(boxes))]
    means = np.stack([boxes[at - r : at + r + 1].mean(0) for at, r in enumerate(reach)])
    limit = _JITTER * boxes[:, 2:]
    return boxes + np.clip(means - boxes, -limit, limit)


def _cut(frame: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """The square around a box with its margin, `(side, side, 3)`."""
    return _resized(_square(frame, box[:2], box[2] * _MARGIN), side, side)


def _square(frame: np.ndarray, middle: np.ndarray, side: float) -> np.ndarray:
    """The pixels of a square; beyond the frame's edge, the edge is repeated."""
    length = int(np.clip(np.rint(side), 1, 2 * max(frame.shape[:2])))
    x, y = (np.rint(middle - length / 2)).astype(int)
    rows = np.clip(np.arange(y, y + length), 0, frame.shape[0] - 1)
    columns = np.clip(np.arange(x, x + length), 0, frame.shape[1] - 1)
    return np.ascontiguousarray(frame[rows[:, None], columns])


def _resized(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    advice = "face crops need Pillow, which is not installed: pip install dlib-bin pillow"
    Image = optional("PIL.Image", advice)
    return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
