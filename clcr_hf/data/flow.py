"""Optical flow between neighbouring frames, computed by OpenCV (extra `flow`) and kept in files.

A flow file is an `.npz` with `flow`, float16 `(F, H, W, 2)`: how far each pixel moves to the right and down, in pixels
of the stored size, from one frame of the clip to the next; and `timestamps`, float64 `(F,)`: when, in seconds, the
first frame of each pair is shown.

The paper takes three flow frames of UCF101 and does not say how they were made (section 8). Ours are the flow between
native neighbours at three moments spread evenly over the clip, cut at 20 pixels as in the two-stream networks.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from ..media import MediaError, load_flow, load_video
from ..samples import window_of
from .errors import optional_package
from .folders import replacing

logger = logging.getLogger("clcr_hf.data.flow")

FlowMethod = Literal["farneback", "dis"]
_Clip = tuple[str, float, float | None]  # path, and the stretch of the file in seconds

_LONGEST_STEM = 150  # bytes of a clip's name that are kept; file systems allow 255, the draft's ending included
_VERSION = 1  # of the computation: part of the cache's key
_WINDOWS = (0.1, 0.4, 1.6, None)  # seconds in which a frame's neighbour is looked for; None: to the end of the clip
_BEFORE = 1e-4  # seconds; a window that starts this much early has the frame itself in it for certain


@dataclass(frozen=True)
class FlowOptions:
    """How the flow of a clip is computed.

    Args:
        num_frames: at how many moments, chosen as `load_video` chooses frames.
        size: frames are scaled before: so that the shorter side has this many pixels, or to (height, width); None
            keeps their size. Flow is in pixels of the scaled frames.
        method: see `compute_flow`.
        max_displacement: flow is cut at plus and minus this many pixels (two-stream networks store it so); None does
            not cut.

    Raises:
        ValueError: a size or displacement out of range.
    """

    num_frames: int = 3
    size: int | tuple[int, int] | None = 224
    method: FlowMethod = "farneback"
    max_displacement: float | None = 20.0

    def __post_init__(self) -> None:
        sides = () if self.size is None else (self.size,) if isinstance(self.size, int) else tuple(self.size)
        if len(sides) > 2 or any(not isinstance(side, int) or side < 1 for side in sides):
            raise ValueError(f"size must be a side, (height, width) or None, got {self.size!r}")
        if self.max_displacement is not None and not self.max_displacement > 0:
            raise ValueError(f"max_displacement must be positive or None, got {self.max_displacement}")


def compute_flow(frames: np.ndarray, method: FlowMethod = "farneback") -> np.ndarray:
    """Dense optical flow between each frame and the next.

    Args:
        frames: uint8 `(F, H, W, 3)`, RGB.
        method: "farneback" (polynomial expansion, 3 levels, windows of 15 pixels) or "dis" (dense inverse search,
            medium preset: faster, sharper at edges; frames of at least 16 x 16).

    Returns:
        float32 `(F - 1, H, W, 2)`, pixels to the right and down.

    Raises:
        ValueError: wrong shape or type, fewer than two frames, an unknown method, frames too small for it.
        ImportError: OpenCV is not installed.
    """
    cv2 = _import_cv2()
    if not (isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3):
        raise ValueError(f"frames must be uint8 (F, H, W, 3), got {np.asarray(frames).dtype} {np.shape(frames)}")
    if len(frames) < 2 or 0 in frames.shape:
        raise ValueError(f"flow needs two frames or more, got {frames.shape}")
    if method not in ("farneback", "dis"):
        raise ValueError(f"method must be 'farneback' or 'dis', got {method!r}")
    if method == "dis" and min(frames.shape[1:3]) < 16:
        raise ValueError(f"method 'dis' needs frames of at least 16 x 16, got {frames.shape[1:3]}; take 'farneback'")
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    step = _stepper(cv2, method)
    return np.stack([step(one, two) for one, two in zip(grey, grey[1:], strict=False)])


def compute_clip_flow(
    video: str | os.PathLike[str],
    *,
    start: float = 0.0,
    end: float | None = None,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Flow at moments spread evenly over a clip, each between the frame on screen then and the clip's next one.

    At the clip's last frame it is the flow that leads to it; a clip of a single frame does not move.

    Args:
        video: path of a clip.
        start, end: of a stretch of the file, in seconds.
        options: of [`FlowOptions`].

    Returns:
        Flow float32 `(num_frames, H, W, 2)`, and float64 `(num_frames,)`, when the first frame of each pair is shown,
        in seconds.

    Raises:
        MediaError: the clip cannot be read.
        ValueError: arguments out of range.
        ImportError: OpenCV or PyAV is not installed.
    """
    how = FlowOptions(**options)
    moments = load_video(video, num_frames=how.num_frames, start=start, end=end).timestamps
    flows, times = [], []
    for moment in moments:
        pair, time = _neighbours(video, float(moment))
        flows.append(compute_flow(_scaled(pair, how.size), how.method)[0])
        times.append(max(time, start))  # the first may be on screen already when the stretch begins
    flow = np.stack(flows)
    if how.max_displacement is not None:
        flow = np.clip(flow, -how.max_displacement, how.max_displacement)
    return flow, np.array(times, dtype=np.float64)


