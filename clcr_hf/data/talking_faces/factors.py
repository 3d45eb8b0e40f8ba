"""What is true of a generated clip: factors, score, and what the best reader could know (Bayes)."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

GENERATOR_VERSION = 1
MARKER = "talking_faces.json"
WORDS = json.loads(Path(__file__).with_name("words.json").read_text("utf-8"))
SPLITS = ("train", "validation", "test")
MODALITIES = ("text", "audio", "vision")
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


TEXT_FACTORS = ("text_word", "text_phrase", "text_final")
AUDIO_FACTORS = ("audio_syllable", "audio_contour", "audio_deadpan")
VISION_FACTORS = ("vision_flash", "vision_expression", "vision_final")
FACTORS = {"text": TEXT_FACTORS, "audio": AUDIO_FACTORS, "vision": VISION_FACTORS}


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
        topic=str(rng.choice(WORDS["topics"])),
        filler=str(rng.choice(WORDS["fillers"])) if rng.random() < 0.6 else "",
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
    chance = _VISION_TURN_PROBABILITY
    if expression == 0:
        return {0.0: 1 - chance, -1.0: chance / 2, 1.0: chance / 2}
    return {0.0: 1 - chance, -1.0 if expression > 0 else 1.0: chance}


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
    """Each state of a modality's factors (an instant cue, a value that follows the mood, and what comes with or after
    it) with its probability."""
    flat = {0.0: 1 - DEADPAN_PROBABILITY, 1.0: DEADPAN_PROBABILITY}
    drawn: dict[str, tuple[dict[float, float], Callable[[float], Mapping[float, float]]]]
    drawn = {"text": (_PHRASE, _text_turns), "audio": (_CONTOUR, lambda _: flat), "vision": (_CONTOUR, _vision_turns)}
    return {
        name: {
            (cue, value, last): _CUES[cue] * chance * turn
            for cue in _CUES
            for value, chance in _given_mood(table, mood).items()
            for last, turn in turns(value).items()
        }
        for name, (table, turns) in drawn.items()
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
