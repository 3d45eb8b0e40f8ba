"""Slips in settings and inputs: what nobody knows is an error with the nearest name, and no number is impossible."""

import dataclasses
import json
import logging
import math

import pytest
import torch
from model_utils import batch, feature_config, tiny_config
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from clcr_hf import CLCRConfig, CLCRForPreTraining, CLCRForSequenceClassification, CLCRModalityConfig, CLCRModel
from clcr_hf.training.arguments import parse_args

REFUSED = (TypeError, ValueError)
MODALITY = {"feature_size": 3}


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hiden_size": 5}, ("hiden_size", "mean hidden_size")),
        ({"nm_labels": 5}, ("nm_labels", "mean num_labels")),
        ({"drop_out": 0.1}, ("drop_out", "mean dropout")),
        ({"smell": 5}, ("smell",)),
        ({"modalities": ["text"]}, ("modalities",)),
        ({"text_config": {"feature_sise": 3}}, ("text_config", "feature_sise", "mean feature_size")),
        ({"flow_config": {**MODALITY, "tcn_strides": 3}}, ("flow_config", "mean tcn_stride")),
        ({"extra_configs": {"gaze": {"feature_sise": 3}}}, ("gaze", "mean feature_size")),
    ],
)
def test_misspelt_settings_are_refused_with_the_nearest_name(fields, words):
    with pytest.raises(ValueError) as caught:
        CLCRConfig(**fields)
    said = str(caught.value)
    assert all(word in said for word in words) and "\n" not in said
    assert ("mean" in said) == any("mean" in word for word in words)


def test_a_modality_by_itself_is_as_strict():
    with pytest.raises(ValueError, match="'sorce'; did you mean source"):
        CLCRModalityConfig(feature_size=3, sorce="taps")


def test_misspelt_settings_beside_a_saved_model(tmp_path):
    feature_config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mean hidden_size"):
        CLCRConfig.from_pretrained(tmp_path, hiden_size=5)
    with pytest.raises(ValueError, match="mean feature_size"):
        CLCRConfig.from_pretrained(tmp_path, vision_config={"feature_sise": 5})
    with pytest.raises(REFUSED, match="dropout"):
        CLCRConfig.from_pretrained(tmp_path, dropout=math.nan)
    config, unused = CLCRConfig.from_pretrained(tmp_path, dropout=0.25, other=1, return_unused_kwargs=True)
    assert config.dropout == 0.25 and unused == {"other": 1}


@pytest.mark.parametrize("overrides", ["hiden_size=5", "dropout=0.2,nm_levels=2", '{"hiden_size": 5}'])
def test_misspelt_overrides_are_refused_before_any_work(overrides):
    with pytest.raises(ValueError, match=r"--config_overrides: .*; did you mean (hidden_size|num_levels)"):
        parse_args(["--dataset", "talking_faces", "--config_overrides", overrides])


def test_what_transformers_knows_is_no_slip():
    kept = {
        "name_or_path": "me/mine",
        "dtype": "float32",
        "return_dict": True,
        "output_hidden_states": True,
        "attn_implementation": "sdpa",
        "id2label": {0: "sad", 1: "glad"},
        "label2id": {"sad": 0, "glad": 1},
        "num_labels": 2,
        "problem_type": "single_label_classification",
        "architectures": ["CLCRModel"],
        "transformers_version": "5.0.0",
        "auto_map": {"AutoConfig": "configuration_clcr.CLCRConfig"},
        "custom_pipelines": {},
        "_commit_hash": "0" * 40,
        "max_length": 20,
        "pad_token_id": 0,
        "use_cache": False,
        "quantization_config": {"load_in_8bit": True},
    }
    config = CLCRConfig(**kept)
    assert config.name_or_path == "me/mine" and config.id2label == {0: "sad", 1: "glad"}
    assert CLCRConfig(torch_dtype="float16").dtype == torch.float16
    assert CLCRConfig(**config.to_dict()).to_dict() == config.to_dict()


def test_a_configuration_of_a_newer_version_loads_with_one_warning(tmp_path):
    config = feature_config(extra_configs={"gaze": {"feature_size": 3}}, num_levels=2)
    config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    content["telepathy"] = True
    content["vision_config"]["retina"] = 2
    content["extra_configs"]["gaze"]["pupil"] = 3
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    transformers_logging.add_handler(handler)
    logging.getLogger("clcr_hf").addHandler(handler)
    try:
        loaded = AutoConfig.from_pretrained(tmp_path)
    finally:
        transformers_logging.remove_handler(handler)
        logging.getLogger("clcr_hf").removeHandler(handler)
    told = [line for line in said if "telepathy" in line]
    assert len(told) == 1 and "vision_config.retina" in told[0] and "gaze.pupil" in told[0]
    assert loaded.to_diff_dict() == config.to_diff_dict()
    with pytest.raises(ValueError, match="telepathy"):  # by hand it is a slip
        feature_config(telepathy=True)


# -- numbers -----------------------------------------------------------------------------------------------------------


def _numeric(kind: type) -> list[str]:
    """Fields of a class's own that take numbers, bare or in lists, by their annotations."""
    own = [each for each in dataclasses.fields(kind) if each.name in kind.__annotations__]
    return [each.name for each in own if any(word in str(each.type) for word in ("int", "float", "list"))]


