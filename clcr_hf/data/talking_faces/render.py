"""A generated corpus: short clips of a drawn face that speaks, with a sentiment score whose parts are known.

Nothing here was recorded. Each clip is an MP4 of two seconds (a drawn face of 64 x 64 pixels, a synthetic voice at
16 kHz) with a transcript, all three made from a handful of latent factors that are written beside the clip. The score
in [-3, 3] is a function of these factors (`label_from_latents`), so one can say how well any subset of the modalities
can do (`bayes_scores`) and test whether a model keeps shared and private content apart.

The factors, by modality and by the time scale at which they are carried:

=========  =======================  ==================================  ==========================================
level      text                     audio                               vision
=========  =======================  ==================================  ==========================================
instant    one exclamation          one loud syllable, chirped or       a smile or grimace that flashes for two
           (`text_word`)            growled (`audio_syllable`)          frames (`vision_flash`)
phrase     a judgement, perhaps     rise or fall of each phrase         expression that lasts
           negated (`text_phrase`)  (`audio_contour`)                   (`vision_expression`)
whole      a "but" clause that      deadpan voice that turns the words  late change of expression
           takes over               into their opposite                 (`vision_final`)
           (`text_final`)           (`audio_deadpan`)
=========  =======================  ==================================  ==========================================

The phrase factors of the three modalities depend on one hidden mood (`shared`): that is the redundant part. The
instant factors and the late turns belong to one modality alone. The deadpan voice says nothing by itself and nothing
can be known of the words' sense without it: that is the interaction. Everything else (colours, position, base pitch,
fillers, topic, noise) is private nuisance, drawn independently of the score.

All factors are our own construction; the paper has no such corpus.
"""

import csv
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ...media import write_video
from .factors import (
    GENERATOR_VERSION,
    MARKER,
    MODALITIES,
    SPLITS,
    WORDS,
    Latents,
    bayes_scores,
    draw_latents,
    label_from_latents,
    score_parts,
)

SAMPLING_RATE = 16_000
FPS = 10
NUM_FRAMES = 20
IMAGE_SIZE = 64
NUM_SAMPLES = SAMPLING_RATE * NUM_FRAMES // FPS

# --- words -----------------------------------------------------------------------------------------------------------


def render_text(latents: Latents) -> str:
    """Transcript: filler, exclamation, first clause, then a "but" clause or a neutral tail. Lower case, no signs."""
    rng = np.random.default_rng([latents.surface_seed, 1])
    words = [latents.filler] if latents.filler else []
    if latents.text_word:
        words.append(str(rng.choice(WORDS["exclamations"]["good" if latents.text_word > 0 else "bad"])))
    words += ["the", latents.topic, "was", _judgement(rng, latents.text_phrase)]
    if latents.text_final:
        words += ["but the", str(rng.choice(WORDS["second_topics"])), "was", _judgement(rng, latents.text_final)]
    elif rng.random() < 0.6:
        words.append(str(rng.choice(WORDS["tails"])))
    return " ".join(words)


def _judgement(rng: np.random.Generator, sense: float) -> str:
    """Full sense: a strong word, or a mild one intensified. Half sense: a mild word, or any opposite one negated."""
    kind, other = ("good", "bad") if sense > 0 else ("bad", "good")
    strong, mild = WORDS["strong"], WORDS["mild"]
    if abs(sense) == 1:
        if rng.random() < 0.6:
            return str(rng.choice(strong[kind]))
        return f"{rng.choice(WORDS['intensifiers'])} {rng.choice(mild[kind])}"
    if rng.random() < 0.6:
        return str(rng.choice(mild[kind]))
    return f"not {rng.choice(mild[other] + strong[other])}"


# --- voice -----------------------------------------------------------------------------------------------------------

_VOWELS = np.array([[750, 1200, 2500], [500, 1850, 2500], [320, 2250, 2950], [480, 900, 2400], [350, 800, 2250]], float)


@dataclass
class _Speech:
    """Syllables of a clip: first and last sample, place in the phrase in [-1, 1], vowel, accent of the instant cue."""

    begin: np.ndarray
    end: np.ndarray
    place: np.ndarray
    vowel: np.ndarray
    accent: np.ndarray


