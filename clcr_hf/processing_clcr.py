"""CLCR processor: text, sound, pictures, flow and ready features become one padded, masked batch.

Every modality of the batch carries a mask of its own: `attention_mask` for token ids, `<modality>_attention_mask` for
all else. Masks are int64, 1 for what the sample holds, 0 for padding; a modality that a sample lacks is a row of zeros.
Sounds and clips are encoded one by one and padded afterwards, always on the right, so a sample's own content never
depends on its neighbours in the batch.

Layout and names are our reconstruction (the paper fixes the model, not its input format).
"""

import inspect
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, AutoVideoProcessor, BatchFeature
from transformers.processing_utils import ProcessorMixin

from .media import MediaError, load_audio, load_image, load_media, load_video, resample_audio
from .remote_code import add_remote_code

_LOADERS = {
    "tokenizer": AutoTokenizer,
    "feature_extractor": AutoFeatureExtractor,
    "image_processor": AutoImageProcessor,
    "video_processor": AutoVideoProcessor,
}
# Raw inputs of each modality, and the part that each of them needs.
_RAW_INPUTS = {"text": ("text",), "vision": ("videos", "images"), "audio": ("audio",), "flow": ("flow",)}
_PARTS = {"text": "tokenizer", "videos": "image_processor", "images": "image_processor", "audio": "feature_extractor"}
_FEATURES_OF = {name: f"{modality}_features" for modality, names in _RAW_INPUTS.items() for name in names}
_FEATURES = "_features"
# Dimensions of one sample where a bare array may be a batch: with one more, it is.
_ARRAY_RANK = {"videos": 4, "images": 3, "flow": 4}
# Tokenizers without a limit of their own state an enormous one.
_NO_LIMIT = 10**9
# Log-mel extractors need two windows of sound; shorter sounds are lengthened with silence.
_SHORTEST_SOUND = 0.05
# Length of the silence, and side of the black picture, that tell the shapes of an all-missing modality.
_PROBE_SECONDS = 0.1
_PROBE_SIDE = 64


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
            for each sound, for `audio`. `SeamlessM4TFeatureExtractor` (log-mel, numpy only) suits models trained
            from scratch.
        image_processor: any image processor that gives `(C, H, W)` pixels for each frame, for `videos`; VideoMAE's,
            which takes clips, works too. torchvision is not needed.
        video_processor: a video processor in its place (transformers makes these need torchvision).
        video_num_frames: most frames taken of a clip, spread evenly over it. None takes every frame.
        video_fps: frames a second taken of a file instead of `video_num_frames`.
        max_audio_seconds: sounds are cut after this many seconds. None keeps them whole.
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
    ):
        if image_processor is not None and video_processor is not None:
            raise ValueError("both an image_processor and a video_processor were given; pass one of them")
        _check_positive(video_num_frames=video_num_frames, video_fps=video_fps, max_audio_seconds=max_audio_seconds)
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.image_processor = image_processor
        self.video_processor = video_processor
        self.video_num_frames = video_num_frames
        self.video_fps = video_fps
        self.max_audio_seconds = max_audio_seconds
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
        if self._pictures is not None:
            names += ["pixel_values", "vision_attention_mask"]
        if self.feature_extractor is not None:
            names += ["input_values", "audio_attention_mask"]
        return names

    # --- the batch ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: Any = None,
        videos: Any = None,
        audio: Any = None,
        media: Any = None,
        flow: Any = None,
        images: Any = None,
        sampling_rate: int | Sequence[int | None] | None = None,
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
        **features: Any,
    ) -> BatchFeature:
        """Makes one batch of B samples. A list is a batch, all else is a single sample (B = 1).

        In a list, None says that the sample lacks the modality: its mask row is zero and its values are zeros.

        Args:
            text: str or list of `str | None`.
            videos: a clip or a list of clips. A clip is a path, bytes, a binary file, `(F, H, W, 3)` uint8 RGB array
                or tensor, a list of frames (PIL images or `(H, W, 3)` uint8), or `{"path": ..., "bytes": ...}` as
                `datasets` gives undecoded video. `(B, F, H, W, 3)` is a batch.
            audio: a sound or a list of sounds. A sound is a waveform `(samples,)`, `(channels, samples)` or
                `(samples, channels)` (floats in [-1, 1] or PCM integers), a list of numbers, a path, bytes, a binary
                file, `{"array": ..., "sampling_rate": ...}` or `{"path": ..., "bytes": ...}`. An array is always
                one sound. Sounds are mixed to mono and resampled to the extractor's rate.
            media: a path (or bytes) or list of them, each opened once for both its frames and its sound. A file
                without sound track (or pictures) lacks that modality. Fills what this processor has parts for.
            flow: optical flow, `(F, 2, H, W)` or `(F, H, W, 2)` floats or the path of a file written by
                `clcr_hf.data.flow`, or a list of such; a 5-D array is a batch.
            images: one picture, or a list with one entry a sample. An entry that is a picture becomes a clip of one
                frame; an entry that is itself a list (or a 4-D array) holds the frames of a clip in order. So one clip
                is a list in a list. A picture is a PIL image, `(H, W, 3)` uint8, a path, bytes, a binary file or
                `{"path": ..., "bytes": ...}`; only the frames that are kept are opened.
            sampling_rate: rate of the waveforms in `audio`, samples a second; one for all or one for each.
            num_frames: overrides `video_num_frames` for this call. Clips with more frames are thinned evenly; clips
                with fewer are padded.
            fps: frames a second instead, for files; frames in memory are then all kept.
            max_audio_seconds: overrides the option of that name.
            padding: True or "longest" pads to the longest sample; "max_length" also pads text to `max_length`;
                False refuses samples of different lengths.
            truncation, max_length: for the text, in tokens. Text is cut to the tokenizer's limit if that states one.
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
              lengths, so a sound that is there has a mask of ones;
            - flow: `flow_pixel_values` (B, F, 2, H, W) float32, `flow_attention_mask` (B, F);
            - features: `NAME_features` (B, T, D) or (B, L, T, D) float32, `NAME_attention_mask` (B, T).

            A modality that no sample has is one all-masked step (or one all-masked sound), except features whose
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
        frames = self._sampling(num_frames, fps)
        _check_positive(max_audio_seconds=max_audio_seconds)
        given = {"text": text, "videos": videos, "audio": audio, "media": media, "flow": flow, "images": images}
        given |= features
        given = {name: value for name, value in given.items() if value is not None}
        self._check_inputs(given, features)
        batch = {name: _as_batch(name, value) for name, value in given.items()}
        size = _batch_size(batch)
        clips_from = "images" if "images" in batch else "videos"
        if "images" in batch:
            batch["videos"] = [_frames_of(entry) for entry in batch.pop("images")]
        if "media" in batch:
            batch |= self._open_media(batch.pop("media"), frames)
        pad = padding is not False
        data: dict[str, np.ndarray] = {}
        if "text" in batch:
            length = max_length if padding == "max_length" else None
            options = {"truncation": truncation, "max_length": max_length, **(text_kwargs or {})}
            data |= self._encode_text(batch["text"], options, length, pad)
        if "videos" in batch:
            data |= self._encode_videos(batch["videos"], frames, dict(images_kwargs or {}), pad, clips_from)
        if "audio" in batch:
            seconds = max_audio_seconds if max_audio_seconds is not None else self.max_audio_seconds
            rates = _rates(sampling_rate, size)
            data |= self._encode_audio(batch["audio"], rates, seconds, dict(audio_kwargs or {}), pad)
        if "flow" in batch:
            data |= _encode_flow(batch["flow"], frames["num_frames"], self.flow_size, pad)
        for name in features.keys() & batch.keys():
            data |= _encode_features(name, batch[name], pad)
        if not data:
            raise ValueError("no sample of the batch has any input: every entry is None")
        return BatchFeature(data, tensor_type=return_tensors)

    def _check_inputs(self, given: dict[str, Any], features: dict[str, Any]) -> None:
        """Refuses unknown names, nothing at all, a modality given twice, or given without its part."""
        for name in features:
            if not name.endswith(_FEATURES) or name == _FEATURES:
                raise TypeError(f"unknown argument {name!r}; features of a modality are passed as NAME_features=")
        if not given:
            raise ValueError("nothing to process; pass text=, videos=, audio=, media=, flow= or NAME_features=")
        sources: dict[str, list[str]] = {modality: [] for modality in _RAW_INPUTS}
        for modality, names in _RAW_INPUTS.items():
            sources[modality] = [name for name in (*names, modality + _FEATURES) if name in given]
        if "media" in given:
            sources["vision"] += ["media"] * (self._pictures is not None)
            sources["audio"] += ["media"] * (self.feature_extractor is not None)
        for modality, names_given in sources.items():
            if len(names_given) > 1:
                raise ValueError(f"{modality} was given more than once ({', '.join(names_given)}); pass one of them")
        for name, part in _PARTS.items():
            if name in given:
                self._need(part, name)
        if "media" in given and self._pictures is None and self.feature_extractor is None:
            self._need("image_processor", "media")

    def _need(self, part: str, use: str) -> Any:
        found = self._pictures if part == "image_processor" else getattr(self, part)
        if found is None:
            instead = "" if use == "decoding" else f", or pass {_FEATURES_OF.get(use, 'NAME_features')}= instead"
            raise ValueError(
                f"{use} needs the processor's {part}, and it has none; build it with CLCRProcessor({part}=...){instead}"
            )
        return found

    @property
    def _pictures(self) -> Any:
        """The part that turns frames into pixels, or None."""
        return self.image_processor if self.image_processor is not None else self.video_processor

    def _sampling(self, num_frames: int | None, fps: float | None) -> dict[str, Any]:
        """Which frames to take: the call's own wish, or the saved options, fps before the number."""
        _check_positive(num_frames=num_frames, fps=fps)
        if num_frames is not None and fps is not None:
            raise ValueError("num_frames and fps were both given; pass one of them")
        if num_frames is None and fps is None:
            num_frames, fps = (None, self.video_fps) if self.video_fps is not None else (self.video_num_frames, None)
        return {"num_frames": num_frames, "fps": fps}

    def _open_media(self, samples: list[Any], frames: dict[str, Any]) -> dict[str, list[Any]]:
        """Opens each file once; gives clips and sounds (at the extractor's rate) for the parts that are there."""
        if self._pictures is None:
            frames = {"num_frames": 1}  # the pictures are not wanted
        rate = self.feature_extractor.sampling_rate if self.feature_extractor is not None else None
        clips: list[Any] = []
        sounds: list[Any] = []
        for index, sample in enumerate(samples):
            source = _media_source(sample)
            clip = None if source is None else _read(load_media, "media", index, source, sampling_rate=rate, **frames)
            clips.append(None if clip is None or clip.video is None else _distinct(clip.video, frames))
            found = clip is not None and clip.audio is not None
            sounds.append({"array": clip.audio, "sampling_rate": rate} if clip is not None and found else None)
        opened: dict[str, list[Any]] = {}
        if self._pictures is not None:
            opened["videos"] = clips
        if self.feature_extractor is not None:
            opened["audio"] = sounds
        return opened

    def _encode_text(
        self, samples: list[str | None], options: dict[str, Any], length: int | None, pad: bool
    ) -> dict[str, np.ndarray]:
        for index, sample in enumerate(samples):
            if sample is not None and not isinstance(sample, str):
                raise ValueError(f"text: sample {index} is a {type(sample).__name__}; pass a str, or None if missing")
        if options["truncation"] is None:
            options["truncation"] = options["max_length"] is not None or self.tokenizer.model_max_length < _NO_LIMIT
        options |= {"return_attention_mask": True, "return_tensors": None, "padding": False}
        encoded = [None if sample is None else self.tokenizer(sample, **options) for sample in samples]
        like = next((row for row in encoded if row is not None), None)
        absent = {key: np.asarray(row, np.int64)[:0] for key, row in (like or self.tokenizer("", **options)).items()}
        fills = {"input_ids": self.tokenizer.pad_token_id or 0, "token_type_ids": self.tokenizer.pad_token_type_id}
        data = {}
        for key, empty in absent.items():
            rows = [empty if row is None else np.asarray(row[key], np.int64) for row in encoded]
            data[key], _ = _stack(rows, "text", fill=fills.get(key, 0), length=length, pad=pad)
        return data

    def _encode_videos(
        self, samples: list[Any], frames: dict[str, Any], extra: dict[str, Any], pad: bool, name: str = "videos"
    ) -> dict[str, np.ndarray]:
        rows = []
        for index, sample in enumerate(samples):
            clip = _clip_frames(sample, index, frames, name)
            rows.append(self._pixels(clip, index, extra) if clip else None)
        if all(row is None for row in rows):
            rows[0] = self._pixels([np.zeros((_PROBE_SIDE, _PROBE_SIDE, 3), np.uint8)], 0, extra)[:0]
        values, mask = _stack(_fill_missing(rows), name, pad=pad)
        return {"pixel_values": values, "vision_attention_mask": mask}

    def _pixels(self, frames: list[np.ndarray], index: int, extra: dict[str, Any]) -> np.ndarray:
        """Frames `(H, W, 3)` uint8 to pixels `(F, C, H, W)` float32."""
        options = {"return_tensors": "pt", "input_data_format": "channels_last", **extra}
        if self.image_processor is not None:
            out = self.image_processor(frames, **options)
        else:
            out = self.video_processor([np.stack(frames)], do_sample_frames=False, **options)
        pixels = _to_numpy(out["pixel_values"] if "pixel_values" in out else out["pixel_values_videos"])
        pixels = pixels[0] if pixels.ndim == 5 and len(pixels) == 1 else pixels
        if pixels.ndim != 4:
            raise ValueError(
                f"videos: sample {index}: {type(self._pictures).__name__} gave shape {pixels.shape}; "
                "use an image processor that gives (frames, channels, height, width)"
            )
        return pixels.astype(np.float32, copy=False)

    def _encode_audio(
        self, samples: list[Any], rates: list[int | None], seconds: float | None, extra: dict[str, Any], pad: bool
    ) -> dict[str, np.ndarray]:
        target = self.feature_extractor.sampling_rate
        rows: list[Any] = []
        masks: list[Any] = []
        for index, (sample, rate) in enumerate(zip(samples, rates, strict=True)):
            wave = _waveform(sample, index, rate, target, seconds)
            row, mask = (None, None) if wave is None or wave.size == 0 else self._extract(wave, extra)
            rows.append(row)
            masks.append(mask)
        if all(row is None for row in rows):
            row, mask = self._extract(np.zeros(round(_PROBE_SECONDS * target), np.float32), extra)
            rows[0], masks[0] = np.zeros_like(row), np.zeros_like(mask)
        values, _ = _stack(_fill_missing(rows), "audio", pad=pad)
        mask, _ = _stack(_fill_missing(masks), "audio", pad=pad)
        return {"input_values": values, "audio_attention_mask": mask}

    def _extract(self, wave: np.ndarray, extra: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """One sound to the extractor's values, 1-D or 2-D float32, and their mask over time, int64."""
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
                f"audio: {type(self.feature_extractor).__name__} gave shape {values.shape} for one sound; "
                "use one that gives a waveform (samples,) or a spectrogram (T, mel)"
            )
        return values, mask