FIELDS = [
    (kind, name)
    for kind in (CLCRConfig, CLCRModalityConfig)
    for name in _numeric(kind)
    if name != "unimodal_statistics"
]


def _build(kind, **fields):
    return kind(**({} if kind is CLCRConfig else MODALITY) | fields)


def test_the_numeric_fields_are_all_looked_at():
    names = {name for _, name in FIELDS}
    assert {"hidden_size", "dropout", "label_range", "taps", "tcn_dilations", "position_scale"} <= names
    assert len(FIELDS) > 40


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_no_field_takes_a_number_that_is_not_finite(kind, name):
    for value in (math.nan, math.inf, -math.inf, 1e39, -1e39, 10**400):
        for given in (value, [value, value], [[value, value]], [0.5, value]):
            with pytest.raises(REFUSED, match=name):
                _build(kind, **{name: given})


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, each.name) for kind in (CLCRConfig, CLCRModalityConfig) for each in dataclasses.fields(kind)
     if each.name in kind.__annotations__ and each.type in (int, int | None)],
)  # fmt: skip
def test_counts_that_could_never_be_built_are_refused_at_once(kind, name):
    for value in (-1, 10**7, 2**63, 10**30, True, 2.5):
        with pytest.raises(REFUSED, match=name):
            _build(kind, **{name: value})


def test_a_million_levels_and_the_like():
    for fields in ({"num_levels": 10**6}, {"hidden_size": 10**6}, {"num_segments": 10**6}, {"num_labels": 10**9}):
        with pytest.raises(REFUSED, match=next(iter(fields))):
            CLCRConfig(**fields)
    for fields in ({"token_grid": 10**6}, {"tcn_kernel_size": 10**6 + 1}, {"tcn_dilations": [[1], [10**6], [4]]}):
        with pytest.raises(REFUSED, match=next(iter(fields))):
            CLCRModalityConfig(**MODALITY, **fields)
    with pytest.raises(REFUSED, match="tcn_dilations"):  # which by default grow as powers of four
        feature_config(num_levels=40)
    assert feature_config(num_levels=8).num_levels == 8


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_labels": 0}, "num_labels"),
        ({"num_labels": -1}, "num_labels"),
        ({"num_labels": 2.5}, "num_labels"),
        ({"num_labels": math.nan}, "num_labels"),
        ({"num_labels": "3"}, "num_labels"),
        ({"num_labels": True}, "num_labels"),
        ({"num_labels": 3, "id2label": {0: "sad", 1: "glad"}}, "num_labels"),
        ({"id2label": {}}, "id2label"),
        ({"id2label": {0: "sad", 5: "glad"}}, "id2label"),
        ({"problem_type": "classification"}, "problem_type"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "problem_type"),
        ({"class_weights": ["heavy", "light"]}, "class_weights"),
        ({"label_range": [[0, 1], [0, 1], [0, 1]]}, "label_range"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps"),
    ],
)
def test_labels_and_the_like_that_cannot_be(fields, named):
    with pytest.raises(REFUSED, match=named):
        CLCRConfig(**fields)


def test_labels_cannot_be_taken_away_later():
    config = feature_config()
    with pytest.raises(ValueError, match="num_labels"):
        config.num_labels = 0
    with pytest.raises(REFUSED, match="problem_type"):
        config.problem_type = "classification"
    config.num_labels = 4
    assert config.num_labels == 4


# -- inputs of a model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [CLCRModel, CLCRForSequenceClassification, CLCRForPreTraining])
def test_misspelt_inputs_are_refused_with_the_nearest_name(head):
    model, given = head(tiny_config(extra_configs={"gaze": {"feature_size": 3}})).eval(), batch()
    given.pop("labels")
    gaze = torch.randn(6, 4, 3)
    model(**given, gaze_features=gaze, gaze_attention_mask=torch.ones(6, 4))
    slips = {
        "text_fetures": "text_features",
        "gaze_feature": "gaze_features",
        "gaze_atention_mask": "gaze_attention_mask",
    }
    for slip, meant in slips.items():
        with pytest.raises(ValueError, match=f"'{slip}'.*did you mean {meant}") as caught:
            model(**given, **{slip: gaze})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "without"),
    [
        ("attention_mask", "input_ids"),
        ("vision_attention_mask", "vision_features"),
        ("audio_attention_mask", "audio_features"),
        ("flow_attention_mask", "flow_features"),
        ("gaze_attention_mask", "gaze_features"),
        ("text_attention_mask", "text_features"),
    ],
)
def test_a_mask_without_its_input_is_refused(mask, without):
    model, given = CLCRModel(tiny_config(extra_configs={"gaze": {"feature_size": 3}})).eval(), batch()
    given = {name: value for name, value in given.items() if name not in ("labels", mask, without)}
    with pytest.raises(
        ValueError, match=f"{'text' if mask == 'attention_mask' else mask.split('_')[0]}.*without its input"
    ):
        model(**given, **{mask: torch.ones(6, 6)})
    model(**given, **{mask: None})
