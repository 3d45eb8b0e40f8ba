"""Spectrograms: against scipy's, the protocols' shapes, odd sounds, saving, and through processor and model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor, AutoProcessor, ResNetConfig

from clcr_hf import CLCRConfig, CLCRFeatureExtractor, CLCRForSequenceClassification, CLCRProcessor

signal = pytest.importorskip("scipy.signal")

SHAPES = {"cremad": (188, 257), "kinetics_sounds": (626, 129), "ave": (1004, 257)}


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, samples).astype(np.float32)


def spectrogram(extractor: CLCRFeatureExtractor, wave: np.ndarray) -> np.ndarray:
    return extractor(wave, return_tensors="np")["input_values"][0]


# --- the protocols ---


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seconds", [0.7, 30.0])
def test_presets_have_the_protocols_shape(name: str, seconds: float) -> None:
    extractor = CLCRFeatureExtractor.preset(name)
    out = extractor(noise(round(seconds * extractor.sampling_rate)), return_tensors="np")
    assert out["input_values"].shape == (1, *SHAPES[name]) and out["input_values"].dtype == np.float32
    assert out["attention_mask"].all() and out["attention_mask"].shape == (1, SHAPES[name][0])
    assert extractor.feature_size == SHAPES[name][1]


def stft(wave: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    options: dict[str, Any] = {"nperseg": n_fft, "noverlap": n_fft - hop, "boundary": "zeros", "padded": False}
    scale = signal.get_window("hann", n_fft).sum()  # scipy gives the mean, the protocol the sum
    return np.abs(signal.stft(wave.astype(np.float64), window="hann", **options)[2] * scale)


@pytest.mark.parametrize(("name", "n_fft", "hop"), [("cremad", 512, 353), ("kinetics_sounds", 256, 128)])
def test_amplitudes_are_scipys(name: str, n_fft: int, hop: int) -> None:
    extractor = CLCRFeatureExtractor.preset(name)
    length = round((extractor.duration or 0) * extractor.sampling_rate)
    short = noise(length // 3 + 11)
    for wave, whole in ((noise(length + 999), noise(length + 999)[:length]), (short, np.tile(short, 3)[:length])):
        expected = np.log(stft(whole, n_fft, hop) + 1e-7).T
        np.testing.assert_allclose(spectrogram(extractor, wave), expected, atol=2e-4)


def test_ave_is_scipys_spectrogram() -> None:
    wave = noise(160_000)
    expected = signal.spectrogram(wave.astype(np.float64), 16_000, nperseg=512, noverlap=353)[2]
    found = spectrogram(CLCRFeatureExtractor.preset("ave"), wave)
    np.testing.assert_allclose(found, np.log(np.abs(expected) + 1e-7).T, atol=1e-4)


def test_samples_beyond_full_scale_are_clipped() -> None:
    extractor = CLCRFeatureExtractor.preset("cremad")
    loud = 5 * noise(70_000)
    np.testing.assert_array_equal(spectrogram(extractor, loud), spectrogram(extractor, np.clip(loud, -1, 1)))


def test_presets_can_be_changed_and_must_exist() -> None:
    extractor = CLCRFeatureExtractor.preset("ave", duration=2.0)
    assert spectrogram(extractor, noise(100)).shape == (1 + (32_000 - 512) // 159, 257)
    with pytest.raises(ValueError, match="cremad, kinetics_sounds, ave"):
        CLCRFeatureExtractor.preset("vgg")  # type: ignore[arg-type]


# --- options ---


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(0, 3000),
    half=st.integers(1, 80),
    hop=st.integers(1, 200),
    center=st.booleans(),
    duration=st.none() | st.floats(0.01, 0.3),
    fit=st.sampled_from(["repeat", "pad"]),
)
def test_shapes_and_masks_follow_the_options(
    samples: int, half: int, hop: int, center: bool, duration: float | None, fit: Any
) -> None:
    options: dict[str, Any] = {"n_fft": 2 * half, "hop_length": hop, "center": center, "duration": duration}
    extractor = CLCRFeatureExtractor(sampling_rate=8000, fit=fit, **options)
    out = extractor([noise(samples), noise(500)], return_tensors="np")
    values, mask = out["input_values"], out["attention_mask"]
    length = samples if duration is None else round(duration * 8000)

    def frames(count: int) -> int:
        return 1 + (count if center else max(count - 2 * half, 0)) // hop

    assert np.isfinite(values).all() and values.shape == (*mask.shape, half + 1)
    real = length if fit == "repeat" or duration is None else min(samples, length)
    assert mask[0].sum() == (frames(real) if samples else 0)
    assert (np.diff(mask, axis=1) <= 0).all()
    if duration is not None:
        assert mask.shape[1] == frames(length)


def test_padding_in_a_batch_changes_nothing_of_a_sound() -> None:
    extractor = CLCRFeatureExtractor()
    short, long = noise(4000), noise(9000)
    out = extractor([short, long], return_tensors="pt")
    assert isinstance(out["input_values"], torch.Tensor)
    alone = spectrogram(extractor, short)
    np.testing.assert_array_equal(out["input_values"][0, : len(alone)].numpy(), alone)
    assert out["attention_mask"].sum(1).tolist() == [26, 57]
    assert (out["input_values"][0, len(alone) :] == 0).all()


def test_a_long_sound_is_the_same_in_parts() -> None:
    extractor = CLCRFeatureExtractor(n_fft=16, hop_length=4)
    wave = noise(80_000)
    np.testing.assert_allclose(spectrogram(extractor, wave), np.log(stft(wave, 16, 4) + 1e-7).T, atol=1e-3)


def test_mel_bands_hold_a_tone_in_its_band() -> None:
    extractor = CLCRFeatureExtractor(num_mel_bins=40, power=2.0)
    assert extractor.feature_size == 40
    peaks = []
    for hertz in (300, 1000, 4000):
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16_000)
        values = spectrogram(extractor, wave)
        assert values.shape == (51, 40)
        peaks.append(int(values.mean(0).argmax()))
    assert peaks == sorted(set(peaks))


@pytest.mark.parametrize(
    "options",
    [
        {"sampling_rate": 0},
        {"n_fft": 511},
        {"n_fft": 0},
        {"hop_length": -1},
        {"duration": 0.0},
        {"duration": float("nan")},
        {"duration": 1e-9},
        {"power": 0},
        {"log_offset": 0.0},
        {"num_mel_bins": 0},
        {"fit": "stretch"},
        {"window_name": "box"},
        {"density": True},
    ],
)
def test_impossible_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        CLCRFeatureExtractor(**options)


# --- odd sounds ---


@pytest.mark.parametrize("name", SHAPES)
def test_a_sound_without_samples_is_masked_silence(name: str) -> None:
    out = CLCRFeatureExtractor.preset(name)(np.zeros(0, np.float32), return_tensors="np")
    assert out["input_values"].shape == (1, *SHAPES[name]) and not out["attention_mask"].any()
    np.testing.assert_allclose(out["input_values"], np.log(1e-7), rtol=1e-6)


def test_a_sound_shorter_than_a_frame_gives_one() -> None:
    out = CLCRFeatureExtractor(center=False)(noise(40), return_tensors="np")
    assert out["input_values"].shape == (1, 1, 257) and out["attention_mask"].tolist() == [[1]]


def test_lists_and_tensors_are_sounds_too() -> None:
    extractor, wave = CLCRFeatureExtractor(), noise(2000)
    expected = spectrogram(extractor, wave)
    for same in (wave.tolist(), torch.from_numpy(wave), [wave], [wave.tolist()], (torch.from_numpy(wave),)):
        np.testing.assert_allclose(extractor(same, return_tensors="np")["input_values"][0], expected, atol=1e-5)


def test_unusable_sounds_are_refused() -> None:
    extractor = CLCRFeatureExtractor()
    with pytest.raises(ValueError, match="44100 samples a second, this extractor is for 16000"):
        extractor(noise(2000), sampling_rate=44_100)
    with pytest.raises(ValueError, match=r"waveform 1 has shape \(2, 500\); pass mono"):
        extractor([noise(500), np.stack([noise(500)] * 2)])
    with pytest.raises(ValueError, match="mono"):
        extractor(np.stack([noise(500)] * 2))
    for bad in (np.nan, np.inf):
        broken = noise(500)
        broken[7] = bad
        with pytest.raises(ValueError, match="waveform 0 holds NaN"):
            extractor(broken)
    with pytest.raises(ValueError, match="int16; pass floats"):
        extractor(np.ones(500, np.int16))
    with pytest.raises(ValueError, match="no audio"):
        extractor([])


# --- saving, and the way to the model ---


@pytest.mark.parametrize("name", SHAPES)
def test_saved_and_loaded_as_any_extractor(name: str, tmp_path: Path) -> None:
    extractor = CLCRFeatureExtractor.preset(name)
    extractor.save_pretrained(tmp_path)
    for loaded in (CLCRFeatureExtractor.from_pretrained(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)):
        assert type(loaded) is CLCRFeatureExtractor and loaded.to_dict() == extractor.to_dict()
        np.testing.assert_array_equal(spectrogram(loaded, noise(5000)), spectrogram(extractor, noise(5000)))


def test_inside_a_saved_processor(tmp_path: Path) -> None:
    CLCRProcessor(feature_extractor=CLCRFeatureExtractor.preset("cremad")).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded.feature_extractor) is CLCRFeatureExtractor
    stereo = np.stack([noise(44_100), noise(44_100, 1)])
    batch = loaded(audio=[stereo, None], sampling_rate=44_100)
    assert batch["input_values"].shape == (2, 188, 257)
    assert batch["audio_attention_mask"].sum(1).tolist() == [188, 0]
    assert (batch["input_values"][1] == 0).all()


def tiny_resnet() -> dict[str, Any]:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 1], "layer_type": "basic"}
    return ResNetConfig(num_channels=1, **sizes).to_dict()


def test_spectrograms_reach_a_resnet_as_one_channel_pictures() -> None:
    torch.manual_seed(0)
    audio = {"backbone_config": tiny_resnet(), "source": "taps", "taps": [1, 2, 3]}
    config = CLCRConfig(audio_config=audio, hidden_size=16, num_labels=6)
    model = CLCRForSequenceClassification(config)
    processor = CLCRProcessor(feature_extractor=CLCRFeatureExtractor.preset("cremad"))
    seen: list[tuple[int, ...]] = []
    backbone = model.clcr.hierarchy.encoders["audio"].reader.backbone
    backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["pixel_values"].shape)), with_kwargs=True
    )
    batch = processor(audio=[noise(30_000), noise(80_000, 1), None], sampling_rate=22_050)
    loss = model(**batch, labels=torch.tensor([0, 3, 5])).loss
    assert seen == [(3, 1, 257, 188)] and torch.isfinite(loss)
    loss.backward()
    missing = [name for name, weight in backbone.named_parameters() if weight.grad is None]
    assert not missing
    model.eval()
    with torch.no_grad():
        together = model(**batch).logits
        alone = model(**processor(audio=[noise(30_000)], sampling_rate=22_050)).logits
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)