def _plan_speech(latents: Latents) -> _Speech:
    rng = np.random.default_rng([latents.surface_seed, 2])
    a_phrase = max(2, round((3 if latents.audio_deadpan else 5) * latents.speaking_rate + rng.uniform(-0.3, 0.3)))
    edges = [np.linspace(0.08, 0.94, a_phrase + 1), np.linspace(1.06, 1.92, a_phrase + 1)]
    begin = np.concatenate([edge[:-1] for edge in edges])
    length = np.repeat(0.86 / a_phrase, begin.size) * (0.97 if latents.audio_deadpan else 0.72)
    accent = np.zeros(begin.size)
    accent[rng.integers(begin.size)] = latents.audio_syllable
    return _Speech(
        begin=np.round(begin * SAMPLING_RATE).astype(int),
        end=np.round((begin + length) * SAMPLING_RATE).astype(int),
        place=np.tile(np.linspace(-1, 1, a_phrase), 2),
        vowel=rng.integers(len(_VOWELS), size=begin.size),
        accent=accent,
    )


def render_voice(latents: Latents) -> np.ndarray:
    """Waveform: float32 `(32000,)` at 16 kHz in [-1, 1], voiced syllables with formants."""
    rng = np.random.default_rng([latents.surface_seed, 3])
    speech = _plan_speech(latents)
    wave = latents.audio_noise * rng.standard_normal(NUM_SAMPLES)
    for k in range(speech.begin.size):
        wave[speech.begin[k] : speech.end[k]] += _syllable(latents, speech, k, rng)
    return np.clip(wave * 10 ** (latents.voice_gain / 20), -0.99, 0.99).astype(np.float32)


