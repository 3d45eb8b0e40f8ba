"""Exported graphs against the model they were made of: other batch sizes and lengths, padding, missing modalities."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_utils import TINY_BERT, feature_config

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRModel
from clcr_hf.cli.main import main
from clcr_hf.export.graph import export_program, fusion_inputs, named_outputs
from clcr_hf.export.inputs import example_batch, graph_inputs
from clcr_hf.export.onnx import ONNXModel, export_onnx, largest_difference, quantise

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason='ONNX export is not tested: pip install ".[export]"',
)
CLOSE = 1e-4

TINY_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12],
    "depths": [1, 1],
    "layer_type": "basic",
}
TINY_WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}


def small_config(stride: int = 1, **kwargs: Any) -> CLCRConfig:
    """Features through short TCNs, that of audio with a stride: few operators are exported soon."""
    vision = {"feature_size": 7, "tcn_dilations": [[1], [2]]}
    audio = {"feature_size": 5, "tcn_dilations": [[1], [2]], "tcn_stride": stride}
    return feature_config(**{"vision_config": vision, "audio_config": audio, "num_levels": 2, **kwargs})


def raw_config() -> CLCRConfig:
    """All three modalities raw: BERT and wav2vec2 tapped, ResNet tapped at stages of different widths."""
    return feature_config(
        text_config={"backbone_config": {**TINY_BERT, "num_hidden_layers": 2}, "source": "taps"},
        vision_config={"backbone_config": dict(TINY_RESNET), "source": "taps"},
        audio_config={"backbone_config": dict(TINY_WAV2VEC2), "source": "taps"},
        token_scores="standardised",
        num_levels=2,
    )


def moved(model: Any) -> Any:
    """The model away from its start values, where many terms are zero, and with batch norms that do something."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in (*model.parameters(), *(each for name, each in model.named_buffers() if "running" in name)):
            value.add_(0.05 * torch.rand(value.shape, generator=generator))
    return model.eval()


def batches(model: Any, lengths: list[dict[str, int]], **kwargs: Any) -> list[dict[str, torch.Tensor]]:
    """A batch of each size from 1 up with the lengths given; in those of three a modality misses from each sample."""
    inputs = graph_inputs(model, **kwargs)
    made = []
    for size, each in enumerate(lengths, start=1):
        batch = example_batch(inputs, size, each, seed=size)
        if size >= 3:
            for row, modality in enumerate(inputs):
                batch[modality.mask][row] = 0
        made.append(batch)
    return made


@pytest.fixture(scope="module")
def raw_model() -> CLCRForSequenceClassification:
    torch.manual_seed(0)
    return moved(CLCRForSequenceClassification(raw_config()))


@pytest.fixture(scope="module")
def feature_model() -> CLCRForSequenceClassification:
    torch.manual_seed(1)
    model = moved(CLCRForSequenceClassification(small_config(stride=4, num_labels=3)))
    model.add_linear_evidence()
    buffers = {name: torch.randn(value.shape) for name, value in model.classifier.linear.named_buffers()}
    model.set_linear_evidence(0.4, **buffers)
    return model


@pytest.fixture(scope="module")
def feature_file(feature_model: Any, tmp_path_factory: Any) -> Path:
    return export_onnx(feature_model, tmp_path_factory.mktemp("export") / "model.onnx")


RAW_LENGTHS = [
    {"text": 4, "vision": 1, "audio": 300},
    {},
    {"text": 21, "vision": 5, "audio": 611},
]
FEATURE_LENGTHS = [{}, {"vision": 40, "audio": 9}, {"vision": 2, "audio": 50}, {"vision": 1, "audio": 1}]


@pytest.mark.slow
@needs_onnx
def test_onnx_equals_the_model_on_raw_input(raw_model, tmp_path):
    graph = ONNXModel(export_onnx(raw_model, tmp_path / "model.onnx", image_size=32))
    with torch.no_grad():
        made = named_outputs(raw_model(**example_batch(graph.inputs)))
    assert graph.outputs == list(made) and graph.outputs[0] == "logits" and "token_budgets_2_audio" in made
    for batch in batches(raw_model, RAW_LENGTHS, image_size=32):
        assert largest_difference(raw_model, graph, batch) < CLOSE


