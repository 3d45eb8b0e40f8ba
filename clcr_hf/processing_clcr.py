"""CLCR processor: text, audio, images, flow and ready features become one padded, masked batch.

Every modality of the batch carries a mask of its own: `attention_mask` for token ids, `<modality>_attention_mask` for
all else. Masks are int64, 1 for what the sample holds, 0 for padding; a modality that a sample lacks is a row of zeros.
Waveforms and clips are encoded one by one and padded afterwards, always on the right, so a sample's own content never
depends on its neighbours in the batch.

Layout and names are our reconstruction (the paper fixes the model, not its input format).
"""

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, AutoVideoProcessor, BatchFeature
from transformers.processing_utils import ProcessorMixin

from .collator import stacked
from .errors import InputError, ModelFileError, plainly
from .faces import DEFAULT_DETECTOR
from .modalities import FEATURES_END, MASK_END, MEDIA, STANDARD, of_features
from .remote_code import add_remote_code
from .samples import Reading, read_sample, to_numpy

_LOADERS = {
    "tokenizer": AutoTokenizer,
    "feature_extractor": AutoFeatureExtractor,
    "image_processor": AutoImageProcessor,
    "video_processor": AutoVideoProcessor,
}
# The modality that each raw argument belongs to, and the key of a sample that it holds.
_OF_ARGUMENT = {name: modality for modality in STANDARD.values() for name in modality.arguments}
_KEYS = {"videos": "video"}
# Dimensions of one sample where a bare array may be a batch: with one more, it is.
_ARRAY_RANK = {"videos": 4, "images": 3, "flow": 4}
# Tokenizers without a limit of their own state an enormous one.
NO_LIMIT = 10**9
# Log-mel extractors need two windows of audio; shorter waveforms are lengthened with silence.
_SHORTEST_SOUND = 0.05
# Length of the silence, and side of the black image, that tell the shapes of an all-missing modality.
_PROBE_SECONDS = 0.1
_PROBE_SIDE = 64
_LONGEST_SIDE = 2**14  # of resized flow


class _SubProcessorNames:
    """`get_attributes`: of the class, all sub-processors it can hold; of an instance, those it does hold.

    `ProcessorMixin` walks this list to check, show and save sub-processors, and cannot meet one that is None.
    """

    def __get__(self, instance: Any, owner: type) -> Callable[[], list[str]]:
        names = super(CLCRProcessor, owner).get_attributes()  # type: ignore[misc]
        if instance is not None:
            names = [name for name in names if instance.__dict__.get(name) is not None]
        return lambda: names