# --- reading single samples ------------------------------------------------------------------------------------------


def _waveform(sample: Any, index: int, rate: int | None, target: int, seconds: float | None) -> np.ndarray | None:
    """One sound as float32 `(samples,)` at the rate `target`, cut after `seconds`; None if missing."""
    if isinstance(sample, Mapping) and sample.get("array") is not None:
        sample, rate = sample["array"], sample.get("sampling_rate", rate)
    source = _media_source(sample)
    if source is None:
        return None
    if _is_file(source):
        return _read(load_audio, "audio", index, source, sampling_rate=target, end=seconds)
    if rate is None:
        raise ValueError(f"audio: sample {index} is a waveform of unknown rate; pass sampling_rate= (samples a second)")
    try:
        wave = _to_numpy(source)
        wave = resample_audio(wave, int(rate), target) if wave.size else np.zeros(0, np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"audio: sample {index}: {error}") from error
    return wave if seconds is None else wave[: round(seconds * target)]


def _clip_frames(sample: Any, index: int, frames: dict[str, Any], name: str = "videos") -> list[np.ndarray]:
    """One clip as a list of `(H, W, 3)` uint8 frames, thinned as asked; empty if missing."""
    source = _media_source(sample)
    if source is None:
        return []
    if _is_file(source):
        return list(_distinct(_read(load_video, name, index, source, **frames), frames))
    return [_picture(source[i], index, name) for i in _even_indices(len(source), frames["num_frames"])]