@needs_onnx
def test_onnx_equals_the_model_on_features(feature_model, feature_file):
    graph = ONNXModel(feature_file)
    for batch in batches(feature_model, FEATURE_LENGTHS):
        assert largest_difference(feature_model, graph, batch) < CLOSE


@needs_onnx
def test_onnx_of_the_fusion_behind_backbones(raw_model, tmp_path):
    graph = ONNXModel(export_onnx(raw_model, tmp_path / "fusion.onnx", part="fusion"))
    for batch in batches(raw_model, RAW_LENGTHS, image_size=32):
        assert largest_difference(raw_model, graph, batch, "fusion") < CLOSE


@needs_onnx
def test_onnx_of_the_head_by_segments(tmp_path):
    torch.manual_seed(6)
    model = moved(CLCRForTokenClassification(small_config(num_labels=4, num_segments=3)))
    graph = ONNXModel(export_onnx(model, tmp_path / "segments.onnx"))
    for batch in batches(model, [{"vision": 5, "audio": 8}, {"vision": 16, "audio": 8}, {}]):
        assert largest_difference(model, graph, batch) < CLOSE


@needs_onnx
def test_what_is_left_out_counts_as_missing(feature_model, feature_file):
    """A modality, or a mask, that the caller leaves out; the batch of a PyTorch model is taken as it is."""
    graph = ONNXModel(feature_file)
    batch = example_batch(graph.inputs, 3)
    alone = {name: value for name, value in batch.items() if name.startswith("audio")}
    absent = {**batch, "vision_attention_mask": torch.zeros_like(batch["vision_attention_mask"])}
    with torch.no_grad():
        want = feature_model(**alone)
        full = feature_model(**{name: value for name, value in batch.items() if "mask" not in name})
    for given in (alone, absent, {"input_values": alone["audio_features"], **alone, "audio_features": None}):
        got = graph(**given)
        np.testing.assert_allclose(got["logits"], want.logits, atol=CLOSE)
        assert (got["modality_weights"][:, 0] == 0).all() and (got["token_budgets_1_vision"] == 0).all()
    unmasked = graph(**{name: value for name, value in batch.items() if "mask" not in name})
    np.testing.assert_allclose(unmasked["logits"], full.logits, atol=CLOSE)


@needs_onnx
def test_wrong_input_is_refused(feature_file, tmp_path):
    graph = ONNXModel(feature_file)
    with pytest.raises(ValueError, match=r"does not take \['labels'\]"):
        graph(**example_batch(graph.inputs), labels=torch.zeros(2))
    with pytest.raises(ValueError, match="no input"):
        graph()
    import onnx

    bare = onnx.load(feature_file)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="not written by clcr_hf"):
        ONNXModel(tmp_path / "bare.onnx")


@needs_onnx
def test_the_file_names_nothing_of_the_machine_it_was_made_on(feature_file):
    content = feature_file.read_bytes()
    assert b"modeling_clcr" not in content and b"/clcr_hf" not in content


@needs_onnx
def test_eight_bit_weights(feature_model, feature_file, tmp_path):
    """Smaller, close, and still whole about who is missing and how many tokens a budget lets across."""
    path = quantise(feature_file, tmp_path / "int8.onnx")
    assert path.stat().st_size < feature_file.stat().st_size
    graph = ONNXModel(path)
    batch = batches(feature_model, [{}, {}, {}])[-1]
    assert 0 < largest_difference(feature_model, graph, batch) < 0.1
    got = graph(**batch)
    assert (got["modality_weights"][batch["audio_attention_mask"].sum(1) == 0, 1] == 0).all()
    allowed = 1e-4 + np.maximum(0.72 * batch["vision_attention_mask"].sum(1).numpy(), 1)
    assert (got["token_budgets_2_vision"].sum(1) <= allowed).all()


def test_program_of_one_modality_has_no_factorisation(tmp_path):
    torch.manual_seed(3)
    model = moved(CLCRForSequenceClassification(small_config(vision_config=None)))
    program = export_program(model)
    called = {str(node.target) for node in program.graph.nodes}
    called = {name.replace("sqrt", "") for name in called}  # which has a "qr" in it too
    assert not any("qr" in name or "searchsorted" in name for name in called)
    for batch in batches(model, [{"audio": 3}, {"audio": 30}]):
        assert largest_difference(model, program.module(), batch) < CLOSE