class CLCRProcessor(ProcessorMixin):
    """Wraps a tokenizer, an audio feature extractor and an image (or video) processor, each of them optional.

    A processor without any still batches ready features. Saves one `processor_config.json` (and the tokenizer's
    files); reloads with `CLCRProcessor.from_pretrained` or `AutoProcessor.from_pretrained`.

    Args:
        tokenizer: any transformers tokenizer, for `text`.
        feature_extractor: any transformers audio feature extractor with 1-D (waveform) or 2-D (spectrogram) output
            for each waveform, for `audio`. `SeamlessM4TFeatureExtractor` (log-mel, numpy only) suits models trained
            from scratch.
        image_processor: any image processor that gives `(C, H, W)` pixels for each frame, for `videos`; VideoMAE's,
            which takes clips, works too. torchvision is not needed.
        video_processor: a video processor in its place (transformers makes these need torchvision).
        video_num_frames: most frames taken of a clip, spread evenly over it. None takes every frame.
        video_fps: frames a second taken of a file instead of `video_num_frames`.
        max_audio_seconds: waveforms are cut after this many seconds. None keeps them whole.
        max_text_length: texts are cut after this many tokens, special tokens included. None (as before version 0.2)
            cuts at the tokenizer's own limit alone.
        face_crop: the detector (`"dlib"`, or your own, see `docs/faces.md`) by which videos and images are cut to the
            speaker's face; frames without it are left out. True is `"dlib"`; None and False take whole frames.
        flow_size: height and width (or one number for both) that optical flow is resized to, in pixels; its vectors
            are scaled alike. None leaves it as it is.

    Raises:
        TypeError: a sub-processor of the wrong kind.
        ValueError: an option out of range, or both an image and a video processor.
    """

    get_attributes = _SubProcessorNames()

    def __init__(
        self,
        tokenizer: Any = None,
        feature_extractor: Any = None,
        image_processor: Any = None,
        video_processor: Any = None,
        video_num_frames: int | None = 16,
        video_fps: float | None = None,
        max_audio_seconds: float | None = None,
        flow_size: int | list[int] | None = None,
        chat_template: str | None = None,
        max_text_length: int | None = None,
        face_crop: str | bool | None = None,
    ):
        if image_processor is not None and video_processor is not None:
            raise ValueError("both an image_processor and a video_processor were given; pass one of them")
        _check_positive(video_num_frames=video_num_frames, video_fps=video_fps, max_audio_seconds=max_audio_seconds)
        _check_positive(max_text_length=max_text_length)
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.image_processor = image_processor
        self.video_processor = video_processor
        self.video_num_frames = video_num_frames
        self.video_fps = video_fps
        self.max_audio_seconds = max_audio_seconds
        self.max_text_length = max_text_length
        self.face_crop = _detector_name(face_crop)
        self.flow_size = _two_sides(flow_size)
        present = {name: getattr(self, name) for name in self.get_attributes()}
        super().__init__(**present, chat_template=chat_template)

    # --- saving and loading ------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The content of `processor_config.json`: options, sub-processors that are there, and their names."""
        held = self.get_attributes()
        absent = set(type(self).get_attributes()) - set(held)
        content = {name: value for name, value in super().to_dict().items() if name not in absent}
        content["sub_processors"] = held
        return content

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As [`~transformers.ProcessorMixin.from_pretrained`]; `ModelFileError` for files that cannot be read."""
        with plainly(f"{pretrained_model_name_or_path}: the processor cannot be loaded", ModelFileError):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        held = (processor_dict or {}).get("sub_processors")
        if held is None:
            raise OSError(
                f"{pretrained_model_name_or_path} holds no processor_config.json of a {cls.__name__}; build one from "
                f"its parts, {cls.__name__}(tokenizer=..., feature_extractor=..., image_processor=...), and save it"
            )
        own = set(inspect.signature(cls.__init__).parameters)  # options for us, not for the parts
        loading = {key: value for key, value in kwargs.items() if key not in own}
        return [
            _LOADERS[name].from_pretrained(pretrained_model_name_or_path, **loading)
            if name in held and name not in kwargs
            else None
            for name in cls.get_attributes()
        ]

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        # What `push_to_hub` sends also loads with `trust_remote_code=True` alone.
        add_remote_code(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    # --- text back from ids ------------------------------------------------------------------------------------------

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's `batch_decode`; ValueError without a tokenizer."""
        return self._need("tokenizer", "decoding").batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """The tokenizer's `decode`; ValueError without a tokenizer."""
        return self._need("tokenizer", "decoding").decode(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """Batch keys that the sub-processors of this instance make (features add theirs)."""
        names: list[str] = []
        if self.tokenizer is not None:
            names += [name for name in self.tokenizer.model_input_names if name != "attention_mask"]
            names.append("attention_mask")
        if self._part("image_processor") is not None:
            names += ["pixel_values", "vision_attention_mask"]
        if self.feature_extractor is not None:
            names += ["input_values", "audio_attention_mask"]
        return names

    # --- the batch ---------------------------------------------------------------------------------------------------

    @plainly("the input cannot be processed", InputError)
    def __call__(
        self,
        text: Any = None,
        videos: Any = None,
        audio: Any = None,
        media: Any = None,
        flow: Any = None,
        images: Any = None,
        sampling_rate: int | Sequence[int | None] | None = None,
        start: float | Sequence[float | None] | None = None,
        end: float | Sequence[float | None] | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        max_audio_seconds: float | None = None,
        padding: bool | str = True,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
        text_kwargs: Mapping[str, Any] | None = None,
        audio_kwargs: Mapping[str, Any] | None = None,
        images_kwargs: Mapping[str, Any] | None = None,
        face_crop: str | bool | None = None,
        **features: Any,
    ) -> BatchFeature:
        """Makes one batch of B samples. A list is a batch, all else is a single sample (B = 1).

        In a list, None (or anything else that [`~clcr_hf.samples.is_missing`] takes for nothing, such as a blank text)
        says that the sample lacks the modality: its mask row is zero and its values are zeros.

        Args:
            text: str or list of `str | None`.
            videos: a clip or a list of clips. A clip is a path, bytes, a binary file, `(F, H, W, 3)` uint8 RGB array
                or tensor, a list of frames (PIL images or `(H, W, 3)` uint8), or `{"path": ..., "bytes": ...}` as
                `datasets` gives undecoded video. `(B, F, H, W, 3)` is a batch.
            audio: one entry, or a list of one a sample. An entry is a waveform `(samples,)`, `(channels, samples)` or
                `(samples, channels)` (floats in [-1, 1] or PCM integers), a list of numbers, a path, bytes, a binary
                file, `{"array": ..., "sampling_rate": ...}` or `{"path": ..., "bytes": ...}`. An array is always
                one waveform. Waveforms are mixed to mono and resampled to the extractor's rate.
            media: a path (or bytes) or list of them, each opened once for both its frames and its audio. A file
                without audio track (or frames) lacks that modality. Fills what this processor has parts for.
            flow: optical flow, `(F, 2, H, W)` or `(F, H, W, 2)` floats or the path of a file written by
                `clcr_hf.data.flow`, or a list of such; a 5-D array is a batch.
            images: one image, or a list with one entry a sample. An entry that is an image becomes a clip of one
                frame; an entry that is itself a list (or a 4-D array) holds the frames of a clip in order. So one clip
                is a list in a list. An image is PIL's, `(H, W, 3)` uint8, a path, bytes, a binary file or
                `{"path": ..., "bytes": ...}`; only the frames that are kept are opened.
            sampling_rate: rate of the waveforms in `audio`, samples a second; one for all or one for each.
            start, end: the stretch of the files that the samples are, in seconds; one for all or one for each. A file
                in a dict may hold its own `start` and `end`.
            num_frames: overrides `video_num_frames` for this call. Clips with more frames are thinned evenly; clips
                with fewer are padded.
            fps: frames a second instead, for files; frames in memory are then all kept.
            max_audio_seconds, face_crop: override the options of these names; `face_crop=False` takes frames whole, as
                those that are crops already.
            padding: True or "longest" pads to the longest sample; "max_length" also pads text to `max_length`;
                False refuses samples of different lengths.
            truncation, max_length: for the text, in tokens. Text is cut to `max_text_length` and to the tokenizer's
                limit, where there are such.
            return_tensors: "pt", "np", or None (numpy too).
            text_kwargs, audio_kwargs, images_kwargs: more arguments for the tokenizer, the extractor, the image
                processor.
            **features: `NAME_features` for any modality NAME (text, vision, audio, flow or your own): a list of
                `(T_i, D)` arrays (`(L, T_i, D)` where a sample has features of L levels), one such array, or
                `(B, T, D)`. An empty `(0, D)` array is a missing one.

        Returns:
            BatchFeature, by what was given:

            - text: `input_ids`, `attention_mask` (B, T) int64, and `token_type_ids` if the tokenizer makes them;
            - videos, images: `pixel_values` (B, F, C, H, W) float32, `vision_attention_mask` (B, F);
            - audio: `input_values` (B, samples) or (B, T, mel) float32, `audio_attention_mask` over samples or T.
              Whisper's extractor keeps its own layout (B, mel, 3000) with a mask (B, 3000); AST's states no
              lengths, so audio that is there has a mask of ones;
            - flow: `flow_pixel_values` (B, F, 2, H, W) float32, `flow_attention_mask` (B, F);
            - features: `NAME_features` (B, T, D) or (B, L, T, D) float32, `NAME_attention_mask` (B, T).

            A modality that no sample has is one all-masked step (or one all-masked waveform), except features whose
            width is unknown because each of them is None: these are left out.

        Raises:
            ValueError: nothing given, batch sizes that differ, a modality given twice or without its sub-processor,
                wrong shapes, values that are not finite, no sampling rate; the message names modality and sample.
            MediaError: a file that cannot be read (a ValueError too).
            TypeError: an unknown keyword or type.
        """
        if padding not in (True, False, "longest", "max_length"):
            raise ValueError(f"padding must be True, False, 'longest' or 'max_length', got {padding!r}")
        if padding == "max_length" and max_length is None:
            raise ValueError("padding='max_length' needs max_length, the number of text tokens to pad to")
        _check_positive(max_length=max_length)
        reading = self._reading(num_frames, fps, max_audio_seconds)
        if face_crop is not None:
            reading = replace(reading, face_crop=_detector_name(face_crop))
        given = {"text": text, "videos": videos, "audio": audio, "media": media, "flow": flow, "images": images}
        given = {name: value for name, value in (given | features).items() if value is not None}
        self._check_inputs(given, features)
        batch = {name: _as_batch(name, value) for name, value in given.items()}
        size = _batch_size(batch)
        wide = {"sampling_rate": sampling_rate, "start": start, "end": end}
        rows = {name: _each(name, value, size) for name, value in wide.items()}
        rows |= {_KEYS.get(name, name): values for name, values in batch.items()}
        samples = [
            read_sample({name: values[index] for name, values in rows.items()}, reading, _labels(index))
            for index in range(size)
        ]
        pad = padding is not False
        data: dict[str, np.ndarray] = {}
        if "text" in batch:
            length = max_length if padding == "max_length" else None
            options = {"truncation": truncation, "max_length": max_length, **(text_kwargs or {})}
            data |= self._encode_text([sample.text for sample in samples], options, length, pad)
        if self._part("image_processor") is not None and batch.keys() & {"videos", "images", "media"}:
            name = "images" if "images" in batch else "videos"
            data |= self._encode_videos([sample.frames for sample in samples], dict(images_kwargs or {}), pad, name)
        if self.feature_extractor is not None and batch.keys() & {"audio", "media"}:
            data |= self._encode_audio([sample.audio for sample in samples], dict(audio_kwargs or {}), pad)
        data |= _encode_flow([sample.flow for sample in samples], self.flow_size, pad)
        for name in features.keys() & batch.keys():
            data |= _encode_features(name, [sample.features.get(name) for sample in samples], pad)
        if not data:
            raise ValueError("no sample of the batch has any input: every entry is None")
        return BatchFeature(data, tensor_type=return_tensors)

    def _check_inputs(self, given: dict[str, Any], features: dict[str, Any]) -> None:
        """Refuses unknown names, nothing at all, a modality given twice, or given without its part."""
        for name in features:
            if of_features(name) is None:
                raise TypeError(f"unknown argument {name!r}; features of a modality are passed as NAME_features=")
        if not given:
            raise ValueError("nothing to process; pass text=, videos=, audio=, media=, flow= or NAME_features=")
        for modality in STANDARD.values():
            sources = [name for name in (*modality.arguments, modality.features) if name in given]
            if "media" in given and MEDIA in modality.columns and self._part(modality.part) is not None:
                sources.append("media")
            if len(sources) > 1:
                raise ValueError(f"{modality.name} was given more than once ({', '.join(sources)}); pass one of them")
            for name in modality.arguments:
                if name in given and modality.part is not None:
                    self._need(modality.part, name)
        if "media" in given and self._part("image_processor") is None and self.feature_extractor is None:
            self._need("image_processor", "media")

    def _part(self, name: str | None) -> Any:
        """A part, or None; a video processor does for an image processor."""
        found = getattr(self, name or "", None)
        return self.video_processor if found is None and name == "image_processor" else found

    def _need(self, part: str, use: str) -> Any:
        found = self._part(part)
        if found is None:
            features = _OF_ARGUMENT[use].features if use in _OF_ARGUMENT else "NAME_features"
            instead = "" if use == "decoding" else f", or pass {features}= instead"
            raise ValueError(
                f"{use} needs the processor's {part}, and it has none; build it with CLCRProcessor({part}=...){instead}"
            )
        return found

    def _reading(self, num_frames: int | None, fps: float | None, max_audio_seconds: float | None) -> Reading:
        """What is read, and how: the call's own wishes before the saved options."""
        _check_positive(num_frames=num_frames, fps=fps, max_audio_seconds=max_audio_seconds)
        if num_frames is not None and fps is not None:
            raise ValueError("num_frames and fps were both given; pass one of them")
        wishes: dict[str, Any] = {} if num_frames is None and fps is None else {"num_frames": num_frames, "fps": fps}
        wishes |= {} if max_audio_seconds is None else {"max_audio_seconds": max_audio_seconds}
        return Reading.of(self, vision=self._part("image_processor") is not None, **wishes)

    def _encode_text(
        self, samples: list[str | None], options: dict[str, Any], length: int | None, pad: bool
    ) -> dict[str, np.ndarray]:
        own_limit = self.tokenizer.model_max_length
        if options["max_length"] is None and self.max_text_length is not None and options["truncation"] is not False:
            options["max_length"] = min(self.max_text_length, own_limit)
        if options["truncation"] is None:
            options["truncation"] = options["max_length"] is not None or own_limit < NO_LIMIT
        options |= {"return_attention_mask": True, "return_tensors": None, "padding": False}
        encoded = [None if sample is None else self.tokenizer(sample, **options) for sample in samples]
        like = next((row for row in encoded if row is not None), None)
        absent = {key: np.asarray(row, np.int64)[:0] for key, row in (like or self.tokenizer("", **options)).items()}
        fills = {"input_ids": self.tokenizer.pad_token_id or 0, "token_type_ids": self.tokenizer.pad_token_type_id}
        data = {}
        for key, empty in absent.items():
            rows = [empty if row is None else np.asarray(row[key], np.int64) for row in encoded]
            data[key], _ = stacked(rows, "text", fill=fills.get(key, 0), length=length or 1, pad=pad)
        return data

    def _encode_videos(self, clips: list[Any], extra: dict[str, Any], pad: bool, name: str) -> dict[str, np.ndarray]:
        rows = [None if clip is None else self._pixels(list(clip), index, extra) for index, clip in enumerate(clips)]
        if all(row is None for row in rows):
            rows[0] = self._pixels([np.zeros((_PROBE_SIDE, _PROBE_SIDE, 3), np.uint8)], 0, extra)[:0]
        values, mask = stacked(rows, name, pad=pad)
        return {"pixel_values": values, "vision_attention_mask": mask}

    def _pixels(self, frames: list[np.ndarray], index: int, extra: dict[str, Any]) -> np.ndarray:
        """Frames `(H, W, 3)` uint8 to pixels `(F, C, H, W)` float32."""
        options = {"return_tensors": "pt", "input_data_format": "channels_last", **extra}
        if self.image_processor is not None:
            out = self.image_processor(frames, **options)
        else:
            out = self.video_processor([np.stack(frames)], do_sample_frames=False, **options)
        pixels = to_numpy(out["pixel_values"] if "pixel_values" in out else out["pixel_values_videos"])
        pixels = pixels[0] if pixels.ndim == 5 and len(pixels) == 1 else pixels
        if pixels.ndim != 4:
            raise ValueError(
                f"videos: sample {index}: {type(self._part('image_processor')).__name__} gave shape {pixels.shape}; "
                "use an image processor that gives (frames, channels, height, width)"
            )
        return pixels.astype(np.float32, copy=False)

    def _encode_audio(self, waves: list[Any], extra: dict[str, Any], pad: bool) -> dict[str, np.ndarray]:
        target = self.feature_extractor.sampling_rate
        pairs = [(None, None) if wave is None else self._extract(wave, extra) for wave in waves]
        rows, masks = map(list, zip(*pairs, strict=True))
        if all(row is None for row in rows):
            row, mask = self._extract(np.zeros(round(_PROBE_SECONDS * target), np.float32), extra)
            rows[0], masks[0] = np.zeros_like(row), np.zeros_like(mask)
        values, _ = stacked(rows, "audio", pad=pad)
        mask, _ = stacked(masks, "audio", pad=pad)
        return {"input_values": values, "audio_attention_mask": mask}

    def _extract(self, wave: np.ndarray, extra: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """One waveform to the extractor's values, 1-D or 2-D float32, and their mask over time, int64."""
        rate = self.feature_extractor.sampling_rate
        wave = np.pad(wave, (0, max(0, round(_SHORTEST_SOUND * rate) - wave.size)))
        wanted = {"sampling_rate": rate, "return_tensors": "np", "return_attention_mask": True, **extra}
        accepted = inspect.signature(type(self.feature_extractor).__call__).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
            wanted = {key: value for key, value in wanted.items() if key in accepted}
        out = self.feature_extractor(wave, **wanted)
        values = np.asarray(out["input_values"] if "input_values" in out else out["input_features"], np.float32)[0]
        mask = out.get("attention_mask", out.get("padding_mask"))
        if mask is None:
            mask = np.ones((1, values.shape[0]), np.int64)
        mask = np.asarray(mask, np.int64)[0]
        if values.ndim == 2 and values.shape[0] == 1 and values.shape[1] == mask.size:
            values = values[0]  # waveform extractors with a channel axis
        if values.ndim > 2:
            raise ValueError(
                f"audio: {type(self.feature_extractor).__name__} gave shape {values.shape} for one waveform; "
                "use one that gives a waveform (samples,) or a spectrogram (T, mel)"
            )
        return values, mask


# --- arrays of a batch -----------------------------------------------------------------------------------------------


def _encode_flow(rows: list[Any], size: list[int] | None, pad: bool) -> dict[str, np.ndarray]:
    if all(row is None for row in rows):
        return {}
    rows = [row if row is None or size is None else _resized_flow(row, size) for row in rows]
    values, mask = stacked(rows, "flow", pad=pad)
    return {"flow_pixel_values": values, "flow_attention_mask": mask}


def _resized_flow(flow: np.ndarray, size: list[int]) -> np.ndarray:
    """Flow `(F, 2, H, W)` brought to `size` (height, width); a vector grows with the image it belongs to."""
    height, width = flow.shape[2:]
    if [height, width] == size or 0 in flow.shape:
        return flow
    options: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
    resized = torch.nn.functional.interpolate(torch.from_numpy(np.ascontiguousarray(flow)), size=size, **options)
    scale = np.array([size[1] / width, size[0] / height], np.float32)  # horizontal, vertical
    return resized.numpy() * scale[:, None, None]


def _two_sides(size: Any) -> list[int] | None:
    """`flow_size` as [height, width]."""
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side <= _LONGEST_SIDE for side in sides):
        told = f"a number of pixels up to {_LONGEST_SIDE}, or [height, width]"
        raise ValueError(f"flow_size must be {told}, got {str(size)[:60]}")
    return sides


def _encode_features(name: str, rows: list[Any], pad: bool) -> dict[str, np.ndarray]:
    for index, row in enumerate(rows):
        if row is not None and (row.ndim not in (2, 3) or not row.shape[-1]):
            raise ValueError(f"{name}: sample {index} has shape {row.shape}; expected (T, D), or (L, T, D) with levels")
    if all(row is None for row in rows):
        return {}
    values, mask = stacked(rows, name, axis=-2, pad=pad)
    return {name: values, name.removesuffix(FEATURES_END) + MASK_END: mask}


# --- batches ---------------------------------------------------------------------------------------------------------


def _as_batch(name: str, value: Any) -> list[Any]:
    """A list is a batch of samples, anything else is one sample, with the exceptions that `__call__` tells."""
    sample_rank = 2 if name.endswith(FEATURES_END) else _ARRAY_RANK.get(name)
    if sample_rank is not None and _rank(value) > sample_rank:
        return list(value)
    if isinstance(value, list | tuple) and value:
        one_clip = name == "videos" and all(hasattr(item, "convert") or _rank(item) == 3 for item in value)
        one_sound = name == "audio" and all(isinstance(item, numbers.Number) for item in value)
        return [value] if one_clip or one_sound else list(value)
    return list(value) if isinstance(value, list | tuple) else [value]


def _rank(value: Any) -> int:
    return getattr(value, "ndim", 0)


def _batch_size(batch: dict[str, list[Any]]) -> int:
    sizes = {name: len(samples) for name, samples in batch.items()}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"the inputs differ in their number of samples: {listed}; use None for a missing one")
    size = next(iter(sizes.values()))
    if size == 0:
        raise ValueError("the batch is empty; pass at least one sample")
    return size


def _each(name: str, value: Any, size: int) -> list[Any]:
    """One value for each sample."""
    values = list(value) if isinstance(value, Iterable) else [value] * size
    if len(values) != size:
        raise ValueError(f"{name} has {len(values)} entries for {size} samples; pass one for all or one for each")
    return values


def _labels(index: int) -> Callable[[str], str]:
    """What errors call a key of a sample."""
    return lambda key: f"{'videos' if key == 'video' else key}: sample {index}"


def _detector_name(face_crop: str | bool | None) -> str | None:
    if not isinstance(face_crop, str | bool | None) or face_crop == "":
        raise ValueError(f"face_crop is the name of a face detector, such as {DEFAULT_DETECTOR!r}, got {face_crop!r}")
    return (DEFAULT_DETECTOR if face_crop else None) if isinstance(face_crop, bool) else face_crop


def _check_positive(**options: float | None) -> None:
    for name, value in options.items():
        whole = name not in ("video_fps", "fps", "max_audio_seconds")
        kinds = numbers.Integral if whole else numbers.Real
        if value is not None and not (isinstance(value, kinds) and 0 < value < math.inf):
            raise ValueError(f"{name} must be positive{' and whole' * whole}, got {value!r}")
