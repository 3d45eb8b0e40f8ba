"""The collator: padding, masks, missing modalities, labels, and the processor on raw rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.data import CLCRDataCollator, load_utterances


def test_tokens_are_padded_and_masked():
    batch = CLCRDataCollator(tokenizer_pad_id=9)(
        [
            {"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1], "token_type_ids": [0, 1, 1], "text": "x", "id": "a"},
            {"input_ids": [8], "attention_mask": [1], "token_type_ids": [0], "text": "y", "id": "b"},
        ]
    )
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 0, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
    assert all(value.dtype == torch.int64 for value in batch.values())


def test_tokens_without_a_mask_and_rows_without_tokens():
    batch = CLCRDataCollator()([{"input_ids": [5, 6]}, {"input_ids": None}, {"input_ids": []}, {}])
    assert batch["input_ids"].tolist() == [[5, 6], [0, 0], [0, 0], [0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]
    assert "token_type_ids" not in batch


def test_features_of_unequal_lengths_and_missing_ones():
    rows = [
        {"vision_features": [[1.0, 2.0]], "audio_features": np.ones((3, 4)), "smell_features": None},
        {"vision_features": [], "audio_features": None, "smell_features": torch.ones(2, 2)},
    ]
    batch = CLCRDataCollator()(rows)
    assert batch["vision_features"].tolist() == [[[1.0, 2.0]], [[0.0, 0.0]]]
    assert batch["vision_attention_mask"].tolist() == [[1], [0]]
    assert batch["audio_features"].shape == (2, 3, 4) and batch["audio_features"].dtype == torch.float32
    assert batch["audio_attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert batch["smell_attention_mask"].tolist() == [[0, 0], [1, 1]]
    assert batch["audio_features"][1].abs().sum() == 0


def test_a_modality_that_no_row_has_is_left_out():
    batch = CLCRDataCollator()([{"audio_features": [], "vision_features": [[1.0]]}, {"vision_features": [[2.0]]}])
    assert set(batch) == {"vision_features", "vision_attention_mask"}


def test_one_vector_a_clip_and_taps_of_levels():
    batch = CLCRDataCollator()([{"vision_features": [1.0, 2.0, 3.0]}, {"vision_features": [[4.0, 5.0, 6.0]] * 2}])
    assert batch["vision_features"].shape == (2, 2, 3) and batch["vision_attention_mask"].tolist() == [[1, 0], [1, 1]]
    taps = CLCRDataCollator()([{"text_features": np.ones((3, 2, 5))}, {"text_features": np.ones((3, 4, 5))}, {}])
    assert taps["text_features"].shape == (3, 3, 4, 5)
    assert taps["text_attention_mask"].tolist() == [[1, 1, 0, 0], [1] * 4, [0] * 4]
    assert taps["text_features"][0, :, 2:].abs().sum() == 0


def test_a_given_mask_is_kept():
    batch = CLCRDataCollator()([{"audio_features": np.ones((3, 1)), "audio_attention_mask": [1, 0, 1]}])
    assert batch["audio_attention_mask"].tolist() == [[1, 0, 1]]
    with pytest.raises(ValueError, match="audio_attention_mask of row 0 of the batch has 2 entries for 3"):
        CLCRDataCollator()([{"audio_features": np.ones((3, 1)), "audio_attention_mask": [1, 0]}])
    with pytest.raises(ValueError, match="attention_mask of row 0"):
        CLCRDataCollator()([{"input_ids": [1, 2], "attention_mask": [1]}])


def test_frames_and_sounds():
    batch = CLCRDataCollator(pad_to_multiple_of=8)(
        [
            {"pixel_values": np.ones((2, 3, 4, 4)), "input_values": np.ones(5)},
            {"pixel_values": np.ones((1, 3, 4, 4)), "input_values": np.ones(3)},
        ]
    )
    assert batch["pixel_values"].shape == (2, 2, 3, 4, 4) and batch["vision_attention_mask"].tolist() == [
        [1, 1],
        [1, 0],
    ]
    assert batch["input_values"].shape == (2, 5) and batch["audio_attention_mask"].sum(1).tolist() == [5, 3]
    mel = CLCRDataCollator()([{"input_values": np.ones((2, 8))}, {"input_values": np.ones((3, 8))}])
    assert mel["input_values"].shape == (2, 3, 8)
    flow = CLCRDataCollator()([{"flow_pixel_values": np.ones((2, 2, 4, 4))}])
    assert flow["flow_attention_mask"].tolist() == [[1, 1]]


def test_pad_to_multiple_of():
    batch = CLCRDataCollator(pad_to_multiple_of=4)(
        [{"input_ids": [1, 2, 3, 4, 5], "audio_features": np.ones((3, 2)), "labels": [1, 0, 1]}]
    )
    assert batch["input_ids"].shape == (1, 8) and batch["audio_features"].shape == (1, 4, 2)
    assert batch["labels"].tolist() == [[1, 0, 1, -100]]
    assert batch["attention_mask"].sum() == 5 and batch["audio_attention_mask"].sum() == 3


@pytest.mark.parametrize(
    ("labels", "expected", "dtype"),
    [
        ([1.5, -2.0], [1.5, -2.0], torch.float32),
        ([np.float32(0.5), 1], [0.5, 1.0], torch.float32),
        ([1, 0], [1, 0], torch.int64),
        ([[1, 2, 0], [2]], [[1, 2, 0], [2, -100, -100]], torch.int64),
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], torch.float32),
        ([torch.tensor(1), torch.tensor(2)], [1, 2], torch.int64),
    ],
)
@pytest.mark.parametrize("key", ["label", "labels"])
def test_labels(labels, expected, dtype, key):
    batch = CLCRDataCollator()([{"input_ids": [1], key: label} for label in labels])
    assert batch["labels"].tolist() == expected and batch["labels"].dtype == dtype


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, None], "1 of 2 rows have no label"),
        (["a", "b"], "must be numbers"),
        ([[1, 2], 1], "must be numbers or flat lists"),
        ([[1.0], [1.0, 0.0]], "must have one length"),
        ([[[1]], [[2]]], "flat lists"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        CLCRDataCollator()([{"input_ids": [1], "label": label} for label in labels])


def test_bad_rows():
    with pytest.raises(ValueError, match="no rows"):
        CLCRDataCollator()([])
    with pytest.raises(ValueError, match="audio_features: rows of one batch differ in shape"):
        CLCRDataCollator()([{"audio_features": np.ones((2, 3))}, {"audio_features": np.ones((2, 4))}])


class Reader:
    """Stands for a processor: words to numbers, a path's length to frames and sound."""

    def __init__(self):
        self.calls = []

    def __call__(self, text=None, media=None, return_tensors=None):
        assert return_tensors == "pt"
        self.calls.append((text, media))
        if text is not None:
            words = [line.split() for line in text]
            width = max(map(len, words))
            ids = torch.zeros(len(words), width, dtype=torch.int64)
            for i, line in enumerate(words):
                ids[i, : len(line)] = torch.tensor([len(word) for word in line])
            return {"input_ids": ids, "attention_mask": (ids > 0).long()}
        n = len(media)
        return {
            "pixel_values": torch.ones(n, 2, 3, 4, 4),
            "vision_attention_mask": torch.ones(n, 2, dtype=torch.int64),
            "input_values": torch.tensor([[float(len(path))] * 3 for path in media]),
            "audio_attention_mask": torch.ones(n, 3, dtype=torch.int64),
        }