@pytest.mark.parametrize("num_segments", [3, None])
def test_program_of_the_head_by_segments(num_segments):
    torch.manual_seed(4)
    model = moved(CLCRForTokenClassification(small_config(num_labels=4, num_segments=num_segments)))
    module = export_program(model).module()
    for steps in (5, 16):
        (batch,) = batches(model, [{"vision": steps, "audio": steps if num_segments is None else 8}])
        assert largest_difference(model, module, batch) < CLOSE


def test_program_of_some_modalities_and_without_a_head():
    torch.manual_seed(5)
    model = moved(CLCRModel(small_config()))
    module = export_program(model, modalities=["audio"]).module()
    (batch,) = batches(model, [{"audio": 21}], modalities=["audio"])
    assert set(batch) == {"audio_features", "audio_attention_mask"}
    assert largest_difference(model, module, batch) < CLOSE
    assert "pooler_output" in module(**batch)


def test_program_of_the_fusion_behind_backbones(raw_model):
    """Taps of different widths come in one tensor. The model given stays as it is, backbones and all."""
    before = {name: value.clone() for name, value in raw_model.state_dict().items()}
    raw_model.train()
    program = export_program(raw_model, part="fusion")
    assert raw_model.training
    raw_model.eval()
    assert all(torch.equal(value, before[name]) for name, value in raw_model.state_dict().items())
    for batch in batches(raw_model, RAW_LENGTHS[1:], image_size=32):
        given = fusion_inputs(raw_model, batch)
        assert given["vision_features"].shape[1::2] == (2, 12) and given["audio_features"].shape[1] == 2
        assert largest_difference(raw_model, program.module(), batch, "fusion") < CLOSE


@needs_onnx
def test_command_writes_a_file_and_says_how_far_it_is_from_the_model(feature_model, tmp_path, capsys):
    feature_model.save_pretrained(tmp_path / "model")
    for arguments in (["int8", "--modalities", "audio"], ["torch"]):
        out = tmp_path / f"{arguments[0]}.file"
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(tmp_path / "model"), str(out), "--json", "--format", *arguments])
        assert stopped.value.code == 0
        said = json.loads(capsys.readouterr().out)
        assert said["bytes"] == out.stat().st_size and said["largest_difference"] < 0.1
    module = torch.export.load(tmp_path / "torch.file").module()
    for batch in batches(feature_model, FEATURE_LENGTHS[1:3]):
        assert largest_difference(feature_model, module, batch) < CLOSE
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "model"), str(tmp_path / "x"), "--format", "coreml"])
    assert "onnx, int8 or torch" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WHISPER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
WHISPER |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
SPECIAL = {name: 1 for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")}
OTHER_BACKBONES = {
    "videomae": ("vision", {**SIZES, "image_size": 32, "patch_size": 16, "num_frames": 4}, (4, 3, 32, 32)),
    "whisper": (
        "audio",
        {**WHISPER, **SPECIAL, "num_mel_bins": 8, "max_source_positions": 20, "vocab_size": 60},
        (8, 40),
    ),
    "resnet": ("audio", {**TINY_RESNET, "num_channels": 1}, ("audio_length", 40)),
}


@pytest.mark.parametrize("name", list(OTHER_BACKBONES))
def test_program_with_other_backbones(name):
    """What a backbone fixes is fixed in the graph: frames of a clip, seconds of a spectrogram."""
    modality, fields, shape = OTHER_BACKBONES[name]
    torch.manual_seed(6)
    parts: dict[str, Any] = {"text_config": None, "vision_config": None, "audio_config": None}
    parts[f"{modality}_config"] = {"backbone_config": {"model_type": name, **fields}, "source": "taps"}
    model = moved(CLCRForSequenceClassification(CLCRConfig(**parts, num_levels=2, hidden_size=16)))
    (described,) = graph_inputs(model)
    assert described.shape == shape
    module = export_program(model).module()
    for batch in batches(model, [{}, {modality: described.steps + 9}]):
        assert largest_difference(model, module, batch) < CLOSE


def test_clear_errors(feature_model):
    with pytest.raises(ValueError, match="`part` must be"):
        graph_inputs(feature_model, part="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`modalities` must be some of \['vision', 'audio'\]"):
        graph_inputs(feature_model, modalities=["text"])