def _frames_of(entry: Any) -> Any:
    """An entry of `images` as a list of frames; None if it is missing or empty."""
    if entry is None:
        return None
    frames = list(entry) if isinstance(entry, list | tuple) or _rank(entry) == 4 else [entry]
    return frames or None


def _picture(frame: Any, index: int, name: str) -> np.ndarray:
    """A PIL image, array or image file as `(H, W, 3)` uint8."""
    source = _media_source(frame)
    if _is_file(source):
        return _read(load_image, name, index, source)
    if source is None:
        raise ValueError(f"{name}: sample {index} has a frame that is None; leave the frame out")
    array = _to_numpy(frame.convert("RGB") if hasattr(frame, "convert") else frame)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"{name}: sample {index}: a frame is {array.dtype} of shape {array.shape}; "
            "pass uint8 RGB frames (H, W, 3), channels last, values 0 to 255"
        )
    return array


def _even_indices(total: int, wanted: int | None) -> list[int]:
    """At most `wanted` of `total` frames: the middles of equal parts, as `load_video` takes them."""
    if wanted is None or total <= wanted:
        return list(range(total))
    return [int((part + 0.5) * total / wanted) for part in range(wanted)]


def _distinct(clip: Any, frames: dict[str, Any]) -> np.ndarray:
    """Frames of a clip; where a number of them was asked for, those that a short clip repeats are dropped."""
    if frames.get("num_frames") is None:
        return clip.frames
    return clip.frames[np.unique(clip.timestamps, return_index=True)[1]]


