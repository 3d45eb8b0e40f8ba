"""Model and processor of a training run: from scratch, around pretrained backbones, or a saved CLCR to go on from."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
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

from ..configuration_clcr import CLCRConfig
from ..data.columns import logger
from ..data.labels import LabelKind, feature_shapes, is_raw
from ..feature_extraction_clcr import CLCRFeatureExtractor
from ..modalities import FEATURES_END, STANDARD_MODALITIES, modality
from ..modeling_clcr import (
    CLCRForPreTraining,
    CLCRForSequenceClassification,
    CLCRForTokenClassification,
    CLCRPreTrainedModel,
    head_class,
)
from ..processing_clcr import CLCRProcessor
from .arguments import DataArguments, ModelArguments
from .data import LoadedData
from .statistics import label_statistics, standardise_features

_MEL_BINS, _MEL_STRIDE = 40, 2
_BERT_VOCABULARY = 30_522
_LEFT_OUT = 0.15  # share of modalities that training on changed sequences leaves out


# -- model ----------------------------------------------------------------------------------------------------------


def build_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    data: LoadedData,
    columns: Mapping[str, str],
    processor: CLCRProcessor,
    pretraining: bool = False,
    heads: Callable[[bool], type[CLCRPreTrainedModel]] | None = None,
) -> PreTrainedModel:
    """
    The model that the arguments ask for; see [`ModelArguments`].

    Args:
        columns: the column that each modality is read from, see [`~clcr_hf.data.labels.modality_columns`].
        processor: what [`build_processor`] gave; its tokenizer states the size of the vocabulary.
        pretraining: for the alignment stage by itself, which looks at no labels.
        heads: in place of CLCR's own, of a new model: the class by whether each segment has a label.

    Raises:
        ValueError: a pretrained backbone for a modality of which the data hold features only.
    """
    head, path = CLCRForPreTraining, model_args.model_name_or_path
    if not pretraining:
        if heads is not None and path is not None:
            raise ValueError("another fusion is for a new model: leave out --model_name_or_path")
        per_segment = data.labels.per_segment
        own = CLCRForTokenClassification if per_segment else CLCRForSequenceClassification
        head = own if heads is None else heads(per_segment)
    if path is not None:
        return head.from_pretrained(path) if pretraining else _load(path, head, data)
    fields = {} if pretraining else _label_fields(data)
    if data_args.augment_features and len(columns) > 1:
        fields["modality_dropout"] = _LEFT_OUT
    if any(not column.endswith(FEATURES_END) for column in columns.values()):
        fields["unimodal_statistics"] = ["mean"]  # what else there is, dropout in trained readers distorts
    fields |= model_args.fusion_fields()
    shapes = feature_shapes(data.splits["train"])
    backbones = {name: source for name, source in model_args.backbones.items() if name in columns}
    starved = [name for name in backbones if not is_raw(columns[name]) and columns[name] != "input_ids"]
    if starved:
        raise ValueError(f"--dataset {data_args.dataset} gives features of {starved}, which no backbone reads")
    for name, column in columns.items():
        own = fields.setdefault("extra_configs", {})
        place, key = (fields, f"{name}_config") if name in STANDARD_MODALITIES else (own, name)
        if name in backbones:
            made: dict[str, Any] = {"freeze_backbone": model_args.freeze_backbones}
        elif column.endswith("_features"):
            *levels, _, width = shapes[name]  # (T, D), or (L, T, D): layers tapped when the features were extracted
            made = {"feature_size": width, "source": "taps" if levels else "tcn"}
            made["feature_norm"] = model_args.feature_norm
            if levels:
                fields.setdefault("num_levels", levels[0])
        else:
            made = _scratch_config(name, model_args, data_args, processor)
        place[key] = {**made, **(place.get(key) or {})}
    model = head.from_backbones(backbones, **fields)
    standardise_features(model, data.splits["train"], columns)
    return model


def _label_fields(data: LoadedData) -> dict[str, Any]:
    """Fields of `CLCRConfig` that say what the labels are."""
    labels = data.labels
    fields: dict[str, Any] = {"problem_type": labels.problem_type, "num_labels": labels.num_labels}
    fields |= {"label_scale": labels.label_scale, "label_range": labels.label_range}
    if labels.problem_type == "regression":
        fields |= label_statistics(data.splits["train"])
    nameless = labels.problem_type == "regression" and labels.label_scale is None
    names = labels.names or (["score"] if nameless else None)
    if names is not None:
        fields["id2label"] = dict(enumerate(names))
        fields["label2id"] = {name: index for index, name in enumerate(names)}
    if labels.per_segment:
        fields["num_segments"] = data.num_segments
    return fields


def _load(path: str, head: type[CLCRPreTrainedModel], data: LoadedData) -> PreTrainedModel:
    """A saved model, with a new head where it has none, or one for other labels than those of the data."""
    config = CLCRConfig.from_pretrained(path)
    fault = label_fault(config, data.labels)
    if fault is None:
        return CLCRPreTrainedModel.load_with_head(path)
    if has_head(config):
        logger.warning("%s; its head is replaced by a new one", fault)
    model = head.from_pretrained(path, ignore_mismatched_sizes=True, **_label_fields(data))
    model.classifier.start_anew()  # of as many labels it would be the old one
    return model


def has_head(config: CLCRConfig) -> bool:
    """Whether a saved model has learned labels; one of the alignment stage alone has not."""
    return issubclass(head_class(config), CLCRForSequenceClassification | CLCRForTokenClassification)


def label_fault(config: CLCRConfig, labels: LabelKind) -> str | None:
    """Why a saved model cannot learn or be measured by such labels; None where it can."""
    if not has_head(config):
        return "this model has no head: it was not trained with labels"
    problem = config.effective_problem_type
    per_segment = issubclass(head_class(config), CLCRForTokenClassification)
    if (problem, per_segment) != (labels.problem_type, labels.per_segment):
        learned, given = (
            f"{kind} of segments" if segments else kind
            for kind, segments in ((problem, per_segment), (labels.problem_type, labels.per_segment))
        )
        return f"this model learned {learned}, and the labels of the data are {given}"
    known = [config.id2label.get(number) for number in range(config.num_labels)]
    if config.num_labels != labels.num_labels or (labels.num_labels > 1 and labels.names != known):
        names = ", ".join(labels.names or ["one score"])
        return f"the classes of the data, {names}, are not those of this model ({', '.join(map(str, known))})"
    return None


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
    resnet18 = model_args.image_backbone == "resnet18"
    # Stages as levels (our reconstruction for raw audio-visual input); the small network's map is read by a TCN, but a
    # spectrogram has its time inside the map and is tapped in any case.
    source = "taps" if resnet18 or name == "audio" else "tcn"
    return {"backbone_config": _residual_network(model_args, modality(name).channels), "source": source}


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
        return load_processor(model_args.model_name_or_path, data_args)
    parts = {}
    for name in (name for name in columns if name in _PARTS):
        (part, pretrained, build), column = _PARTS[name], columns[name]
        source = model_args.backbones.get(name)
        if source is not None and (is_raw(column) or column == "input_ids"):
            parts[part] = pretrained.from_pretrained(source)
            if column == "input_ids":
                _compare_tokens(parts[part], source, data)
        elif is_raw(column):
            parts[part] = build(model_args, data_args, data)
    return CLCRProcessor(
        **parts,
        video_num_frames=None if data_args.video_fps else data_args.video_frames,
        video_fps=data_args.video_fps,
        max_audio_seconds=data_args.max_audio_seconds,
        max_text_length=data_args.max_text_length,
        face_crop=data_args.face_crop,
        flow_size=data_args.image_size if columns.get("flow") == "flow" else None,
    )


def load_processor(path: str, data_args: DataArguments) -> CLCRProcessor:
    """The processor saved with a model. Version 0.1 kept the limit of texts with the arguments of the data alone."""
    processor = AutoProcessor.from_pretrained(path)
    if processor.max_text_length is None:
        processor.max_text_length = data_args.max_text_length
    if data_args.face_crop is not None:
        processor.face_crop = data_args.face_crop
    return processor


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


def _tokenizer(model_args: ModelArguments, data_args: DataArguments, data: LoadedData) -> PreTrainedTokenizerFast:
    texts = (text for text in data.splits["train"]["text"] if text)
    return train_tokenizer(texts, model_args.vocab_size, data_args.max_text_length)


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
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


def _image_processor(model_args: ModelArguments, data_args: DataArguments, data: LoadedData) -> ViTImageProcessorPil:
    size = {"height": data_args.image_size, "width": data_args.image_size}
    if model_args.image_backbone == "resnet18":
        return ViTImageProcessorPil(size=size, image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD)
    return ViTImageProcessorPil(size=size)


def _feature_extractor(model_args: ModelArguments, data_args: DataArguments, data: LoadedData) -> Any:
    if data_args.audio_preset is not None:
        return CLCRFeatureExtractor.preset(data_args.audio_preset)
    return SeamlessM4TFeatureExtractor(
        feature_size=_MEL_BINS, num_mel_bins=_MEL_BINS, sampling_rate=data_args.sampling_rate, stride=_MEL_STRIDE
    )


# Of each modality: the processor's part that reads it, what loads that of a backbone, and what makes one from scratch.
_PARTS: dict[str, tuple[str, Any, Callable[[ModelArguments, DataArguments, LoadedData], Any]]] = {
    "text": ("tokenizer", AutoTokenizer, _tokenizer),
    "vision": ("image_processor", AutoImageProcessor, _image_processor),
    "audio": ("feature_extractor", AutoFeatureExtractor, _feature_extractor),
}

__all__ = [
    "build_model",
    "build_processor",
    "has_head",
    "label_fault",
    "load_processor",
    "train_tokenizer",
]