def save_flow(path: str | os.PathLike[str], flow: np.ndarray, timestamps: np.ndarray) -> Path:
    """Write a flow file; it appears whole or not at all.

    Args:
        path: where; its folder is created.
        flow: floats `(F, H, W, 2)`, finite; stored as float16 (0.01 pixel at 20).
        timestamps: seconds, `(F,)`.

    Returns:
        The path.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity.
    """
    flow, timestamps = np.asarray(flow), np.asarray(timestamps, dtype=np.float64)
    if flow.ndim != 4 or flow.shape[3] != 2 or 0 in flow.shape or timestamps.shape != flow.shape[:1]:
        raise ValueError(f"flow must be (F, H, W, 2) with F timestamps, got {flow.shape} and {timestamps.shape}")
    with np.errstate(over="ignore"):
        stored = flow.astype(np.float16)
    if not (np.isfinite(stored).all() and np.isfinite(timestamps).all()):
        raise ValueError("flow and timestamps must be finite")
    target = Path(path)
    with replacing(target) as draft, open(draft, "wb") as file:
        np.savez(file, flow=stored, timestamps=timestamps)
    return target


def cached_flow(
    video: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    *,
    start: float = 0.0,
    end: float | None = None,
    **options: Any,
) -> Path:
    """The flow file of a clip in `cache_dir`, computed where there is none yet.

    A file is known by the clip's path, size and time of change and by the options, so a changed clip is computed
    again. A damaged file is replaced. Any number of processes may do this at once: the worst is work done twice.

    Args and errors as in `compute_clip_flow`.

    Returns:
        Path of the `.npz`, `<clip's name>-<key>.npz`.
    """
    target = _cache_path((os.fspath(video), start, end), cache_dir, FlowOptions(**options))
    if target.exists():
        try:
            load_flow(target)
            return target
        except MediaError as error:
            logger.warning("%s; it is computed again", error)
    return save_flow(target, *compute_clip_flow(os.path.abspath(video), start=start, end=end, **options))


def add_flow(
    splits: Mapping[str, Any],
    cache_dir: str | os.PathLike[str],
    *,
    num_workers: int = 1,
    share: tuple[int, int] = (0, 1),
    wait: Callable[[], None] | None = None,
    **options: Any,
) -> Any:
    """Fill the column `flow` of a data set with the flow files of its clips, computing those that are not there.

    Rows with `start` and `end` get the flow of that stretch. Rows that have a flow file keep it. Clips that cannot be
    read get None and are listed in a warning. Stopped work goes on where it stood. Several processes divide the clips
    among them by `share` and `wait`; none is done twice.

    Args:
        splits: a `DatasetDict` of rows with a column `video` or `media` of paths (`Video(decode=False)` or strings).
        cache_dir: where the files are kept.
        num_workers: threads; decoding and flow run outside Python's lock.
        share: number of this process, from 0, and how many take part. They must see the same rows and folder.
        wait: returns when all of them have called it, as `accelerator.wait_for_everyone` does.
        options: of [`FlowOptions`].

    Returns:
        A `DatasetDict` of the same rows with `flow` (str, or None).

    Raises:
        ValueError: no column of clips, clips that are bytes and not files, arguments out of range, several processes
            and no `wait`.
        ImportError: OpenCV or PyAV is not installed.
    """
    from datasets import DatasetDict

    cv2 = _import_cv2()
    how = FlowOptions(**options)
    if not 0 <= share[0] < share[1] or (share[1] > 1 and wait is None):
        raise ValueError(f"share must be (number, count), and several processes need `wait`; got {share}, {wait}")
    threads = cv2.getNumThreads()
    try:
        if num_workers > 1:
            cv2.setNumThreads(1)
        parts = {name: _clips_without_flow(rows, name) for name, rows in splits.items()}
        for name, clips in parts.items():
            distinct = list(dict.fromkeys(clip for clip in clips if clip is not None))
            _compute_all(distinct[share[0] :: share[1]], name, cache_dir, num_workers, how)
        if wait is not None:
            wait()
        return DatasetDict({name: _with_flow(rows, parts[name], cache_dir, how) for name, rows in splits.items()})
    finally:
        cv2.setNumThreads(threads)


# --- parts -----------------------------------------------------------------------------------------------------------


