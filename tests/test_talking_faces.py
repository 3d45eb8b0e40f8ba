"""The generated corpus: the same by seed, readable, its score known, and no modality enough."""

import csv
import json
from dataclasses import asdict, fields, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.data.talking_faces import render as talking_faces
from clcr_hf.data.talking_faces.factors import (
    AUDIO_FACTORS,
    FACTORS,
    INSTANT_WEIGHT,
    MODALITIES,
    TEXT_FACTORS,
    VISION_FACTORS,
    WORDS,
    Latents,
    bayes_estimate,
    bayes_scores,
    draw_latents,
    label_from_latents,
    score_parts,
)
from clcr_hf.data.talking_faces.render import (
    FPS,
    IMAGE_SIZE,
    NUM_FRAMES,
    NUM_SAMPLES,
    SAMPLING_RATE,
    generate_talking_faces,
    render_clip,
    render_face,
    render_text,
    render_voice,
)

pytest.importorskip("av")
SIZES = {"num_train": 6, "num_validation": 3, "num_test": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_talking_faces(tmp_path_factory.mktemp("corpus") / "faces", seed=3, **SIZES)


@pytest.fixture(scope="module")
def population() -> list[Latents]:
    return [draw_latents(0, "train", index) for index in range(3000)]


def column(population: list[Latents], name: str) -> np.ndarray:
    return np.array([getattr(latents, name) for latents in population])


def rows_of(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / split / "metadata.csv").open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- determinism ---


def test_same_seed_same_folder_to_the_byte(corpus: Path, tmp_path: Path) -> None:
    again = generate_talking_faces(tmp_path / "again", seed=3, num_workers=1, **SIZES)
    assert contents(again) == contents(corpus)
    other = generate_talking_faces(tmp_path / "other", seed=4, **SIZES)
    assert rows_of(other, "train") != rows_of(corpus, "train")


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one(corpus: Path, tmp_path: Path) -> None:
    small = generate_talking_faces(tmp_path / "small", seed=3, num_train=2, num_validation=0, num_test=0)
    assert rows_of(small, "train") == rows_of(corpus, "train")[:2]
    assert sorted(path.name for path in small.iterdir()) == ["README.md", talking_faces.MARKER, "train"]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), split=st.sampled_from(talking_faces.SPLITS), index=st.integers(0, 10_000))
def test_rendering_is_a_function_of_the_latents(seed: int, split: str, index: int) -> None:
    latents = draw_latents(seed, split, index)
    assert latents == draw_latents(seed, split, index) != draw_latents(seed + 1, split, index)
    first, second = render_clip(latents), render_clip(latents)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1]) and first[2] == second[2]
    frames, wave, text = first
    assert frames.shape == (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3) and frames.dtype == np.uint8
    assert wave.shape == (NUM_SAMPLES,) and wave.dtype == np.float32 and np.abs(wave).max() <= 1
    assert 4 <= len(text.split()) <= 20


def test_splits_share_no_clip() -> None:
    drawn = {
        split: {draw_latents(0, split, index).surface_seed for index in range(500)} for split in talking_faces.SPLITS
    }
    assert all(not drawn[a] & drawn[b] for a, b in combinations(drawn, 2))


# --- the score ---


def test_score_range_and_balance(population: list[Latents]) -> None:
    scores = np.array([float(label_from_latents(latents)) for latents in population])
    assert scores.min() >= -3 and scores.max() <= 3
    assert 0.45 < (scores >= 0).mean() < 0.55 and scores.std() > 1
    assert (np.abs(scores) == 3).mean() < 0.2


def test_parts_add_up_to_the_score(population: list[Latents]) -> None:
    table = {name: column(population, name) for names in FACTORS.values() for name in names}
    parts = score_parts(table)
    np.testing.assert_allclose(label_from_latents(table), np.clip(sum(parts.values()), -3, 3), atol=6e-4)
    assert (parts["interaction"][table["audio_deadpan"] == 0] == 0).all()
    deadpan = table["audio_deadpan"] == 1
    words = parts["text"] - INSTANT_WEIGHT * table["text_word"]
    np.testing.assert_allclose((words + parts["interaction"])[deadpan], -words[deadpan])


