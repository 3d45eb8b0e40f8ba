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
import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np

from ..media import write_video

GENERATOR_VERSION = 1
SAMPLING_RATE = 16_000
FPS = 10
NUM_FRAMES = 20
IMAGE_SIZE = 64
NUM_SAMPLES = SAMPLING_RATE * NUM_FRAMES // FPS
SPLITS = ("train", "validation", "test")
MODALITIES = ("text", "audio", "vision")
MARKER = "talking_faces.json"

# --- the factors and the score ---------------------------------------------------------------------------------------

INSTANT_WEIGHT = 0.4
TEXT_WEIGHT = 1.8
AUDIO_WEIGHT = 0.9
VISION_WEIGHT = 1.4
LATE_SHARE = 0.8  # of what comes last in the whole of the text or of the expression
DEADPAN_PROBABILITY = 0.2

_MOODS = {-1: 0.35, 0: 0.3, 1: 0.35}
_CUES = {-1: 0.25, 0: 0.5, 1: 0.25}
# P(value | mood = +1); mood -1 mirrors it, mood 0 is uniform.
_PHRASE = {-1.0: 0.08, -0.5: 0.15, 0.5: 0.35, 1.0: 0.42}
_CONTOUR = {-1.0: 0.06, -0.5: 0.1, 0.0: 0.18, 0.5: 0.3, 1.0: 0.36}
_TEXT_TURN_PROBABILITY = 0.3
_VISION_TURN_PROBABILITY = 0.4


@dataclass(frozen=True)
class Latents:
    """Everything a clip is made from.

    Sentiment factors:
        shared: mood behind the three phrase factors, -1, 0 or 1.
        text_word, audio_syllable, vision_flash: instant cues, -1, 0 or 1.
        text_phrase: sense of the first clause, negation counted, in {-1, -0.5, 0.5, 1}.
        text_final: sense of the "but" clause, of opposite sign; 0 where there is none.
        audio_contour: falling (-1) to rising (1) phrases, steps of 0.5.
        audio_deadpan: 1 where the voice is flat and turns the words into their opposite.
        vision_expression: -1 (gloomy) to 1 (cheerful), steps of 0.5.
        vision_final: expression after the late change, of opposite sign; 0 where there is no change.

    Nuisance (independent of the score):
        topic, filler: words; filler may be empty.
        base_pitch: Hz. speaking_rate: factor on the number of syllables. voice_gain: dB. audio_noise: amplitude.
        skin, background, hair: hues in [0, 1]. head_x, head_y: pixels. head_scale: factor. image_noise: grey levels.
        surface_seed: seed of the remaining choices (which of the like words, vowels, blinks, noise).
    """

    shared: int
    text_word: int
    text_phrase: float
    text_final: float
    audio_syllable: int
    audio_contour: float
    audio_deadpan: int
    vision_flash: int
    vision_expression: float
    vision_final: float
    topic: str
    filler: str
    base_pitch: float
    speaking_rate: float
    voice_gain: float
    audio_noise: float
    skin: float
    background: float
    hair: float
    head_x: float
    head_y: float
    head_scale: float
    image_noise: float
    surface_seed: int


SHARED_FACTORS = ("shared",)
TEXT_FACTORS = ("text_word", "text_phrase", "text_final")
AUDIO_FACTORS = ("audio_syllable", "audio_contour", "audio_deadpan")
VISION_FACTORS = ("vision_flash", "vision_expression", "vision_final")
FACTORS = {"text": TEXT_FACTORS, "audio": AUDIO_FACTORS, "vision": VISION_FACTORS}
NUISANCES = tuple(
    field.name
    for field in fields(Latents)
    if field.name not in SHARED_FACTORS + TEXT_FACTORS + AUDIO_FACTORS + VISION_FACTORS
)


def whole_sense(first: np.ndarray | float, final: np.ndarray | float) -> np.ndarray:
    """Sense of the whole: `first` where `final` is 0, else mostly `final` (share `LATE_SHARE`). Shapes broadcast."""
    first, final = np.asarray(first, float), np.asarray(final, float)
    return np.where(final == 0, first, (1 - LATE_SHARE) * first + LATE_SHARE * final)


def score_parts(factors: Mapping[str, np.ndarray | float]) -> dict[str, np.ndarray]:
    """Parts of the score owed to each modality alone and to the words under this voice; their clipped sum is the score.

    Args:
        factors: the sentiment factors of `Latents` by name, numbers or arrays that broadcast.

    Returns:
        `{"text", "audio", "vision", "interaction"}`: float64, broadcast shape.
    """
    value = {name: np.asarray(factors[name], float) for names in FACTORS.values() for name in names}
    words = TEXT_WEIGHT * whole_sense(value["text_phrase"], value["text_final"])
    face = VISION_WEIGHT * whole_sense(value["vision_expression"], value["vision_final"])
    return {
        "text": INSTANT_WEIGHT * value["text_word"] + words,
        "audio": INSTANT_WEIGHT * value["audio_syllable"] + AUDIO_WEIGHT * value["audio_contour"],
        "vision": INSTANT_WEIGHT * value["vision_flash"] + face,
        "interaction": -2 * words * value["audio_deadpan"],
    }