def _read(load: Callable[..., Any], name: str, index: int, source: Any, **options: Any) -> Any:
    try:
        return load(source, **options)
    except MediaError as error:
        raise MediaError(f"{name}: sample {index}: {error}") from error


def _media_source(sample: Any) -> Any:
    """Undecoded audio and video of `datasets` come as `{"path", "bytes"}`; the bytes win, the path may be gone."""
    if not isinstance(sample, Mapping):
        return sample
    source = sample.get("bytes") if sample.get("bytes") is not None else sample.get("path")
    if source is None and not set(sample) & {"bytes", "path", "array"}:
        raise ValueError(f"a sample has the keys {sorted(sample)}; expected 'bytes', 'path' or 'array'")
    return source


def _is_file(source: Any) -> bool:
    return isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(source, "read")


def _encode_flow(
    samples: list[Any], num_frames: int | None, size: list[int] | None, pad: bool
) -> dict[str, np.ndarray]:
    rows: list[Any] = []
    for index, sample in enumerate(samples):
        row = None if sample is None else _floats(_opened_flow(sample, index), "flow", index)
        if row is not None and row.ndim == 4 and row.shape[1] != 2 and row.shape[-1] == 2:
            row = row.transpose(0, 3, 1, 2)
        if row is not None and (row.ndim != 4 or row.shape[1] != 2):
            raise ValueError(f"flow: sample {index} has shape {row.shape}; expected (F, 2, H, W) or (F, H, W, 2)")
        if row is not None:
            row = row[_even_indices(len(row), num_frames)]
            row = row if size is None else _resized_flow(row, size)
        rows.append(row)
    if all(row is None for row in rows):
        return {}
    values, mask = _stack(_fill_missing(rows), "flow", pad=pad)
    return {"flow_pixel_values": values, "flow_attention_mask": mask}


