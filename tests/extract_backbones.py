"""Tiny random backbones, saved with their processors as a hub repository holds them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
IMAGES = {**SIZES, "image_size": 16, "patch_size": 8}
WAVES = {**SIZES, "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "wor", "##ld", "it", "was", "good", "a", ",")


def save_vision(folder: Path, kind: str) -> str:
    """clip, siglip, dinov2, dinov3, vit, resnet, videomae or vivit, for pictures of 16 x 16."""
    tower = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 12}
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "clip": ("CLIP", {"vision_config": IMAGES, "text_config": tower}),
        "siglip": ("Siglip", {"vision_config": IMAGES, "text_config": tower}),
        "dinov2": ("Dinov2", IMAGES),
        "dinov3": ("DINOv3ViT", {**IMAGES, "num_register_tokens": 4}),
        "vit": ("ViT", IMAGES),
        "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}),
        "videomae": ("VideoMAE", {**IMAGES, "num_frames": 4}),
        "vivit": ("Vivit", {**IMAGES, "num_frames": 4, "tubelet_size": [2, 8, 8]}),
    }
    name, options = made[kind]
    _save(folder, name, options)
    side = {"height": 16, "width": 16}
    if kind == "dinov3":  # its own class needs torchvision, even to be saved
        text = '{"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 16, "width": 16}}'
        (folder / "preprocessor_config.json").write_text(text)
        return str(folder)
    processor = transformers.VideoMAEImageProcessor if kind in ("videomae", "vivit") else transformers.ViTImageProcessor
    crop = {"crop_size": side} if kind in ("videomae", "vivit") else {}
    processor(size={"shortest_edge": 16} if crop else side, **crop).save_pretrained(folder)
    return str(folder)


def save_audio(folder: Path, kind: str) -> str:
    """wav2vec2, hubert, wavlm, whisper (pieces of 2 s) or ast (pieces of 1.28 s)."""
    if kind == "whisper":
        return save_whisper(folder)
    if kind == "ast":
        _save(folder, "AST", {**SIZES, "max_length": 128, "num_mel_bins": 32})
        transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=128).save_pretrained(folder)
        return str(folder)
    _save(folder, {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}[kind], WAVES)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return str(folder)


def save_text(folder: Path, kind: str = "bert", max_length: int = 12) -> str:
    """bert, roberta or modernbert over a vocabulary of twelve word pieces."""
    name = {"bert": "Bert", "roberta": "Roberta", "modernbert": "ModernBert"}[kind]
    _save(folder, name, {**SIZES, "vocab_size": len(WORDS), "pad_token_id": 0, "max_position_embeddings": 40})
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    return str(folder)


def save_whisper(folder: Path) -> str:
    """A Whisper that speaks bytes, hears pieces of 2 s, and can time its words."""
    from tokenizers.pre_tokenizers import ByteLevel

    end = "<|endoftext|>"
    vocabulary = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))} | {end: 256}
    tokenizer = transformers.WhisperTokenizer(
        vocab=vocabulary, merges=[], unk_token=end, bos_token=end, eos_token=end, pad_token=end
    )
    names = ("startoftranscript", "en", "transcribe", "translate", "startofprev", "nospeech", "notimestamps")
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in names]})
    tokenizer.add_tokens([f"<|{step * 0.02:.2f}|>" for step in range(101)])
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    sides = {"layers": 3, "attention_heads": 2, "ffn_dim": 32}
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        max_source_positions=100,
        max_target_positions=40,
        num_mel_bins=20,
        pad_token_id=256,
        bos_token_id=256,
        eos_token_id=256,
        decoder_start_token_id=ids["startoftranscript"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()},
    )
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config)
    generation = model.generation_config
    generation._from_model_config = False
    settings = {
        "alignment_heads": [[0, 0], [1, 1]],
        "no_timestamps_token_id": ids["notimestamps"],
        "prev_sot_token_id": ids["startofprev"],
        "lang_to_id": {"<|en|>": ids["en"]},
        "task_to_id": {"transcribe": ids["transcribe"], "translate": ids["translate"]},
        "is_multilingual": True,
        "max_length": 20,
        "max_initial_timestamp_index": 50,
        # Letters and spaces only.
        "suppress_tokens": [i for letter, i in vocabulary.items() if i < 256 and letter not in "abcdefghijklm\u0120"],
        "begin_suppress_tokens": [256],
    }
    for name, value in settings.items():
        setattr(generation, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(folder)
    return str(folder)


def _save(folder: Path, name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options)
    getattr(transformers, f"{name}Model")(config).eval().save_pretrained(folder)