def label_from_latents(factors: Latents | Mapping[str, np.ndarray | float]) -> np.ndarray:
    """The score in [-3, 3], float64: the parts of `score_parts` added, clipped, rounded to three decimals."""
    table = asdict(factors) if isinstance(factors, Latents) else factors
    return np.round(np.clip(sum(score_parts(table).values()), -3, 3), 3) + 0.0


def draw_latents(seed: int, split: str, index: int) -> Latents:
    """Latents of clip `index` of a split; a function of its three arguments only.

    Raises:
        ValueError: unknown split, negative seed or index.
    """
    if split not in SPLITS or seed < 0 or index < 0:
        raise ValueError(f"no clip {index} of split {split!r} with seed {seed}: splits are {SPLITS}, numbers >= 0")
    rng = np.random.default_rng([GENERATOR_VERSION, seed, SPLITS.index(split), index])
    mood = int(_pick(rng, _MOODS))
    phrase = _pick(rng, _given_mood(_PHRASE, mood))
    expression = _pick(rng, _given_mood(_CONTOUR, mood))
    return Latents(
        shared=mood,
        text_word=int(_pick(rng, _CUES)),
        text_phrase=phrase,
        text_final=_pick(rng, _text_turns(phrase)),
        audio_syllable=int(_pick(rng, _CUES)),
        audio_contour=_pick(rng, _given_mood(_CONTOUR, mood)),
        audio_deadpan=int(rng.random() < DEADPAN_PROBABILITY),
        vision_flash=int(_pick(rng, _CUES)),
        vision_expression=expression,
        vision_final=_pick(rng, _vision_turns(expression)),
        topic=str(rng.choice(TOPICS)),
        filler=str(rng.choice(FILLERS)) if rng.random() < 0.6 else "",
        base_pitch=round(float(110 * 2 ** rng.uniform(0, 1)), 2),
        speaking_rate=round(float(rng.uniform(0.9, 1.1)), 4),
        voice_gain=round(float(rng.uniform(-3, 3)), 3),
        audio_noise=round(float(rng.uniform(0.001, 0.006)), 5),
        skin=round(float(rng.random()), 4),
        background=round(float(rng.random()), 4),
        hair=round(float(rng.random()), 4),
        head_x=round(float(rng.uniform(-3, 3)), 3),
        head_y=round(float(rng.uniform(-2, 2)), 3),
        head_scale=round(float(rng.uniform(0.93, 1.07)), 4),
        image_noise=round(float(rng.uniform(2, 10)), 3),
        surface_seed=int(rng.integers(2**31)),
    )


def _pick(rng: np.random.Generator, table: Mapping) -> float:
    values = list(table)
    return values[int(rng.choice(len(values), p=np.array(list(table.values()))))]


def _given_mood(table: Mapping[float, float], mood: float) -> dict[float, float]:
    if mood == 0:
        return {value: 1 / len(table) for value in table}
    return {value: table[value * mood + 0.0] for value in table}


def _text_turns(phrase: float) -> dict[float, float]:
    sign = -1.0 if phrase > 0 else 1.0
    return {0.0: 1 - _TEXT_TURN_PROBABILITY, 0.5 * sign: _TEXT_TURN_PROBABILITY / 2, sign: _TEXT_TURN_PROBABILITY / 2}


def _vision_turns(expression: float) -> dict[float, float]:
    if expression == 0:
        return {
            0.0: 1 - _VISION_TURN_PROBABILITY,
            -1.0: _VISION_TURN_PROBABILITY / 2,
            1.0: _VISION_TURN_PROBABILITY / 2,
        }
    return {0.0: 1 - _VISION_TURN_PROBABILITY, -1.0 if expression > 0 else 1.0: _VISION_TURN_PROBABILITY}


# --- the best anyone can do ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _World:
    """Every combination of factors, its probability and its score, with the axes text, audio, vision (mood summed)."""

    states: dict[str, list[tuple[float, ...]]]
    probability: np.ndarray
    score: np.ndarray