def _opened_flow(sample: Any, index: int) -> Any:
    """The flow behind a path; anything else as it is."""
    if not isinstance(sample, str | os.PathLike):
        return sample
    from .data.flow import load_flow

    return _read(load_flow, "flow", index, sample)


def _resized_flow(flow: np.ndarray, size: list[int]) -> np.ndarray:
    """Flow `(F, 2, H, W)` brought to `size` (height, width); a vector grows with the picture it belongs to."""
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
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"flow_size must be a number of pixels, or [height, width], got {size!r}")
    return sides


def _encode_features(name: str, samples: list[Any], pad: bool) -> dict[str, np.ndarray]:
    rows: list[Any] = []
    for index, sample in enumerate(samples):
        row = None if sample is None else _floats(sample, name, index)
        if row is not None and row.shape == (0,):
            row = None
        if row is not None and row.ndim not in (2, 3):
            raise ValueError(f"{name}: sample {index} has shape {row.shape}; expected (T, D), or (L, T, D) with levels")
        rows.append(row)
    if all(row is None for row in rows):
        return {}
    values, mask = _stack(_fill_missing(rows, axis=-2), name, axis=-2, pad=pad)
    return {name: values, name.removesuffix(_FEATURES) + "_attention_mask": mask}


def _floats(value: Any, name: str, index: int) -> np.ndarray:
    """A sample's array as float32; ValueError where it is no array of finite numbers."""
    try:
        array = _to_numpy(value).astype(np.float32, copy=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: sample {index} is no array of numbers: {error}") from error
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"{name}: sample {index} holds NaN or infinite values (first at {place}); "
            "repair them, or pass None if the sample lacks this modality"
        )
    return array


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