def _syllable(latents: Latents, speech: _Speech, k: int, rng: np.random.Generator) -> np.ndarray:
    size = speech.end[k] - speech.begin[k]
    seconds = np.arange(size) / SAMPLING_RATE
    lively, accent = not latents.audio_deadpan, speech.accent[k]
    # The glide goes on within the syllable, so that the phrase rises or falls in one line.
    place = speech.place[k] + np.linspace(-0.2, 0.2, size)
    semitones = 5 * latents.audio_contour * place + 6 * accent
    decibels = 5 * latents.audio_contour * speech.place[k] + 9 * abs(accent)
    if lively:
        semitones = semitones + rng.uniform(-1.5, 1.5) + 0.6 * np.sin(2 * np.pi * 5.5 * seconds)
        decibels += rng.uniform(-2, 2)
    pulses = _pulses(latents.base_pitch * 2 ** (semitones / 12))
    if accent < 0:
        pulses = pulses * (1 + np.sign(np.sin(2 * np.pi * 35 * seconds)))  # a growl
    formants = _VOWELS[speech.vowel[k]] * (1 + 0.12 * latents.audio_contour * speech.place[k])
    voiced = _through_formants(pulses, formants, dull=not lively)
    voiced *= 0.08 * 10 ** (decibels / 20) / (np.sqrt(np.mean(voiced**2)) + 1e-9)
    fade = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / (0.02 * SAMPLING_RATE))
    voiced *= fade
    if lively:
        voiced[: SAMPLING_RATE // 30] += 0.05 * np.diff(rng.standard_normal(SAMPLING_RATE // 30 + 1))  # a consonant
    return voiced


def _pulses(pitch: np.ndarray) -> np.ndarray:
    """Train of glottal pulses without content over 7 kHz: a sum of equal cosines in closed form."""
    half_phase = np.pi * np.cumsum(pitch) / SAMPLING_RATE
    harmonics = int(7000 / pitch.max())
    sine = np.sin(half_phase)
    sine = np.where(np.abs(sine) < 1e-4, 1e-4, sine)
    return np.sin((2 * harmonics + 1) * half_phase) / (2 * sine) - 0.5


def _through_formants(pulses: np.ndarray, formants: np.ndarray, dull: bool) -> np.ndarray:
    frequency = np.fft.rfftfreq(pulses.size, 1 / SAMPLING_RATE)[:, None]
    gain = (np.array([1, 0.6, 0.35]) / (1 + ((frequency - formants) / np.array([90, 120, 160])) ** 2)).sum(1)
    tilt = 1 / (1 + (frequency[:, 0] / (500 if dull else 1500)) ** (2 if dull else 1))
    return np.fft.irfft(np.fft.rfft(pulses) * gain * tilt, pulses.size)


# --- face ------------------------------------------------------------------------------------------------------------


def render_face(latents: Latents) -> np.ndarray:
    """Pictures: uint8 `(20, 64, 64, 3)`, RGB."""
    rng = np.random.default_rng([latents.surface_seed, 4])
    mood, flash = _expression_track(latents, rng)
    sway = 0.8 * np.sin(np.arange(NUM_FRAMES) / FPS * 2 * np.pi * rng.uniform(0.3, 0.7) + rng.uniform(0, 6))
    axis = (np.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2) / latents.head_scale
    x = axis[None, None, :] - (latents.head_x + sway)[:, None, None]
    y = axis[None, :, None] - latents.head_y
    skin = _mix((250, 222, 195), (122, 78, 52), latents.skin)
    hair = _mix((225, 190, 90), (35, 25, 25), latents.hair)
    canvas = np.empty((NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    canvas[:] = _hue(latents.background)
    _paint(canvas, _ellipse(x, y, 24, 29), hair)
    _paint(canvas, _ellipse(x, y - 4, 21, 24), skin)
    _paint_eyes(canvas, x, y, _eye_opening(mood, flash, rng))
    _paint_brows(canvas, x, y, mood, hair)
    _paint_mouth(canvas, x, y, mood, _mouth_opening(latents))
    canvas += latents.image_noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def _expression_track(latents: Latents, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Expression and flash by frame, `(20,)` each; the flash comes in the first half, the change in the last third."""
    frame = np.arange(NUM_FRAMES)
    turn = rng.integers(12, 15)
    share = np.clip((frame - turn + 1) / 2, 0, 1) if latents.vision_final else np.zeros(NUM_FRAMES)
    mood = (1 - share) * latents.vision_expression + share * latents.vision_final
    at = rng.integers(2, 9)
    flash = latents.vision_flash * ((frame == at) | (frame == at + 1)).astype(float)
    return np.where(flash != 0, 1.5 * flash, mood), flash


def _mouth_opening(latents: Latents) -> np.ndarray:
    """Share to which the mouth is open in each frame: open in the middle of a syllable."""
    speech = _plan_speech(latents)
    moment = (np.arange(NUM_FRAMES) + 0.5) / FPS * SAMPLING_RATE
    middle, half = (speech.begin + speech.end) / 2, (speech.end - speech.begin) / 2
    near = 1 - np.abs(moment[:, None] - middle) / half
    return np.clip(near.max(1), 0, 1)


def _eye_opening(mood: np.ndarray, flash: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    opening = np.clip(0.8 + 0.15 * mood + 0.4 * flash, 0.15, 1.3)
    opening[rng.integers(NUM_FRAMES)] = 0.1  # a blink
    return opening


def _paint_eyes(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, opening: np.ndarray) -> None:
    for side in (-8, 8):
        lid = _ellipse(x - side, y + 3, 4.2, 3.6 * opening[:, None, None])
        _paint(canvas, lid, (250, 250, 250))
        _paint(canvas, np.minimum(lid, _ellipse(x - side, y + 3, 2, 2)), (25, 25, 40))


def _paint_brows(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, mood: np.ndarray, colour: tuple) -> None:
    """Brows go up with the mood; a gloomy one lowers their outer ends."""
    level = mood[:, None, None]
    outward = np.abs(x) - 8
    line = y + 10.5 + 1.5 * level + 0.25 * np.minimum(level, 0) * outward
    _paint(canvas, _cover(np.maximum(np.abs(line) - 1.1, np.abs(outward) - 4.5)), colour)


def _paint_mouth(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, mood: np.ndarray, opening: np.ndarray) -> None:
    level, opening = mood[:, None, None], opening[:, None, None]
    width = 11 + 1.5 * level
    line = y - 14 - 8 * level * (0.4 - (x / width) ** 2)
    thickness = 1.2 + 2.2 * opening * (1 - np.clip(np.abs(x) / width, 0, 1) ** 2)
    lips = _cover(np.maximum(np.abs(line) - thickness, np.abs(x) - width))
    inside = _cover(np.maximum(np.abs(line) - (thickness - 1.2), np.abs(x) - width))
    _paint(canvas, lips, (165, 35, 45))
    _paint(canvas, inside, (60, 10, 15))


def _ellipse(x: np.ndarray, y: np.ndarray, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
    return _cover((np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1) * np.minimum(a, b))


def _cover(distance: np.ndarray) -> np.ndarray:
    """Share of a pixel inside a shape whose edge is `distance` pixels away (negative inside)."""
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)


def _paint(canvas: np.ndarray, cover: np.ndarray, colour: Iterable[float]) -> None:
    rows, columns = (np.flatnonzero(cover.any(axis=others)) for others in ((0, 2), (0, 1)))
    if rows.size:  # outside of this box nothing would change
        box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        canvas[box] += cover[box][..., None] * (np.asarray(colour, np.float32) - canvas[box])


def _mix(first: tuple, second: tuple, share: float) -> tuple:
    return tuple(a + share * (b - a) for a, b in zip(first, second, strict=True))


def _hue(hue: float) -> tuple:
    """A pastel colour of the given hue."""
    return tuple(150 + 70 * float(np.cos(2 * np.pi * (hue + shift / 3))) for shift in range(3))


def render_clip(latents: Latents) -> tuple[np.ndarray, np.ndarray, str]:
    """Renders a clip; a pure function.

    Returns:
        frames: uint8 `(20, 64, 64, 3)`, RGB at 10 frames a second.
        waveform: float32 `(32000,)` at 16 kHz in [-1, 1].
        text: the transcript.
    """
    return render_face(latents), render_voice(latents), render_text(latents)


# --- the folder ------------------------------------------------------------------------------------------------------

_STALE_SECONDS = 6 * 3600  # drafts older than this were left by a run that was killed


def generate_talking_faces(
    output_dir: str | os.PathLike[str],
    seed: int = 0,
    num_train: int = 480,
    num_validation: int = 96,
    num_test: int = 96,
    num_workers: int | None = None,
) -> Path:
    """Writes the corpus as a folder of clips that `datasets.load_dataset("videofolder", data_dir=...)` reads.

    Layout: `<output_dir>/<split>/metadata.csv` with columns `file_name`, `text`, `label` (the score), the parts of
    the score and every latent factor; the clips beside it; `README.md` and `talking_faces.json` (version, seed,
    sizes). The folder appears only when it is whole. A whole folder made with the same arguments is left as it is; one
    that lost files is made again. Clip k of a split depends on the seed, the split and k alone, so a smaller corpus
    is the beginning of a larger one.

    Args:
        output_dir: folder to make; its parents are created.
        seed: 0 or more.
        num_train, num_validation, num_test: clips in each split; a split of 0 clips is left out.
        num_workers: threads that render; None for one a core.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something else, or a corpus made with other arguments.
        ValueError: a negative number, or no clips at all.
        ImportError: PyAV is not installed.
    """
    target = Path(output_dir).expanduser()
    sizes = dict(zip(SPLITS, (num_train, num_validation, num_test), strict=True))
    if seed < 0 or min(sizes.values()) < 0 or not any(sizes.values()):
        raise ValueError(f"seed and sizes must be 0 or more and some split must have clips, got {seed=}, {sizes}")
    recipe = {"generator": "clcr_hf.data.talking_faces", "version": GENERATOR_VERSION, "seed": seed, "sizes": sizes}
    if _is_whole(target, recipe):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale_drafts(target)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.draft-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        _write_corpus(draft, recipe, num_workers or os.cpu_count() or 1)
        _move_into_place(draft, target, recipe)
    return target


def _is_whole(target: Path, recipe: dict) -> bool:
    """Whether the corpus is there. False where it may be written; raises where something else is in the way."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    marker = target / MARKER
    if not marker.is_file():
        raise FileExistsError(f"{target} exists and is no talking-faces corpus; give another output_dir")
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        raise FileExistsError(f"{marker} cannot be read; delete {target} or give another output_dir") from None
    if {key: found.get(key) for key in recipe} != recipe:
        raise FileExistsError(
            f"{target} holds a corpus made with other arguments ({found}); delete it or give another output_dir"
        )
    expected = _expected_files(recipe["sizes"])
    present = {str(path.relative_to(target).as_posix()): path for path in target.rglob("*") if path.is_file()}
    if all(name in present and present[name].stat().st_size > 0 for name in expected):
        return True
    foreign = sorted(set(present) - expected)
    if foreign:
        raise FileExistsError(f"{target} lacks clips but holds other files ({foreign[0]}); move them away first")
    return False


def _expected_files(sizes: Mapping[str, int]) -> set[str]:
    clips = {f"{split}/{_clip_name(index)}" for split in SPLITS for index in range(sizes[split])}
    return clips | {f"{split}/metadata.csv" for split in SPLITS if sizes[split]} | {MARKER, "README.md"}


def _clip_name(index: int) -> str:
    return f"clip_{index:05d}.mp4"


def _write_corpus(folder: Path, recipe: dict, num_workers: int) -> None:
    jobs = []
    for split in SPLITS:
        if recipe["sizes"][split]:
            (folder / split).mkdir(parents=True)
        latents = [draw_latents(recipe["seed"], split, index) for index in range(recipe["sizes"][split])]
        if latents:
            _write_metadata(folder / split / "metadata.csv", latents)
        jobs += [(folder / split / _clip_name(index), clip) for index, clip in enumerate(latents)]
    # Threads, not processes: the time goes to NumPy and FFmpeg, which let go of the interpreter, and a script that
    # calls this needs no `if __name__ == "__main__"`.
    with ThreadPoolExecutor(num_workers) as pool:
        for _ in pool.map(_write_clip, *zip(*jobs, strict=True)):
            pass
    (folder / "README.md").write_text(_card(recipe), encoding="utf-8")
    (folder / MARKER).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")


def _write_clip(path: Path, latents: Latents) -> None:
    write_video(path, render_face(latents), FPS, render_voice(latents), SAMPLING_RATE)


def _write_metadata(path: Path, clips: list[Latents]) -> None:
    rows = []
    for index, latents in enumerate(clips):
        row = {
            "file_name": _clip_name(index),
            "text": render_text(latents),
            "label": float(label_from_latents(latents)),
        }
        parts = {f"part_{name}": round(float(part), 4) + 0.0 for name, part in score_parts(asdict(latents)).items()}
        rows.append(row | parts | asdict(latents))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _move_into_place(draft: Path, target: Path, recipe: dict) -> None:
    """Renames the draft; another process that finished first wins, as both made the same files."""
    if _is_whole(target, recipe):
        return
    if target.exists():
        shutil.rmtree(target)
    try:
        draft.rename(target)
    except OSError:
        if not _is_whole(target, recipe):
            raise


def _remove_stale_drafts(target: Path) -> None:
    for draft in target.parent.glob(f".{target.name}.draft-*"):
        if time.time() - draft.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(draft, ignore_errors=True)


def _card(recipe: dict) -> str:
    sizes = ", ".join(f"{split} {count}" for split, count in recipe["sizes"].items())
    rows = "\n".join(
        "| {} | {mae:.3f} | {corr:.3f} | {acc2:.3f} |".format(" + ".join(seen), **bayes_scores(seen))
        for count in (1, 2, 3)
        for seen in combinations(MODALITIES, count)
    )
    text = Path(__file__).with_name("card.md").read_text("utf-8")
    return text.format(sizes=sizes, seed=recipe["seed"], version=recipe["version"], rows=rows)