@lru_cache(maxsize=1)
def _world() -> _World:
    given = {mood: _states_given_mood(mood) for mood in _MOODS}
    states = {name: sorted({state for mood in _MOODS for state in given[mood][name]}) for name in MODALITIES}
    probability = np.zeros([len(states[name]) for name in MODALITIES])
    for mood, prior in _MOODS.items():
        text, audio, vision = (np.array([given[mood][name].get(s, 0.0) for s in states[name]]) for name in MODALITIES)
        probability += prior * text[:, None, None] * audio[None, :, None] * vision[None, None, :]
    factors: dict[str, np.ndarray] = {}
    for axis, name in enumerate(MODALITIES):
        shape = [1, 1, 1]
        shape[axis] = -1
        for column, factor in enumerate(FACTORS[name]):
            factors[factor] = np.array([state[column] for state in states[name]]).reshape(shape)
    return _World(states, probability, label_from_latents(factors))


def _states_given_mood(mood: int) -> dict[str, dict[tuple[float, ...], float]]:
    phrases, contours = _given_mood(_PHRASE, mood), _given_mood(_CONTOUR, mood)
    flat = {0: 1 - DEADPAN_PROBABILITY, 1: DEADPAN_PROBABILITY}
    return {
        "text": {
            (w, p, f): _CUES[w] * phrases[p] * turn
            for w in _CUES
            for p in phrases
            for f, turn in _text_turns(p).items()
        },
        "audio": {(s, c, d): _CUES[s] * contours[c] * flat[d] for s in _CUES for c in contours for d in flat},
        "vision": {
            (s, e, f): _CUES[s] * contours[e] * turn
            for s in _CUES
            for e in contours
            for f, turn in _vision_turns(e).items()
        },
    }


def bayes_estimate(factors: Mapping[str, np.ndarray], modalities: Iterable[str]) -> np.ndarray:
    """Mean score given the factors of some modalities: the best any model that sees only those can know.

    Args:
        factors: columns of a metadata table by name, each `(N,)`; those of `modalities` are used.
        modalities: any of text, audio, vision; none gives the prior mean.

    Returns:
        float64 `(N,)`.

    Raises:
        ValueError: unknown modality, or factor values that the generator never draws.
    """
    seen = _check_modalities(modalities)
    world = _world()
    hidden = tuple(axis for axis, name in enumerate(MODALITIES) if name not in seen)
    mean = (world.probability * world.score).sum(hidden) / world.probability.sum(hidden)
    count = len(next(iter(factors.values())))
    return np.broadcast_to(mean[tuple(_state_numbers(factors, name) for name in MODALITIES if name in seen)], (count,))