# --- batches ---------------------------------------------------------------------------------------------------------


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _as_batch(name: str, value: Any) -> list[Any]:
    """A list is a batch of samples, anything else is one sample, with the exceptions that `__call__` tells."""
    sample_rank = 2 if name.endswith(_FEATURES) else _ARRAY_RANK.get(name)
    if sample_rank is not None and _rank(value) > sample_rank:
        return list(value)
    if isinstance(value, list | tuple) and value:
        one_clip = name == "videos" and all(hasattr(item, "convert") or _rank(item) == 3 for item in value)
        one_sound = name == "audio" and all(isinstance(item, numbers.Number) for item in value)
        return [value] if one_clip or one_sound else list(value)
    return _as_list(value)


def _rank(value: Any) -> int:
    return int(getattr(value, "ndim", 0)) if hasattr(value, "shape") else 0


def _batch_size(batch: dict[str, list[Any]]) -> int:
    sizes = {name: len(samples) for name, samples in batch.items()}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"the inputs differ in their number of samples: {listed}; use None for a missing one")
    size = next(iter(sizes.values()))
    if size == 0:
        raise ValueError("the batch is empty; pass at least one sample")
    return size


def _rates(sampling_rate: Any, size: int) -> list[int | None]:
    rates = list(sampling_rate) if isinstance(sampling_rate, Iterable) else [sampling_rate] * size
    if len(rates) != size:
        raise ValueError(f"sampling_rate has {len(rates)} entries for {size} samples; pass one rate or one for each")
    return rates


def _fill_missing(rows: list[Any], axis: int = 0) -> list[np.ndarray]:
    """Replaces None by an array without steps, shaped like the rows that are there."""
    like = next(row for row in rows if row is not None)
    empty = np.take(like, [], axis=axis)
    return [empty if row is None else row for row in rows]


def _stack(
    rows: list[np.ndarray],
    name: str,
    axis: int = 0,
    fill: int = 0,
    length: int | None = None,
    pad: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Pads rows on the right of their time axis to the longest (or `length`, at least 1) and stacks them.

    Returns the stack `(B, ...)` and its mask `(B, T)` int64.
    """
    axis = axis % rows[0].ndim
    for index, row in enumerate(rows):
        if row.ndim != rows[0].ndim or _without(row.shape, axis) != _without(rows[0].shape, axis):
            raise ValueError(
                f"{name}: sample {index} has shape {row.shape} and sample 0 {rows[0].shape}; "
                f"only axis {axis}, the time, may differ"
            )
    lengths = [row.shape[axis] for row in rows]
    if not pad and len(set(lengths)) > 1:
        raise ValueError(f"{name}: samples have the lengths {lengths} and padding=False; pass padding=True")
    longest = max(1, length or 0, *lengths)
    shape = list(rows[0].shape)
    shape[axis] = longest
    values = np.full((len(rows), *shape), fill, rows[0].dtype)
    mask = np.zeros((len(rows), longest), np.int64)
    for index, row in enumerate(rows):
        values[index].swapaxes(0, axis)[: row.shape[axis]] = row.swapaxes(0, axis)
        mask[index, : row.shape[axis]] = 1
    return values, mask


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _check_positive(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
