"""The speaker's face: found, followed, cut out. The logic with detectors that know the truth, then a real detector."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.faces import ALLOWED, allow_detector, crop_faces, find_detector

HEIGHT, WIDTH = 120, 160


def blank(count, height=HEIGHT, width=WIDTH):
    return np.full((count, height, width, 3), 40, np.uint8)


def painted(boxes, height=HEIGHT, width=WIDTH):
    """Frames with a bright square in the place of each box; None is a frame without one."""
    frames = blank(len(boxes), height, width)
    for frame, box in zip(frames, boxes, strict=True):
        if box is not None:
            left, top, right, bottom = (round(edge) for edge in box[:4])
            frame[max(top, 0) : bottom, max(left, 0) : right] = 200
    return frames


def square(x, y, side, *score):
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2, *score)


def says(*faces):
    """A detector that answers with these lists of faces, whatever it is shown."""
    return lambda frames: list(faces)


def one(boxes):
    return says(*([] if box is None else [box] for box in boxes))


def test_the_crop_is_square_around_the_face_with_a_margin():
    boxes = [square(60, 50, 40)] * 3
    crops, kept = crop_faces(painted(boxes), one(boxes))
    assert crops.shape == (3, 60, 60, 3) and crops.dtype == np.uint8  # 40 pixels and a half of it as margin
    assert kept.tolist() == [0, 1, 2] and kept.dtype == np.int64
    inside = np.zeros((60, 60), bool)
    inside[10:50, 10:50] = True
    assert (crops[:, inside] == 200).all() and (crops[:, ~inside] == 40).all()


def test_a_frame_without_the_face_is_left_out():
    boxes = [None, square(60, 50, 40), None, None, square(63, 52, 40), None]
    crops, kept = crop_faces(painted(boxes), one(boxes))
    assert kept.tolist() == [1, 4] and len(crops) == 2


@pytest.mark.parametrize("frames", [blank(4), blank(0), []])
def test_a_clip_without_a_face_has_no_crops(frames):
    crops, kept = crop_faces(frames, lambda shown: [[]] * len(shown))
    assert crops.shape == (0, 0, 0, 3) and crops.dtype == np.uint8 and kept.shape == (0,)


def test_a_face_that_moves_and_grows_stays_in_the_middle():
    boxes = [square(30 + 8 * k, 40 + 3 * k, 20 + 2 * k) for k in range(10)]
    crops, kept = crop_faces(painted(boxes), one(boxes))
    assert len(kept) == 10 and crops.shape[1] == crops.shape[2] == round(29 * 1.5)
    rows, columns = np.nonzero(crops[..., 0].mean(0) > 120)
    assert abs(rows.mean() - (crops.shape[1] - 1) / 2) < 1.5 and abs(columns.mean() - (crops.shape[2] - 1) / 2) < 1.5


def test_noise_of_the_detector_is_smoothed_away():
    rng = np.random.default_rng(0)
    noisy = [square(80 + x, 60 + y, 40) for x, y in rng.normal(0, 2, (60, 2))]
    frames = painted([square(80, 60, 40)] * 60)
    crops, _ = crop_faces(frames, one(noisy))
    left = np.array([np.nonzero(crop[30, :, 0] > 120)[0][0] for crop in crops])
    raw = np.array([box[0] for box in noisy])
    assert left.std() < 0.6 * raw.std()


def test_a_jump_of_the_head_is_not_smoothed_away():
    boxes = [square(50, 60, 40)] * 4 + [square(78, 60, 40)] * 4
    crops, kept = crop_faces(painted(boxes), one(boxes))
    assert len(kept) == 8
    for crop in crops:
        columns = np.nonzero(crop[30, :, 0] > 120)[0]
        assert abs(columns.mean() - 29.5) <= 4.5  # a tenth of its side


def test_another_face_elsewhere_is_not_the_same_person():
    boxes = [square(30, 30, 30)] * 3 + [square(130, 90, 30)] * 2
    _, kept = crop_faces(painted(boxes), one(boxes))
    assert kept.tolist() == [0, 1, 2]
    boxes = [square(80, 60, 20)] * 2 + [square(80, 60, 60)] * 3  # a cut to a close shot
    _, kept = crop_faces(painted(boxes), one(boxes))
    assert kept.tolist() == [2, 3, 4]


def test_the_larger_of_two_faces_is_the_speaker_whatever_their_order():
    small, large = square(30, 40, 20), square(110, 60, 40)
    frames = painted([large] * 4)
    for faces in ([small, large], [large, small]):
        crops, kept = crop_faces(frames, says(*[faces] * 4))
        assert len(kept) == 4 and crops.shape[1] == 60 and (crops[:, 30, 30] == 200).all()


def test_two_tracks_that_pass_each_other_keep_their_faces():
    big = [square(40 + 4 * k, 40, 40) for k in range(12)]
    little = [square(120 - 4 * k, 95, 24) for k in range(12)]
    crops, kept = crop_faces(painted(big), says(*[[a, b] for a, b in zip(little, big, strict=True)]))
    assert len(kept) == 12 and crops.shape[1] == 60 and (crops[:, 30, 30] == 200).all()


def test_of_two_alike_the_one_whose_mouth_moves_is_the_speaker():
    left, right = square(40, 60, 48), square(120, 60, 48)
    frames = painted([left] * 8)
    frames[:, 36:84, 96:144] = 200
    for k, frame in enumerate(frames):
        frame[70:80, 110:130] = 60 if k % 2 else 160
        frame[40:41, 17:63] = 40 + 20 * (k % 2)  # a flicker at the other's hair
    crops, kept = crop_faces(frames, says(*[[left, right]] * 8))
    assert len(kept) == 8
    mouths = crops[:, 48, 36, 0].astype(int)
    assert set(mouths) == {60, 160}


def test_a_head_that_shakes_does_not_count_as_talking():
    rng = np.random.default_rng(0)
    quiet, loud = square(40, 60, 56), square(120, 60, 48)
    frames = painted([quiet] * 8)
    frames[:, 36:84, 96:144] = rng.integers(0, 255, (8, 48, 48, 3))  # all of it moves, eyes as much as mouth
    crops, _ = crop_faces(frames, says(*[[quiet, loud]] * 8))
    assert crops.shape[1] == 84 and (crops[:, 42, 42] == 200).all()


def test_a_weak_detection_continues_a_track_but_begins_none():
    strong, weak = square(60, 50, 40, 1.0), square(60, 50, 40, -0.2)
    _, kept = crop_faces(blank(4), one([weak, strong, weak, weak]))
    assert kept.tolist() == [1, 2, 3]
    _, kept = crop_faces(blank(2), one([weak, weak]))
    assert kept.tolist() == []


def test_a_face_at_the_edge_is_cut_square_and_the_edge_repeated():
    frames = blank(1)
    frames[0, :, 0] = (10, 20, 30)
    crops, _ = crop_faces(frames, says([square(10, 60, 40)]))
    assert crops.shape == (1, 60, 60, 3)
    assert (crops[0, :, :20] == (10, 20, 30)).all() and (crops[0, :, 21:] == 40).all()


def test_pictures_of_different_sizes_and_a_single_one():
    frames = [painted([square(60, 50, 40)])[0], painted([square(60, 50, 40)], 200, 300)[0]]
    crops, kept = crop_faces(frames, lambda shown: [[square(60, 50, 40)]] * len(shown))
    assert crops.shape == (2, 60, 60, 3) and kept.tolist() == [0, 1]
    crops, kept = crop_faces(frames[1][None], says([square(60, 50, 40)]))
    assert crops.shape == (1, 60, 60, 3) and kept.tolist() == [0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[]], "answered for 1 of 2 frames"),
        ([[(1, 2, 3)], []], "a face must be"),
        ([[(1, 2, float("nan"), 4)], []], "a face must be"),
    ],
)
def test_what_a_detector_may_not_answer(answer, message):
    with pytest.raises(ValueError, match=message):
        crop_faces(blank(2), lambda frames: answer)


@pytest.mark.parametrize("frames", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32)])
def test_frames_of_another_form_are_refused(frames):
    with pytest.raises(ValueError, match="uint8 RGB"):
        crop_faces(frames, says([], []))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_detections_give_square_crops_in_order_and_shift_with_the_frame(data):
    count = data.draw(st.integers(1, 6))
    number = st.floats(-50, 250)
    face = st.tuples(number, number, number, number, st.floats(-1, 1))
    faces = [data.draw(st.lists(face, max_size=3)) for _ in range(count)]
    frames = np.random.default_rng(count).integers(0, 255, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    crops, kept = crop_faces(frames, says(*faces))
    assert crops.ndim == 4 and crops.dtype == np.uint8 and crops.shape[1] == crops.shape[2]
    assert len(crops) == len(kept) and (np.diff(kept) > 0).all() and set(kept) <= set(range(count))
    assert all(any(f[4] == f[4] for f in faces[at]) for at in kept)
    again, same = crop_faces(list(frames), says(*faces))
    assert np.array_equal(crops, again) and np.array_equal(kept, same)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.fixture()
def own_detector(tmp_path, monkeypatch):
    (tmp_path / "my_faces.py").write_text("def find(frames):\n    return [[(20, 20, 60, 60)]] * len(frames)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(ALLOWED, "")
    yield "my_faces:find"
    sys.modules.pop("my_faces", None)


def test_an_own_detector_by_name_needs_leave(own_detector):
    with pytest.raises(ValueError, match=f"set {ALLOWED}=my_faces:find"):
        crop_faces(blank(2), own_detector)
    assert "my_faces" not in sys.modules
    allow_detector(own_detector)
    allow_detector("other:one")
    assert os.environ[ALLOWED] == "my_faces:find,other:one"
    crops, kept = crop_faces(blank(2), own_detector)
    assert crops.shape == (2, 60, 60, 3) and kept.tolist() == [0, 1]
    with pytest.raises(ImportError, match="'other:one' cannot be imported here"):
        find_detector("other:one")


def test_a_detector_of_an_installed_package(tmp_path, monkeypatch, own_detector):
    info = tmp_path / "my_faces-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-faces\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[clcr_hf.face_detectors]\nmine = my_faces:find\n")
    importlib.invalidate_caches()
    assert crop_faces(blank(1), "mine")[1].tolist() == [0]
    with pytest.raises(ValueError, match="unknown face detector 'yours'; known: dlib, mine"):
        find_detector("yours")


def test_one_line_where_the_detector_is_not_installed():
    code = (
        "import sys; sys.modules['dlib'] = None\nimport numpy as np\nfrom clcr_hf.faces import crop_faces\n"
        "try:\n    crop_faces(np.zeros((1, 64, 64, 3), np.uint8))\nexcept ImportError as error:\n    print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "face crops need dlib, which is not installed: pip install dlib-bin pillow\n"


# --- dlib ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dlib():
    return pytest.importorskip("dlib", reason="NO FACE DETECTOR: pip install dlib-bin pillow to run this check")


@pytest.fixture(scope="module")
def portrait():
    """A photograph of Grace Hopper (United States Navy, public domain) that matplotlib ships; `(600, 512, 3)`."""
    matplotlib = pytest.importorskip("matplotlib")
    from PIL import Image

    folder = Path(matplotlib.get_data_path()) / "sample_data"
    return Image.open(folder / "grace_hopper.jpg").convert("RGB")


def footage(portrait, places, size=(640, 360), shrink=3.0, other=None):
    """Frames in which the photograph stands at these places (None: nowhere), and perhaps a second one, smaller."""
    from PIL import Image

    small = portrait.resize((round(512 / shrink), round(600 / shrink)))
    frames = []
    for place in places:
        frame = Image.new("RGB", size, (90, 110, 120))
        if other is not None:
            frame.paste(portrait.resize((102, 120)), other)
        if place is not None:
            frame.paste(small, place)
        frames.append(np.asarray(frame))
    return np.stack(frames)


def test_the_face_of_a_photograph_is_found_and_followed(dlib, portrait):
    places = [(20 + 12 * k, 60 - 2 * k) for k in range(12)]
    places[4] = places[5] = None
    frames = footage(portrait, places, other=(530, 10))
    crops, kept = crop_faces(frames)
    assert kept.tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    side = crops.shape[1]
    assert 215 / 3 < side < 2 * 215 / 3  # her face is about 215 pixels wide in the photograph
    for boxes in find_detector("dlib")(crops):  # her face in the middle of each
        (left, top, right, bottom, _), *others = boxes
        assert not others and abs((left + right) / 2 - side / 2) < 0.1 * side > abs((top + bottom) / 2 - side / 2)


def test_a_video_of_the_photograph_by_the_processor(dlib, portrait, tmp_path):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    from clcr_hf import CLCRProcessor
    from clcr_hf.media import write_video

    places = [None, None, *((60 + 10 * k, 60) for k in range(6))]
    path = write_video(tmp_path / "speaker.mp4", footage(portrait, places), 8)
    processor = CLCRProcessor(image_processor=ViTImageProcessorPil(), face_crop=True, video_num_frames=8)
    batch = processor(videos=[path])
    assert batch["pixel_values"].shape == (1, 6, 3, 224, 224) and batch["vision_attention_mask"].sum() == 6


def test_no_face_in_a_landscape(dlib):
    from sklearn.datasets import load_sample_images

    for image in load_sample_images().images:
        assert crop_faces(image[None])[1].size == 0


def test_generated_faces(dlib):
    """They are drawings and not all of them pass for a face; those that do are cut out where they are."""
    from clcr_hf.data.talking_faces.factors import draw_latents
    from clcr_hf.data.talking_faces.render import render_face

    found = 0
    for index in range(12):
        frames = np.full((5, 128, 192, 3), 90, np.uint8)
        frames[:, 40:104, 100:164] = render_face(draw_latents(0, "train", index))[::4]
        crops, kept = crop_faces(frames)
        if len(kept):
            found += 1
            boxes = find_detector("dlib")(frames[kept])
            assert 30 < crops.shape[1] < 128
            for box in boxes:
                x, y = (box[0, 0] + box[0, 2]) / 2, (box[0, 1] + box[0, 3]) / 2
                assert 112 < x < 152 and 52 < y < 96
    assert found >= 6