def _stepper(cv2: ModuleType, method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What makes flow `(H, W, 2)` of two grey frames."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) if method == "dis" else None

    def step(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        if np.array_equal(one, two):  # repeated frames; Farneback would find up to 0.1 pixel at the borders
            return np.zeros((*one.shape, 2), dtype=np.float32)
        if search is not None:
            return search.calc(one, two, None)
        return cv2.calcOpticalFlowFarneback(one, two, None, 0.5, 3, 15, 3, 5, 1.2, 0)

    return step


def _neighbours(video: str | os.PathLike[str], moment: float) -> tuple[np.ndarray, float]:
    """The frame shown at `moment` (a frame's own time) and the next, `(2, H, W, 3)`, and the first one's time."""
    start = max(moment - _BEFORE, 0.0)
    for window in _WINDOWS:
        clip = load_video(video, start=start, end=None if window is None else moment + window)
        if len(clip) > 1:
            return clip.frames[:2], float(clip.timestamps[0])
    for window in _WINDOWS:  # the clip's last frame
        start = 0.0 if window is None else max(moment - window, 0.0)
        clip = load_video(video, start=start)
        if len(clip) > 1:
            return clip.frames[-2:], float(clip.timestamps[-2])
    return np.repeat(clip.frames, 2, axis=0), float(clip.timestamps[0])


def _scaled(frames: np.ndarray, size: int | tuple[int, int] | None) -> np.ndarray:
    """Frames `(F, H, W, 3)` at the size asked for."""
    if size is None:
        return frames
    height, width = frames.shape[1:3]
    if isinstance(size, int):
        short = min(height, width)
        size = (max(round(height * size / short), 1), max(round(width * size / short), 1))
    if tuple(size) == (height, width):
        return frames
    cv2 = _import_cv2()
    smaller = size[0] * size[1] < height * width
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (size[1], size[0]), interpolation=how) for frame in frames])


def _cache_path(clip: _Clip, cache_dir: str | os.PathLike[str], how: FlowOptions) -> Path:
    """Where the flow of a clip is kept; MediaError where there is no such clip."""
    video, start, end = clip
    path = os.path.abspath(video)
    try:
        status = os.stat(path)
    except OSError as error:
        raise MediaError(f"{video} cannot be read: {error.strerror}") from error
    stretch = {} if (start, end) == (0.0, None) else {"start": start, "end": end}
    identity = json.dumps([_VERSION, path, status.st_size, status.st_mtime_ns, asdict(how) | stretch], sort_keys=True)
    key = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:16]
    name = Path(path).stem.encode(errors="surrogateescape")[:_LONGEST_STEM].decode(errors="ignore")
    return Path(cache_dir) / f"{name}-{key}.npz"


def _clips_without_flow(rows: Any, split: str) -> list[_Clip | None]:
    """Path and stretch of the clip of each row; None where the row has no clip, or has its flow."""
    names = [name for name in ("video", "media", "start", "end", "flow") if name in rows.column_names]
    if not {"video", "media"} & set(names):
        raise ValueError(f"{split} has no column video or media; it has {', '.join(rows.column_names)}")
    found: list[_Clip | None] = []
    for row in rows.select_columns(names):
        path = _path(row.get("video")) or _path(row.get("media"))
        found.append(None if path is None or row.get("flow") else (path, *window_of([row], path)))
    return found


def _compute_all(
    clips: list[_Clip], split: str, cache_dir: str | os.PathLike[str], num_workers: int, how: FlowOptions
) -> None:
    """Compute the flow files that are not there yet; a warning lists the clips that cannot be read."""
    from datasets.utils import tqdm

    def fault(clip: _Clip) -> str | None:
        try:
            cached_flow(clip[0], cache_dir, start=clip[1], end=clip[2], **asdict(how))
        except MediaError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max(num_workers, 1)) as pool:
        faults = tqdm(pool.map(fault, clips), total=len(clips), desc=f"optical flow, {split}", disable=None)
        unreadable = [text for text in faults if text is not None]
    if unreadable:
        logger.warning("%s: %d clips have no flow: %s", split, len(unreadable), "; ".join(unreadable[:5]))


def _with_flow(rows: Any, clips: list[_Clip | None], cache_dir: str | os.PathLike[str], how: FlowOptions) -> Any:
    """The rows with their flow files, whichever process computed them."""
    from datasets import Value

    def file_of(clip: _Clip | None) -> str | None:
        try:
            target = None if clip is None else _cache_path(clip, cache_dir, how)
        except MediaError:
            return None
        return str(target) if target is not None and target.exists() else None

    flows = [file_of(clip) for clip in clips]
    if "flow" in rows.column_names:
        flows = [given or found for given, found in zip(rows["flow"], flows, strict=True)]
        rows = rows.remove_columns("flow")
    return rows.add_column("flow", flows, feature=Value("string"))


def _path(clip: Any) -> str | None:
    """Path of an undecoded clip, or of a plain string; None where the row has no clip."""
    path = clip.get("path") if isinstance(clip, Mapping) else clip
    if path is None and isinstance(clip, Mapping) and clip.get("bytes") is not None:
        raise ValueError("flow is kept by the clips' paths, and these clips are bytes; write them to files")
    if path is not None and not isinstance(path, str):
        raise ValueError(f"clips must be paths, as Video(decode=False) has them, got {type(clip).__name__}")
    return path or None


def _import_cv2() -> ModuleType:
    return optional_package("cv2", "optical flow needs OpenCV", "flow")
