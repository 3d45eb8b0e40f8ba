"""Model and processor of a training run: from scratch, around pretrained backbones, or a saved CLCR to go on from."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    SeamlessM4TFeatureExtractor,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from .configuration_clcr import STANDARD_MODALITIES, CLCRConfig
from .data.columns import logger
from .feature_extraction_clcr import CLCRFeatureExtractor
from .modeling_clcr import CLCRForSequenceClassification, CLCRForTokenClassification, head_class
from .options import split_options
from .processing_clcr import CLCRProcessor
from .training_columns import feature_shapes, is_raw
from .training_data import DataArguments, LoadedData

# The paper's ablation study, each variant as fields of `CLCRConfig`.
ABLATIONS: dict[str, dict[str, Any]] = {
    "without_hierarchy": {"use_hierarchy": False},
    "without_intraced": {"use_intraced": False},
    "without_intercad": {"use_intercad": False},
    "full_mix": {"level_mixing": "full_mix"},
    "without_intra_loss": {"lambda_intra": 0.0},
    "without_inter_loss": {"lambda_inter": 0.0},
    "without_regularisers": {"lambda_intra": 0.0, "lambda_inter": 0.0},
    "dense_budget": {"dense_budget": True},
    "without_private": {"use_private_path": False},
}
IMAGE_BACKBONES = ("small", "resnet18")
_MEL_BINS, _MEL_STRIDE = 40, 2
_BERT_VOCABULARY = 30_522
_SMALL_WIDTH, _RESNET18_WIDTH = 64, 512


@dataclass
class ModelArguments:
    """Which model to train: from scratch (small), around pretrained backbones, or a saved CLCR."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Go on from this saved CLCR model."})
    text_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained text backbone and tokenizer, e.g. bert-base-uncased."}
    )
    vision_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained image backbone and its processor, e.g. microsoft/resnet-18."}
    )
    audio_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained audio backbone and its extractor, e.g. facebook/wav2vec2-base."}
    )
    flow_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Image backbone with two input channels, for optical flow."}
    )
    freeze_backbones: bool = field(default=False, metadata={"help": "Keep the pretrained backbones as they are."})
    modalities: list[str] | None = field(
        default=None,
        metadata={"help": "Which of text, vision, audio and flow the model reads; left out: all that the data hold."},
    )
    ablation: str | None = field(
        default=None, metadata={"help": "Train a variant of the paper's ablation study.", "choices": list(ABLATIONS)}
    )
    hidden_size: int = field(default=64, metadata={"help": "Width of the fusion."})
    image_backbone: str = field(
        default="small",
        metadata={
            "help": "What reads frames, flow and spectrograms where no pretrained backbone is named: a small residual "
            "network, or ResNet-18 tapped at its last stages.",
            "choices": list(IMAGE_BACKBONES),
        },
    )
    backbone_size: int | None = field(
        default=None,
        metadata={"help": "Width of the last layer of backbones from scratch; left out: 64, and 512 for resnet18."},
    )
    vocab_size: int = field(default=2000, metadata={"help": "Most entries of a tokenizer trained from scratch."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of the fusion."})
    config_overrides: str | None = field(
        default=None, metadata={"help": "More fields of CLCRConfig, e.g. 'num_levels=3,lambda_intra=0.1'."}
    )

    def __post_init__(self) -> None:
        names = self.modalities
        if names is not None and (set(names) - set(STANDARD_MODALITIES) or not names or len(set(names)) < len(names)):
            raise ValueError(f"--modalities takes each of {', '.join(STANDARD_MODALITIES)} at most once, got {names}")
        if self.ablation is not None and self.ablation not in ABLATIONS:
            raise ValueError(f"--ablation must be one of {', '.join(ABLATIONS)}, got {self.ablation!r}")
        if self.image_backbone not in IMAGE_BACKBONES:
            known = ", ".join(IMAGE_BACKBONES)
            raise ValueError(f"--image_backbone must be one of {known}, got {self.image_backbone!r}")

    @property
    def backbones(self) -> dict[str, str]:
        """Pretrained backbones named for a modality in use, by modality; an empty name is none."""
        names = STANDARD_MODALITIES if self.modalities is None else self.modalities
        named = {name: getattr(self, f"{name}_model_name_or_path") for name in names}
        return {name: source for name, source in named.items() if source}

    def fusion_fields(self) -> dict[str, Any]:
        """Fields of `CLCRConfig` that these arguments set, the ablation's and the overrides among them."""
        fields = {"hidden_size": self.hidden_size, "dropout": self.dropout, **ABLATIONS.get(self.ablation or "", {})}
        fields |= split_options(self.config_overrides, "--config_overrides")
        return fields

    def width(self, kind: str) -> int:
        """Width of the last layer of a backbone from scratch; `kind` is `"small"` or `"resnet18"`."""
        return self.backbone_size or (_RESNET18_WIDTH if kind == "resnet18" else _SMALL_WIDTH)


# -- model ----------------------------------------------------------------------------------------------------------


def load_model(path: str) -> PreTrainedModel:
    """The saved CLCR model with its own head."""
    return head_class(CLCRConfig.from_pretrained(path)).from_pretrained(path)


def build_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    data: LoadedData,
    columns: Mapping[str, str],
    processor: CLCRProcessor,
) -> PreTrainedModel:
    """
    The model that the arguments ask for; see [`ModelArguments`].

    Args:
        columns: the column that each modality is read from, see [`~clcr_hf.training_columns.modality_columns`].
        processor: what [`build_processor`] gave; its tokenizer states the size of the vocabulary.

    Raises:
        ValueError: a pretrained backbone for a modality of which the data hold features only.
    """
    if model_args.model_name_or_path is not None:
        return load_model(model_args.model_name_or_path)
    labels = data.labels
    fields = model_args.fusion_fields()
    fields |= {"problem_type": labels.problem_type, "num_labels": labels.num_labels}
    if labels.names is not None:
        fields["id2label"] = dict(enumerate(labels.names))
        fields["label2id"] = {name: index for index, name in enumerate(labels.names)}
    if labels.per_segment:
        fields["num_segments"] = data.num_segments
    shapes = feature_shapes(data.splits["train"])
    backbones = {name: source for name, source in model_args.backbones.items() if name in columns}
    starved = [name for name in backbones if not is_raw(columns[name]) and columns[name] != "input_ids"]
    if starved:
        raise ValueError(f"--dataset {data_args.dataset} gives features of {starved}, which no backbone reads")
    for name, column in columns.items():
        given = fields.get(f"{name}_config") or {}
        if name in backbones:
            made: dict[str, Any] = {"freeze_backbone": model_args.freeze_backbones}
        elif column.endswith("_features"):
            *levels, _, width = shapes[name]  # (T, D), or (L, T, D): layers tapped when the features were extracted
            made = {"feature_size": width, "source": "taps" if levels else "tcn"}
            if levels:
                fields.setdefault("num_levels", levels[0])
        else:
            made = _scratch_config(name, model_args, data_args, processor)
        fields[f"{name}_config"] = {**made, **given}
    head = CLCRForTokenClassification if labels.per_segment else CLCRForSequenceClassification
    return head.from_backbones(backbones, **fields)


def _scratch_config(
    name: str, model_args: ModelArguments, data_args: DataArguments, processor: CLCRProcessor
) -> dict[str, Any]:
    """A small reader of raw input: BERT of three layers, a residual network, a TCN over log-mel frames."""
    if name == "text":
        size = model_args.width("small")
        tokenizer = processor.tokenizer
        backbone = BertConfig(
            vocab_size=_BERT_VOCABULARY if tokenizer is None else len(tokenizer),
            hidden_size=size,
            num_hidden_layers=3,
            num_attention_heads=max(size // 16, 1),
            intermediate_size=2 * size,
            max_position_embeddings=max(data_args.max_text_length, 64),
            initializer_range=0.1,  # BERT's 0.02 is meant for width 768; this small one learns sooner from here
        )
        return {"backbone_config": backbone, "source": "taps"}
    if name == "audio" and data_args.audio_preset is None:
        # A token for every 80 ms: with one every 20 ms nothing was learned in the time given.
        return {"feature_size": _MEL_BINS * _MEL_STRIDE, "tcn_stride": 4}
    channels = {"vision": 3, "audio": 1, "flow": 2}[name]
    resnet18 = model_args.image_backbone == "resnet18"
    # Stages as levels (our reconstruction for raw audio-visual input); the small network's map is read by a TCN, but a
    # spectrogram has its time inside the map and is tapped in any case.
    source = "taps" if resnet18 or name == "audio" else "tcn"
    return {"backbone_config": _residual_network(model_args, channels), "source": source}


def _residual_network(model_args: ModelArguments, channels: int) -> ResNetConfig:
    """ResNet-18 (He et al. 2016) or a smaller sibling with one block a stage."""
    width = model_args.width(model_args.image_backbone)
    if model_args.image_backbone == "resnet18":
        stages, depths = [width // 8, width // 4, width // 2, width], [2, 2, 2, 2]
    else:
        stages, depths = [width // 4, width // 2, width, width], [1, 1, 1, 1]
    return ResNetConfig(
        num_channels=channels, embedding_size=stages[0], hidden_sizes=stages, depths=depths, layer_type="basic"
    )


# -- processor ------------------------------------------------------------------------------------------------------


def build_processor(
    model_args: ModelArguments, data_args: DataArguments, data: LoadedData, columns: Mapping[str, str]
) -> CLCRProcessor:
    """
    The saved model's processor, or one built of the backbones' parts and of small ones made here.

    Args:
        columns: as in [`build_model`]; a modality that is read from ready features needs no part.
    """
    if model_args.model_name_or_path is not None:
        return AutoProcessor.from_pretrained(model_args.model_name_or_path)
    builders: dict[str, tuple[str, Callable[[], Any]]] = {
        "text": ("tokenizer", lambda: _tokenizer(model_args, data_args, data)),
        "vision": ("image_processor", lambda: _image_processor(model_args, data_args)),
        "audio": ("feature_extractor", lambda: _feature_extractor(model_args, data_args)),
    }
    parts = {}
    for name, column in columns.items():
        if name in builders and is_raw(column):
            part, build = builders[name]
            parts[part] = build()
    if columns.get("text") == "input_ids" and "text" in model_args.backbones:
        parts["tokenizer"] = AutoTokenizer.from_pretrained(model_args.backbones["text"])
        _compare_tokens(parts["tokenizer"], model_args.backbones["text"], data)
    return CLCRProcessor(
        **parts,
        video_num_frames=None if data_args.video_fps else data_args.video_frames,
        video_fps=data_args.video_fps,
        max_audio_seconds=data_args.max_audio_seconds,
        flow_size=data_args.image_size if columns.get("flow") == "flow" else None,
    )


def _compare_tokens(tokenizer: Any, source: str, data: LoadedData) -> None:
    """Warns where ready token ids begin otherwise than this tokenizer begins a text."""
    first = next((ids[0] for ids in data.splits["train"]["input_ids"] if ids), None)
    if None not in (first, tokenizer.cls_token_id) and first != tokenizer.cls_token_id:
        logger.warning(
            "the token ids of the data begin with %s and those of %s with %s: another tokenizer made them, and this "
            "backbone reads other words than were said. Take its own backbone, or the transcripts (--mmsa_text raw)",
            first,
            source,
            tokenizer.cls_token_id,
        )


def _tokenizer(model_args: ModelArguments, data_args: DataArguments, data: LoadedData) -> Any:
    if "text" in model_args.backbones:
        return AutoTokenizer.from_pretrained(model_args.backbones["text"])
    texts = [text for text in data.splits["train"]["text"] if text]
    return train_tokenizer(texts, model_args.vocab_size, data_args.max_text_length)


def train_tokenizer(texts: Sequence[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """
    A lower-casing tokenizer in BERT's form: the commonest words of `texts` whole, all others in letters.

    The same texts give the same tokenizer in every process. (The trainers of `tokenizers` break ties at random.)

    Args:
        texts: transcripts to take words from; a word seen once is left to letters, so that letters are trained too.
        vocab_size: most entries, letters and special tokens included.
        max_length: longest encoding.
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted({letter for word in counts for letter in word})
    words = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
    entries = [*special.values(), *letters, *(f"##{letter}" for letter in letters), *words]
    entries = list(dict.fromkeys(entries))[:vocab_size]
    tokenizer = Tokenizer(
        models.WordPiece({entry: index for index, entry in enumerate(entries)}, unk_token=special["unk_token"])
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    ends = [(token, tokenizer.token_to_id(token)) for token in (special["cls_token"], special["sep_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)


def _image_processor(model_args: ModelArguments, data_args: DataArguments) -> Any:
    if "vision" in model_args.backbones:
        return AutoImageProcessor.from_pretrained(model_args.backbones["vision"])
    size = {"height": data_args.image_size, "width": data_args.image_size}
    if model_args.image_backbone == "resnet18":
        return ViTImageProcessorPil(size=size, image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD)
    return ViTImageProcessorPil(size=size)


def _feature_extractor(model_args: ModelArguments, data_args: DataArguments) -> Any:
    if "audio" in model_args.backbones:
        return AutoFeatureExtractor.from_pretrained(model_args.backbones["audio"])
    if data_args.audio_preset is not None:
        return CLCRFeatureExtractor.preset(data_args.audio_preset)  # type: ignore[arg-type]
    return SeamlessM4TFeatureExtractor(
        feature_size=_MEL_BINS, num_mel_bins=_MEL_BINS, sampling_rate=data_args.sampling_rate, stride=_MEL_STRIDE
    )


__all__ = [
    "ABLATIONS",
    "IMAGE_BACKBONES",
    "ModelArguments",
    "build_model",
    "build_processor",
    "load_model",
    "train_tokenizer",
]