def test_raw_rows_go_through_the_processor():
    reader = Reader()
    rows = [
        {"id": "1", "text": "so good", "media": "a.mp4", "label": 1.0},
        {"id": "2", "text": "no", "media": "bb.mp4", "label": -1.0},
    ]
    batch = CLCRDataCollator(reader)(rows)
    assert reader.calls == [(["so good", "no"], None), (None, ["a.mp4", "bb.mp4"])]
    assert batch["input_ids"].tolist() == [[2, 4], [2, 0]]
    assert batch["input_values"][:, 0].tolist() == [5.0, 6.0] and batch["labels"].tolist() == [1.0, -1.0]


def test_raw_rows_that_lack_text_or_clip():
    rows = [{"text": "", "media": "a.mp4"}, {"text": "very good", "media": None}, {"text": "no", "media": ""}]
    batch = CLCRDataCollator(Reader(), tokenizer_pad_id=7)(rows)
    assert batch["input_ids"].tolist() == [[7, 7], [4, 4], [2, 0]]
    assert batch["attention_mask"].tolist() == [[0, 0], [1, 1], [1, 0]]
    assert batch["vision_attention_mask"].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert batch["pixel_values"][1:].abs().sum() == 0 and batch["audio_attention_mask"].sum(1).tolist() == [3, 0, 0]
    assert set(CLCRDataCollator(Reader())([{"text": "no", "media": ""}])) == {"input_ids", "attention_mask"}


def test_raw_text_beside_ready_features():
    batch = CLCRDataCollator(Reader())([{"text": "so good", "audio_features": [[1.0]]}])
    assert set(batch) == {"input_ids", "attention_mask", "audio_features", "audio_attention_mask"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.sampled_from([None, 1, 3, 8]))
def test_every_real_value_arrives_once(lengths, multiple):
    rows = [{"audio_features": np.full((n, 2), i + 1.0), "labels": [i] * n} for i, n in enumerate(lengths)]
    batch = CLCRDataCollator(pad_to_multiple_of=multiple)(rows)
    if not any(lengths):
        assert "audio_features" not in batch
        return
    mask = batch["audio_attention_mask"]
    assert mask.sum(1).tolist() == lengths
    assert batch["audio_features"][mask == 0].abs().sum() == 0
    assert torch.equal(batch["labels"] != -100, mask.bool())
    assert batch["audio_features"][mask == 1].sum() == sum(2 * (i + 1) * n for i, n in enumerate(lengths))
    assert mask.shape[1] % (multiple or 1) == 0 and mask.shape[1] - max(lengths) < (multiple or 1)


def test_rows_of_a_loader(tmp_path):
    np.savez(
        tmp_path / "u.npz",
        text=np.arange(6, dtype=np.float32).reshape(3, 2),
        label=np.array([1, 0, 1]),
        video_id=np.array(["a", "a", "b"]),
        split=np.array(["train"] * 3),
    )
    data = load_utterances(tmp_path / "u.npz")["train"]
    batch = CLCRDataCollator()([data[0], data[1]])
    assert batch["text_features"].tolist() == [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [0.0, 0.0]]]
    assert batch["labels"].tolist() == [[1, 0], [1, -100]]


def test_a_reference_to_no_file_is_an_absent_clip():
    """`datasets` gives undecoded media as {"path", "bytes"}, both None where a row has none."""
    rows = [
        {"text": "so good", "media": {"path": None, "bytes": None}},
        {"text": "no", "media": {"path": "", "bytes": None}},
        {"text": "very good", "media": None},
    ]
    assert set(CLCRDataCollator(Reader())(rows)) == {"input_ids", "attention_mask"}
    rows[1]["media"] = {"path": None, "bytes": b"clip"}
    batch = CLCRDataCollator(Reader())(rows)
    assert batch["input_values"].shape[0] == 3 and batch["input_values"][[0, 2]].abs().sum() == 0
    assert batch["input_values"][1].abs().sum() > 0
