"""Rows that `clcr extract` writes: their columns, tokens put together from the pieces of a clip, and words in time."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Features, List, Value

from ..data.alignment import average_over
from .backbones import TextTokens
from .clips import Piece
from .sources import Clip
from .speech import Transcript

_INTERVALS = List(List(Value("float32"), length=2))


def row_features(shapes: dict[str, tuple[int | None, int]], kept: Features, *, text: bool, words: bool) -> Features:
    """Columns of the rows.

    Args:
        shapes: of each modality `(L, D)`; with L None its features have no axis of levels.
        kept: columns carried over.
        text, words: whether there are transcripts, and words with times.
    """
    columns: dict[str, Any] = {"id": Value("string"), "path": Value("string")}
    columns |= {"text": Value("string")} if text else {}
    columns |= {"words": List(Value("string")), "word_intervals": _INTERVALS} if words else {}
    columns |= {name: kind for name, kind in kept.items() if name not in columns}
    for name, (levels, width) in shapes.items():
        tokens = List(List(Value("float32"), length=width))
        columns[f"{name}_features"] = tokens if levels is None else List(tokens)
        columns[f"{name}_intervals"] = _INTERVALS
    return Features(columns)


@dataclass
class ClipTokens:
    """What the pieces of a clip have given so far.

    Attributes:
        tokens: by modality, taps `(L, T, D)` of each piece and their seconds `(T, 2)`.
        transcript: what the recogniser heard.
        text_tokens: tokens of its text.
        error: what is wrong with it.
    """

    clip: Clip
    tokens: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=lambda: defaultdict(list))
    transcript: Transcript | None = None
    text_tokens: TextTokens | None = None
    error: Exception | None = None

    def add(self, piece: Piece) -> None:
        """Takes in what a piece of the clip gave."""
        self.error, self.transcript = self.error or piece.error, self.transcript or piece.transcript
        for name, part in piece.tokens.items():
            self.tokens[name].append(part)

    def text(self) -> str | None:
        """The clip's own transcript, or the recognised one; None where nothing was said."""
        if self.clip.text is not None:
            return self.clip.text
        if self.transcript is not None:
            return self.transcript.text or None
        return " ".join(self.clip.words) if self.clip.words else None

    def words(self) -> tuple[list[str], np.ndarray] | None:
        """Words with their seconds `(W, 2)`, of the clip or recognised; None where no times are known."""
        if self.clip.words and self.clip.word_intervals is not None:
            return list(self.clip.words), np.asarray(self.clip.word_intervals, np.float32).reshape(-1, 2)
        if self.transcript is not None and self.transcript.words:
            return self.transcript.words, self.transcript.intervals
        return None

    def joined(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By modality, taps `(L, T, D)` and seconds `(T, 2)` of the whole clip."""
        return {
            name: (np.concatenate([taps for taps, _ in parts], axis=1), np.concatenate([times for _, times in parts]))
            for name, parts in self.tokens.items()
        }


def word_spans(text: str, words: Sequence[str]) -> np.ndarray | None:
    """Characters `(W, 2)` of each word in the text, found from left to right whatever their case; None if one of them
    is not there."""
    spans, cursor = [], 0
    for word in words:
        found = re.compile(re.escape(word.strip()), re.IGNORECASE).search(text, cursor)
        if found is None:
            return None
        cursor = found.end()
        spans.append(found.span())
    return np.array(spans, np.int64).reshape(-1, 2)


def tokens_to_words(tokens: TextTokens, spans: np.ndarray) -> np.ndarray:
    """Mean `(L, W, D)` of the tokens of each word; zeros for words behind the tokenizer's limit.

    Args:
        tokens: of the text.
        spans: characters `(W, 2)` of the words in it.
    """
    return _means(tokens.taps, tokens.spans, spans)[0]


def token_intervals(tokens: TextTokens, spans: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Seconds `(T, 2)` of each token: of the word or words that it is a part of. A token of no word (punctuation,
    special tokens) takes no time, at the end of the word before it.

    Args:
        tokens: of the text.
        spans, intervals: characters `(W, 2)` and seconds `(W, 2)` of the words.
    """
    output = np.zeros((len(tokens.spans), 2), np.float32)
    now = float(intervals[0, 0]) if len(intervals) else 0.0
    for index, (begin, end) in enumerate(tokens.spans):
        inside = (spans[:, 0] < end) & (spans[:, 1] > begin)
        if inside.any():
            output[index] = intervals[inside, 0].min(), intervals[inside, 1].max()
            now = float(output[index, 1])
        else:
            output[index] = now
    return output


def average_words(taps: np.ndarray, intervals: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Mean `(L, W, D)` of the tokens `(L, T, D)` that overlap each word `(W, 2)`, in seconds.

    A word that no token overlaps (one that takes no time, or lies between two frames) gets the nearest token.
    """
    means, counts = _means(taps, intervals, words)
    middles = intervals.mean(axis=1)
    for index in np.flatnonzero(counts == 0):
        means[:, index] = taps[:, np.argmin(np.abs(middles - words[index].mean()))]
    return means


def _means(taps: np.ndarray, places: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means `(L, W, D)` of the tokens `(L, T, D)` at `places (T, 2)` that overlap each word, and how many they are."""
    levels, _, width = taps.shape
    flat = taps.transpose(1, 0, 2).reshape(-1, levels * width)
    means, counts = average_over(words.astype(np.float64), places.astype(np.float64), flat)
    return means.reshape(len(words), levels, width).transpose(1, 0, 2), counts


def make_row(clip: ClipTokens, features: Features, align: bool) -> dict[str, Any]:
    """The row of a clip; columns of modalities that it lacks are None.

    Args:
        clip: all of its tokens.
        features: see [`row_features`].
        align: one token a word in every modality, instead of each modality's own tokens.

    Raises:
        ValueError: `align` and no word times, no modality at all, or features that are not finite.
    """
    row: dict[str, Any] = dict.fromkeys(features)
    known = {"id": clip.clip.id, "path": clip.clip.path, "text": clip.text(), **clip.clip.kept}
    row |= {name: value for name, value in known.items() if name in features}
    words = clip.words()
    if words is not None and "words" in features:
        row |= {"words": words[0], "word_intervals": words[1]}
    found, text = clip.joined(), clip.text_tokens
    if not found and text is None:
        raise ValueError("the clip has none of the modalities asked for")
    if align:
        found = _aligned(clip, found)
    elif text is not None:
        spans = None if words is None or (text.spans < 0).all() else word_spans(clip.text() or "", words[0])
        row["text_features"] = _shaped(text.taps, features["text_features"])
        if spans is not None and words is not None:
            row["text_intervals"] = token_intervals(text, spans, words[1])
    for name, (taps, intervals) in found.items():
        row[f"{name}_features"] = _shaped(taps, features[f"{name}_features"])
        row[f"{name}_intervals"] = intervals.astype(np.float32)
    return row


def _aligned(
    clip: ClipTokens, found: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    words, text = clip.words(), clip.text_tokens
    if words is None:
        raise ValueError("no words with times to align to; give words and word_intervals, or a recogniser (transcribe)")
    output = {name: (average_words(taps, times, words[1]), words[1]) for name, (taps, times) in found.items()}
    if text is not None:
        if (text.spans < 0).all():
            raise ValueError("the tokenizer does not tell where its tokens lie in the text; use a fast one")
        spans = word_spans(clip.text() or "", words[0])
        if spans is None:
            raise ValueError("the words are not those of the text; leave the text out, it is then made of the words")
        output["text"] = (tokens_to_words(text, spans), words[1])
    return output


def _shaped(taps: np.ndarray, feature: Any) -> np.ndarray:
    """`(L, T, D)` as the column holds it: `(T, D)` for columns without levels. ValueError where it is not finite."""
    if not np.isfinite(taps).all():
        raise ValueError("a backbone gave NaN or infinite values; try dtype float32 or bfloat16")
    return taps if isinstance(feature.feature.feature, List) else taps[0]