def test_what_comes_last_counts_most() -> None:
    plain = replace(draw_latents(0, "train", 0), vision_flash=0, vision_expression=1.0, vision_final=0.0)
    turned = replace(plain, vision_final=-1.0)
    assert score_parts(asdict(plain))["vision"] > 0 > score_parts(asdict(turned))["vision"]
    praise = replace(plain, text_word=0, text_phrase=1.0, text_final=0.0)
    taken_back = replace(praise, text_final=-1.0)
    assert score_parts(asdict(praise))["text"] > 0 > score_parts(asdict(taken_back))["text"]


def test_nuisance_says_nothing_about_the_score(population: list[Latents]) -> None:
    scores = np.array([float(label_from_latents(latents)) for latents in population])
    telling = {"shared", *TEXT_FACTORS, *AUDIO_FACTORS, *VISION_FACTORS}
    for name in (field.name for field in fields(Latents) if field.name not in telling):
        values = column(population, name)
        if values.dtype.kind in "US":
            groups = [scores[values == value] for value in np.unique(values)]
            assert all(abs(group.mean() - scores.mean()) < 4 * scores.std() / len(group) ** 0.5 for group in groups)
        else:
            assert abs(np.corrcoef(values, scores)[0, 1]) < 0.07, name


def test_phrase_factors_share_the_mood_and_the_others_do_not(population: list[Latents]) -> None:
    mood = column(population, "shared")
    for name in ("text_phrase", "audio_contour", "vision_expression"):
        assert np.corrcoef(mood, column(population, name))[0, 1] > 0.4, name
    for name in ("text_word", "audio_syllable", "audio_deadpan", "vision_flash"):
        assert abs(np.corrcoef(mood, column(population, name))[0, 1]) < 0.07, name


# --- the best anyone can do ---


def test_no_modality_suffices_and_fusion_pays() -> None:
    best = {seen: bayes_scores(seen) for count in range(4) for seen in combinations(MODALITIES, count)}
    everything = best[MODALITIES]
    assert everything == pytest.approx({"mae": 0, "corr": 1, "acc2": 1}, abs=1e-9)
    for name in MODALITIES:
        one = best[(name,)]
        assert 0.6 < one["acc2"] < 0.8 and 0.35 < one["corr"] < 0.7 and one["mae"] > 1
        assert one["mae"] < best[()]["mae"] - 0.1 and one["acc2"] > best[()]["acc2"] + 0.1
        for pair in combinations(MODALITIES, 2):
            if name in pair:
                assert best[pair]["mae"] < one["mae"] - 0.1 and best[pair]["acc2"] > one["acc2"] + 0.03
    for pair in combinations(MODALITIES, 2):
        assert best[pair]["mae"] > 0.5 and best[pair]["acc2"] < 0.9


def test_words_and_voice_together_tell_more_than_the_sum() -> None:
    alone = bayes_scores("text")["corr"] ** 2 + bayes_scores("audio")["corr"] ** 2
    assert bayes_scores(("text", "audio"))["corr"] ** 2 > alone + 0.15


def test_population_reaches_the_computed_figures(population: list[Latents]) -> None:
    table = {name: column(population, name) for names in FACTORS.values() for name in names}
    scores = label_from_latents(table)
    for seen in [(), ("text",), ("audio",), ("vision",), ("text", "vision"), MODALITIES]:
        estimate = bayes_estimate(table, seen)
        assert estimate.shape == scores.shape
        if seen:
            assert np.corrcoef(estimate, scores)[0, 1] == pytest.approx(bayes_scores(seen)["corr"], abs=0.05)
        # A conditional mean leaves an error that averages to nothing and does not follow the estimate.
        assert abs((scores - estimate).mean()) < 0.1
    np.testing.assert_allclose(bayes_estimate(table, MODALITIES), scores, atol=1e-9)


def test_bayes_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="smell"):
        bayes_scores(["smell"])
    with pytest.raises(ValueError, match="no state of vision"):
        bayes_estimate({name: np.array([0.3]) for name in VISION_FACTORS}, ["vision"])


# --- the factors can be seen, heard and read ---


def test_each_modality_is_drawn_from_its_own_factors_only(population: list[Latents]) -> None:
    latents = population[0]
    other_face = replace(latents, vision_flash=-1, vision_expression=0.5, vision_final=-1.0)
    other_voice = replace(latents, audio_syllable=-1, audio_contour=-0.5, base_pitch=200.0)
    assert render_text(other_face) == render_text(other_voice) == render_text(latents)
    assert np.array_equal(render_voice(other_face), render_voice(latents))
    assert not np.array_equal(render_face(other_face), render_face(latents))
    assert not np.array_equal(render_voice(other_voice), render_voice(latents))
    assert TEXT_FACTORS and AUDIO_FACTORS