def _state_numbers(factors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    number = {state: k for k, state in enumerate(_world().states[name])}
    rows = zip(*(np.asarray(factors[factor], float).tolist() for factor in FACTORS[name]), strict=True)
    try:
        return np.array([number[row] for row in rows], dtype=int)
    except KeyError as error:
        raise ValueError(f"{dict(zip(FACTORS[name], error.args[0], strict=True))} is no state of {name}") from None


def bayes_scores(modalities: Iterable[str]) -> dict[str, float]:
    """Best reachable figures for a model that knows the factors of some modalities exactly, over the whole population.

    Computed by going through all combinations of factors, no sampling: `mae` with the conditional median, `corr`
    (Pearson) with the conditional mean, `acc2` (score >= 0 or not) with the likelier sign.

    Raises:
        ValueError: unknown modality.
    """
    seen = _check_modalities(modalities)
    world = _world()
    order = [axis for axis, name in enumerate(MODALITIES) if name in seen]
    order += [axis for axis in range(3) if axis not in order]
    rows = int(np.prod([len(world.states[name]) for name in MODALITIES if name in seen], dtype=int))
    probability = world.probability.transpose(order).reshape(rows, -1)
    score = world.score.transpose(order).reshape(rows, -1)
    known = probability.sum(1)
    mean = (probability * score).sum(1) / known
    positive = (probability * (score >= 0)).sum(1)
    centre = (probability * score).sum()
    variance = (probability * (score - centre) ** 2).sum()
    explained = (known * (mean - centre) ** 2).sum()
    return {
        "mae": float((probability * np.abs(score - _medians(score, probability)[:, None])).sum()),
        "corr": float(np.sqrt(explained / variance)),
        "acc2": float(np.maximum(positive, known - positive).sum()),
    }


def _medians(score: np.ndarray, probability: np.ndarray) -> np.ndarray:
    order = np.argsort(score, axis=1)
    mass = np.cumsum(np.take_along_axis(probability, order, axis=1), axis=1)
    middle = (mass < mass[:, -1:] / 2).sum(1)
    return np.take_along_axis(score, order, axis=1)[np.arange(len(score)), np.minimum(middle, score.shape[1] - 1)]


def _check_modalities(modalities: Iterable[str]) -> set[str]:
    seen = set([modalities] if isinstance(modalities, str) else modalities)
    if not seen <= set(MODALITIES):
        raise ValueError(f"unknown modalities {sorted(seen - set(MODALITIES))}; there are {MODALITIES}")
    return seen


# --- words -----------------------------------------------------------------------------------------------------------

TOPICS = ("film", "song", "show", "meal", "trip", "book", "game", "room", "team", "story")
SECOND_TOPICS = ("ending", "price", "music", "staff", "view", "plot")
FILLERS = ("um", "uh", "well", "so", "like", "okay", "right", "hmm")
CHEERS, GROANS = ("wow", "yay", "hooray"), ("ugh", "alas", "yuck")
STRONG = {1: ("great", "wonderful", "brilliant"), -1: ("awful", "terrible", "horrible")}
MILD = {1: ("good", "nice", "fine"), -1: ("bad", "dull", "boring")}
INTENSIFIERS = ("very", "really")
TAILS = (
    "and we saw it with a friend",
    "and it took two hours",
    "and that is what i think",
    "and i went there on monday",
)


def render_text(latents: Latents) -> str:
    """Transcript: filler, exclamation, first clause, then a "but" clause or a neutral tail. Lower case, no signs."""
    rng = np.random.default_rng([latents.surface_seed, 1])
    words = [latents.filler] if latents.filler else []
    if latents.text_word:
        words.append(str(rng.choice(CHEERS if latents.text_word > 0 else GROANS)))
    words += ["the", latents.topic, "was", _judgement(rng, latents.text_phrase)]
    if latents.text_final:
        words += ["but the", str(rng.choice(SECOND_TOPICS)), "was", _judgement(rng, latents.text_final)]
    elif rng.random() < 0.6:
        words.append(str(rng.choice(TAILS)))
    return " ".join(words)


def _judgement(rng: np.random.Generator, sense: float) -> str:
    """Full sense: a strong word, or a mild one intensified. Half sense: a mild word, or any opposite one negated."""
    sign = 1 if sense > 0 else -1
    if abs(sense) == 1:
        if rng.random() < 0.6:
            return str(rng.choice(STRONG[sign]))
        return f"{rng.choice(INTENSIFIERS)} {rng.choice(MILD[sign])}"
    if rng.random() < 0.6:
        return str(rng.choice(MILD[sign]))
    return f"not {rng.choice(MILD[-sign] + STRONG[-sign])}"


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
    canvas += cover[..., None] * (np.asarray(colour, np.float32) - canvas)


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
    draft = target.with_name(f".{target.name}.draft-{uuid.uuid4().hex}")
    try:
        _write_corpus(draft, recipe, num_workers or os.cpu_count() or 1)
        _move_into_place(draft, target, recipe)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
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
            (folder / split / "metadata.csv").write_text(_metadata(latents), encoding="utf-8", newline="")
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


def _metadata(clips: list[Latents]) -> str:
    table = io.StringIO()
    writer: csv.DictWriter | None = None
    for index, latents in enumerate(clips):
        parts = {f"part_{name}": round(float(part), 4) + 0.0 for name, part in score_parts(asdict(latents)).items()}
        row = {
            "file_name": _clip_name(index),
            "text": render_text(latents),
            "label": float(label_from_latents(latents)),
        }
        row |= parts | asdict(latents)
        if writer is None:
            writer = csv.DictWriter(table, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return table.getvalue()


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
    return _CARD.format(sizes=sizes, seed=recipe["seed"], version=recipe["version"], rows=rows)


_CARD = """---
pretty_name: Talking faces (generated)
license: apache-2.0
task_categories:
- video-classification
tags:
- synthetic
- multimodal
- sentiment-analysis
---

# Talking faces (generated)

**Every clip here was generated by a program.** No person was filmed or recorded, and nobody annotated anything: the
faces are drawn, the voices synthesised, the words put together from a list, and the score computed from the factors
they were made from. Figures on this corpus say whether a model and its training work. They say nothing about how well
it reads people.

Made by `clcr_hf.data.talking_faces`, generator version {version}, seed {seed}; clips: {sizes}. Each clip is
an MP4 of 2 s: 20 pictures of 64 x 64 pixels, sound at 16 kHz, and a transcript in `metadata.csv`.

Columns: `file_name`, `text`, `label` (score in [-3, 3]), `part_text`, `part_audio`, `part_vision`, `part_interaction`
(their clipped sum is the score), and the factors the clip was made from: `shared`, `text_*`, `audio_*`, `vision_*`
carry sentiment; the others are nuisance, drawn independently of the score.

The best that any model can reach which knows the factors of some modalities exactly (mean absolute error, Pearson
correlation, accuracy of the sign):

| modalities | MAE | Corr | Acc-2 |
|---|---|---|---|
{rows}

```python
from datasets import load_dataset

corpus = load_dataset("videofolder", data_dir="PATH_TO_THIS_FOLDER")
```
"""