def test_late_change_and_flash_touch_their_frames_only(population: list[Latents]) -> None:
    plain = replace(population[0], vision_flash=0, vision_expression=1.0, vision_final=0.0)
    changed = (render_face(plain) != render_face(replace(plain, vision_final=-1.0))).any((1, 2, 3))
    assert not changed[: NUM_FRAMES // 2].any() and changed[-4:].all()
    flashed = (render_face(plain) != render_face(replace(plain, vision_flash=-1))).any((1, 2, 3))
    assert flashed.sum() == 2 and not flashed[NUM_FRAMES // 2 + 1 :].any()


def test_voice_carries_its_factors(population: list[Latents]) -> None:
    plain = replace(population[0], audio_deadpan=0, audio_syllable=0, audio_contour=0.0)
    rise, fall = (render_voice(replace(plain, audio_contour=value)) for value in (1.0, -1.0))

    def energy(wave: np.ndarray) -> np.ndarray:
        return (wave[: NUM_SAMPLES // 2].reshape(10, -1) ** 2).mean(1)

    assert energy(rise)[6:].sum() > energy(rise)[:4].sum() and energy(fall)[6:].sum() < energy(fall)[:4].sum()
    lively, flat = render_voice(plain), render_voice(replace(plain, audio_deadpan=1))

    def brightness(wave: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(wave)) ** 2
        return float(power[len(power) // 4 :].sum() / power.sum())

    assert brightness(lively) > 2 * brightness(flat)
    loud = np.abs(render_voice(replace(plain, audio_syllable=1))).max()
    assert loud > 1.5 * np.abs(lively).max()


def test_words_carry_their_factors_in_a_small_vocabulary(population: list[Latents]) -> None:
    texts = [render_text(latents) for latents in population]
    assert 50 <= len({word for text in texts for word in text.split()}) <= 100
    for latents, text in zip(population, texts, strict=True):
        words = set(text.split())
        assert (" but " in text) == (latents.text_final != 0)
        assert bool(words & set(WORDS["exclamations"]["good"])) == (latents.text_word > 0)
        assert bool(words & set(WORDS["exclamations"]["bad"])) == (latents.text_word < 0)
        first = text.split(" but ")[0]
        praised = any(w in first.split() for w in WORDS["strong"]["good"] + WORDS["mild"]["good"])
        assert (praised != (" not " in first)) == (latents.text_phrase > 0)


def test_factors_can_be_learned_from_pictures_and_sound() -> None:
    """A linear model on a few coarse numbers finds the lasting expression and the deadpan voice."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    drawn = [draw_latents(5, "train", index) for index in range(160)]
    faces = np.stack([render_face(latents)[:10, 38:54, 16:48].astype(float).mean((0, 3)) for latents in drawn])
    faces = faces - np.median(faces, axis=(1, 2), keepdims=True)
    faces = faces.reshape(160, 8, 2, 8, 4).mean((2, 4)).reshape(160, -1)
    spectra = np.abs(np.fft.rfft(np.stack([render_voice(latents) for latents in drawn])))[:, :-1]
    sound = np.log(spectra.reshape(160, 40, -1).mean(2))
    for features, name in ((faces, "vision_expression"), (sound, "audio_deadpan")):
        target = column(drawn, name).astype(float)
        scale = features.std(0) + 1e-9
        model = linear_model.RidgeCV(np.logspace(-2, 3, 12)).fit(features[:110] / scale, target[:110])
        found = model.predict(features[110:] / scale)
        assert np.corrcoef(found, target[110:])[0, 1] > 0.7, name


# --- the folder ---


def test_clips_are_real_files_with_pictures_and_sound(corpus: Path) -> None:
    from clcr_hf.media import load_media

    for index, row in enumerate(rows_of(corpus, "train")):
        latents = draw_latents(3, "train", index)
        clip = load_media(corpus / "train" / row["file_name"], sampling_rate=SAMPLING_RATE)
        assert clip.video is not None and clip.audio is not None
        assert clip.video.frames.shape == (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
        np.testing.assert_allclose(clip.video.timestamps, np.arange(NUM_FRAMES) / FPS, atol=1e-6)
        # H.264 keeps colour at half the size, so the comparison is of brightness.
        assert np.abs(clip.video.frames.mean(-1) - render_face(latents).mean(-1)).mean() < 6
        assert abs(clip.audio.size - NUM_SAMPLES) <= 1024
        assert np.corrcoef(clip.audio[:NUM_SAMPLES], render_voice(latents))[0, 1] > 0.95


def test_metadata_holds_text_score_and_every_factor(corpus: Path) -> None:
    for split, size in zip(talking_faces.SPLITS, (6, 3, 2), strict=True):
        rows = rows_of(corpus, split)
        assert len(rows) == size
        for index, row in enumerate(rows):
            latents = draw_latents(3, split, index)
            assert row["text"] == render_text(latents) and float(row["label"]) == float(label_from_latents(latents))
            assert {name: row[name] for name in asdict(latents)} == {k: str(v) for k, v in asdict(latents).items()}
            parts = sum(float(row[f"part_{part}"]) for part in (*MODALITIES, "interaction"))
            assert np.clip(parts, -3, 3) == pytest.approx(float(row["label"]), abs=1e-3)


def test_datasets_loads_the_folder(corpus: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("videofolder", data_dir=str(corpus), cache_dir=str(tmp_path))
    assert {split: len(loaded[split]) for split in loaded} == {"train": 6, "validation": 3, "test": 2}
    train = loaded["train"].cast_column("video", datasets.Video(decode=False))
    rows = rows_of(corpus, "train")
    assert train["label"][:] == [float(row["label"]) for row in rows] and train["text"][:] == [r["text"] for r in rows]
    assert Path(train[0]["video"]["path"]).name == rows[0]["file_name"]


def test_card_says_that_it_is_generated(corpus: Path) -> None:
    card = (corpus / "README.md").read_text(encoding="utf-8")
    assert "Every clip here was generated" in card and f"| {bayes_scores('text')['mae']:.3f} |" in card
    marker = json.loads((corpus / talking_faces.MARKER).read_text(encoding="utf-8"))
    assert (
        marker["seed"] == 3 and marker["sizes"] == {"train": 6, "validation": 3, "test": 2} and marker["version"] == 1
    )


def test_whole_folder_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = generate_talking_faces(tmp_path / "faces", num_train=1, num_validation=0, num_test=0)
    monkeypatch.setattr(talking_faces, "_write_corpus", lambda *_: pytest.fail("rendered again"))
    assert generate_talking_faces(str(folder), num_train=1, num_validation=0, num_test=0) == folder


def test_folder_that_lost_files_is_made_again(tmp_path: Path) -> None:
    arguments = {"num_train": 2, "num_validation": 0, "num_test": 0}
    folder = generate_talking_faces(tmp_path / "faces", **arguments)
    whole = contents(folder)
    (folder / "train" / "clip_00001.mp4").unlink()
    (folder / "train" / "clip_00000.mp4").write_bytes(b"")
    assert contents(generate_talking_faces(folder, **arguments)) == whole
    (folder / "train" / "clip_00001.mp4").unlink()
    (folder / "train" / "mine.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="mine.txt"):
        generate_talking_faces(folder, **arguments)


def test_a_run_that_dies_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(talking_faces, "write_video", full_disk)
    with pytest.raises(OSError, match="no space"):
        generate_talking_faces(tmp_path / "faces", num_train=2, num_validation=0, num_test=0)
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_not_touched(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no talking-faces corpus"):
        generate_talking_faces(tmp_path, **SIZES)
    with pytest.raises(FileExistsError, match="other arguments"):
        generate_talking_faces(corpus, seed=9, **SIZES)
    with pytest.raises(FileExistsError, match="no talking-faces corpus"):
        generate_talking_faces(tmp_path / "notes.txt", **SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_mistaken_arguments(tmp_path: Path) -> None:
    for wrong in ({"seed": -1}, {"num_train": -1}, {"num_train": 0, "num_validation": 0, "num_test": 0}):
        with pytest.raises(ValueError, match="0 or more"):
            generate_talking_faces(tmp_path / "faces", **wrong)
    with pytest.raises(ValueError, match="splits are"):
        draw_latents(0, "dev", 0)
