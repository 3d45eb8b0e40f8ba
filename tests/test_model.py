"""Behaviour of the model seen from outside: invariants of paper and user, ablations, saving, precision, compilation."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_utils import TINY_BERT, batch, feature_config, tiny_config
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRModel

ABLATIONS = {
    "full": {},
    "without_hierarchy": {"use_hierarchy": False},
    "without_intraced": {"use_intraced": False},
    "without_intercad": {"use_intercad": False},
    "full_mix": {"level_mixing": "full_mix"},
    "without_intra": {"lambda_intra": 0.0},
    "without_inter": {"lambda_inter": 0.0},
    "without_regularisers": {"lambda_intra": 0.0, "lambda_inter": 0.0},
    "dense_budget": {"dense_budget": True},
    "without_private": {"use_private_path": False},
    "gated_pool": {"budget_gates_pool": True},
    "standardised_scores": {"token_scores": "standardised"},
    "agreement": {"evidence": "agreement"},
    "agreement_dense": {"evidence": "agreement", "dense_budget": True},
    "agreement_and_own_evidence": {"evidence": "agreement", "unimodal_evidence": True},
    "aligned_norm": {"alignment_coef": 0.1},
    "own_evidence_alone": {"use_joint_path": False},
    "two_levels": {"num_levels": 2},
    "five_levels": {"num_levels": 5},
}


def make(config: CLCRConfig, model_class=CLCRForSequenceClassification, seed: int = 0):
    torch.manual_seed(seed)
    return model_class(config).eval()


# -- shapes and weights ----------------------------------------------------------------------------------------------


def test_output_shapes_and_ranges():
    model, inputs = make(tiny_config()), batch()
    out = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert out.logits.shape == (6, 1) and out.pooler_output.shape == (6, 64)
    assert out.level_weights.shape == (6, 3) and out.modality_weights.shape == (6, 3)
    torch.testing.assert_close(out.level_weights.sum(-1), torch.ones(6))
    torch.testing.assert_close(out.modality_weights.sum(-1), torch.ones(6))
    assert ((out.private_gates > 0) & (out.private_gates < 1)).all()
    assert len(out.hidden_states) == 3 and out.hidden_states[0].shape == (6, 6 + 9 + 12, 32)
    assert len(out.attentions) == 3 and out.attentions[0].shape == (6, 4, 27, 27)
    assert len(out.token_budgets) == 3
    assert {name: tuple(part.shape) for name, part in out.token_budgets[0].items()} == {
        "text": (6, 6),
        "vision": (6, 9),
        "audio": (6, 12),
    }
    as_tuple = model(**inputs, return_dict=False)
    torch.testing.assert_close(as_tuple[0], out.loss)
    torch.testing.assert_close(as_tuple[1], out.logits)


def test_attention_never_looks_at_its_own_modality_or_at_padding():
    model, inputs = make(tiny_config()), batch()
    weights = model(**inputs, output_attentions=True).attentions[1]
    own = torch.block_diag(torch.ones(6, 6), torch.ones(9, 9), torch.ones(12, 12)).bool()
    mask = torch.cat(
        [inputs["attention_mask"], inputs["vision_attention_mask"], inputs["audio_attention_mask"]], dim=1
    ).bool()
    assert weights[:, :, own].abs().max() == 0
    assert weights.masked_select(~mask[:, None, None]).abs().max() == 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, 4, 27))


def test_sdpa_equals_eager():
    model, inputs = make(tiny_config()), batch()
    fast = model(**inputs)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(fast.logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_every_user_named_modality_takes_part():
    config = feature_config(extra_configs={"gaze": {"feature_size": 4}})
    model, inputs = make(config), batch(text=False)
    gaze = torch.randn(6, 5, 4)
    with_gaze = model(**inputs, gaze_features=gaze, gaze_attention_mask=torch.ones(6, 5))
    assert with_gaze.modality_weights.shape == (6, 3) and (with_gaze.modality_weights[:, 2] > 0).all()
    assert (with_gaze.logits - model(**inputs).logits).abs().max() > 1e-4


# -- invariants ------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.sampled_from([0.0, 7.0, math.nan, math.inf]), st.sampled_from(["full", "gated_pool"]))
def test_longer_padding_changes_nothing(extra, filler, variant):
    model, inputs = make(tiny_config(**ABLATIONS[variant])), batch()
    longer = dict(inputs)
    for name, width in (("vision", 7), ("audio", 5)):
        longer[f"{name}_features"] = torch.cat(
            [inputs[f"{name}_features"], torch.full((6, extra, width), filler)], dim=1
        )
    longer["input_ids"] = torch.cat([inputs["input_ids"], torch.full((6, extra), 9)], dim=1)
    for key in ("attention_mask", "vision_attention_mask", "audio_attention_mask"):
        longer[key] = torch.cat([inputs[key], torch.zeros(6, extra, dtype=torch.long)], dim=1)
    before, after = model(**inputs), model(**longer)
    torch.testing.assert_close(before.logits, after.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(before.loss, after.loss, atol=1e-4, rtol=1e-4)


def test_padding_is_zero_after_every_stage():
    model, inputs = make(feature_config()), batch(text=False)
    out = model(**inputs, output_hidden_states=True)
    mask = torch.cat([inputs["vision_attention_mask"], inputs["audio_attention_mask"]], dim=1).bool()
    for level, budgets in zip(out.hidden_states, out.token_budgets, strict=True):
        assert level[~mask].abs().max() == 0
        assert torch.cat([budgets["vision"], budgets["audio"]], dim=1)[~mask].abs().max() == 0
    assert model.clcr(**{k: v for k, v in inputs.items() if k != "labels"}).last_hidden_state[~mask].abs().max() == 0


def test_permutation_of_the_batch():
    model, inputs = make(tiny_config()), batch()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = model(**{key: value[order] for key, value in inputs.items()})
    out = model(**inputs)
    torch.testing.assert_close(shuffled.logits, out.logits[order], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(shuffled.loss, out.loss, atol=1e-5, rtol=1e-5)


def test_a_sample_does_not_depend_on_its_neighbours():
    model, inputs = make(tiny_config()), batch()
    alone = model(**{key: value[2:3] for key, value in inputs.items() if key != "labels"})
    torch.testing.assert_close(alone.logits, model(**inputs).logits[2:3], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("variant", ["full", "without_intraced", "without_intercad", "full_mix", "without_private"])
@pytest.mark.parametrize("name", ["text", "vision", "audio"])
def test_missing_modality_equals_its_absence(variant, name):
    model, inputs = make(tiny_config(**ABLATIONS[variant])), batch()
    mask_key = "attention_mask" if name == "text" else f"{name}_attention_mask"
    feature_key = "input_ids" if name == "text" else f"{name}_features"
    left_out = model(**{key: value for key, value in inputs.items() if key not in (mask_key, feature_key)})
    masked = model(**{**inputs, mask_key: torch.zeros_like(inputs[mask_key])})
    torch.testing.assert_close(left_out.logits, masked.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(left_out.loss, masked.loss, atol=1e-4, rtol=1e-4)
    index = model.config.modalities.index(name)
    assert masked.modality_weights[:, index].abs().max() == 0
    assert masked.private_gates[:, index].abs().max() == 0


def test_missing_in_one_sample_alone():
    model, inputs = make(tiny_config()), batch()
    mask = inputs["audio_attention_mask"].clone()
    mask[1] = 0
    out = model(**{**inputs, "audio_attention_mask": mask})
    full = model(**inputs)
    torch.testing.assert_close(out.logits[2:], full.logits[2:], atol=1e-6, rtol=1e-5)
    assert (out.logits[1] - full.logits[1]).abs() > 1e-5
    assert out.modality_weights[1, 2] == 0 and out.modality_weights[0, 2] > 0


def test_nobody_present_gives_finite_output():
    model, inputs = make(feature_config()), batch(text=False)
    empty = {key: torch.zeros_like(value) if "mask" in key else value for key, value in inputs.items()}
    out = model(**empty)
    assert out.logits.isfinite().all() and out.loss.isfinite()
    assert out.modality_weights.abs().max() == 0


def test_single_modality_has_nobody_to_ask():
    model, inputs = make(tiny_config(vision_config=None, audio_config=None)), batch()
    out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=inputs["labels"])
    out.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert out.token_budgets[0]["text"].abs().max() == 0


def test_exchange_is_zero_when_others_are_missing():
    model, inputs = make(feature_config(), CLCRModel), batch(text=False)
    del inputs["labels"]
    inputs["audio_attention_mask"][:] = 0
    out = model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(out.last_hidden_state, out.hidden_states[-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("token_scores", ["sigmoid", "standardised"])
def test_budgets_stay_within_bounds(token_scores):
    model, inputs = make(tiny_config(budget_ratio=0.4, token_scores=token_scores)).train(), batch()
    out = model(**inputs)
    masks = {"text": "attention_mask", "vision": "vision_attention_mask", "audio": "audio_attention_mask"}
    for level in out.token_budgets:
        for name, activations in level.items():
            assert (activations >= 0).all() and (activations <= 1).all()
            allowed = (0.4 * inputs[masks[name]].sum(-1)).clamp(min=1.0)
            assert (activations.sum(-1) <= allowed + 1e-4).all()
    assert (out.budget_statistics["slack"] == 0).all()  # starts where the budget binds
    assert ((out.budget_statistics["participation"] > 0) & (out.budget_statistics["participation"] <= 1)).all()


def test_standardised_scores_leave_the_weakest_tokens_out():
    config = tiny_config(token_scores="standardised", vision_config={"feature_size": 12})
    model = make(config).train()
    torch.manual_seed(0)
    inputs = {"vision_features": torch.randn(4, 40, 12), "audio_features": torch.randn(4, 30, 5)}
    out = model(**inputs)
    assert (out.budget_statistics["participation"] < 0.9).all() and (out.budget_statistics["slack"] == 0).all()
    for name in ("vision", "audio"):
        for activations in (level[name] for level in out.token_budgets):
            assert ((activations == 0).sum(-1) > 0).all() and (activations > 0.9).any(-1).all()
    # A lone token has no spread to be measured by, and takes part.
    alone = model(vision_features=torch.randn(2, 1, 12), audio_features=torch.randn(2, 30, 5))
    assert (alone.token_budgets[0]["vision"] == 1).all()


# -- leakage ---------------------------------------------------------------------------------------------------------


def test_private_components_never_cross():
    """The derivative of what modality m receives with respect to another's private component is exactly zero."""
    model, inputs = (
        make(feature_config().__class__(**{**feature_config().to_dict(), "num_labels": 1})),
        batch(text=False),
    )
    exchange = model.clcr.exchange.double()
    encoded = model.clcr.hierarchy(
        {name: {"features": inputs[f"{name}_features"]} for name in ("vision", "audio")},
        {name: inputs[f"{name}_attention_mask"].bool() for name in ("vision", "audio")},
    )
    tokens = encoded.tokens.detach().double()
    # Axis-parallel bases: coordinates 0..15 are shared, 16..31 private, with no rounding between them.
    eye = torch.eye(32, dtype=torch.float64)
    with torch.no_grad():
        exchange.raw_shared.copy_(eye[:, :16].expand_as(exchange.raw_shared))
        exchange.raw_private.copy_(eye[:, 16:24].expand_as(exchange.raw_private))
    tokens.requires_grad_()
    out = exchange(tokens, encoded.membership, encoded.lengths)
    vision = torch.arange(tokens.shape[2]) < encoded.lengths[0]
    (gradient,) = torch.autograd.grad(out.shared[:, :, vision].square().sum(), tokens)
    crossed = gradient[:, :, ~vision]
    assert crossed[..., 16:].abs().max() == 0
    assert crossed[..., :16].abs().max() > 0
    (gradient,) = torch.autograd.grad(
        exchange(tokens, encoded.membership, encoded.lengths).shared[:, :, vision].sum(), tokens
    )
    assert gradient[:, :, vision][..., 16:].abs().max() == 0


def test_private_perturbation_moves_nothing_that_is_exchanged():
    model, inputs = make(feature_config()), batch(text=False)
    exchange = model.clcr.exchange
    encoded = model.clcr.hierarchy(
        {name: {"features": inputs[f"{name}_features"]} for name in ("vision", "audio")},
        {name: inputs[f"{name}_attention_mask"].bool() for name in ("vision", "audio")},
    )
    _, private = exchange.bases()
    audio = (torch.arange(21) >= encoded.lengths[0])[:, None]
    push = torch.randn(6, 3, 21, 8) @ private[:, 1].mT
    before = exchange(encoded.tokens, encoded.membership, encoded.lengths)
    after = exchange(encoded.tokens + push * audio, encoded.membership, encoded.lengths)
    torch.testing.assert_close(before.shared, after.shared, atol=2e-5, rtol=1e-5)


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ABLATIONS)
def test_every_parameter_gets_a_gradient_and_losses_are_sound(variant):
    model, inputs = make(tiny_config(**ABLATIONS[variant])).train(), batch(17)
    out = model(**inputs)
    out.loss.backward()
    silent = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(value.isfinite() and value >= 0 for value in out.loss_components.values())
    weighted = out.loss_components["task"] + sum(
        weight * out.loss_components[name]
        for name, weight in (
            ("intra", model.config.lambda_intra),
            ("inter", model.config.lambda_inter),
            ("unimodal", model.config.unimodal_loss_weight),
            ("alignment", model.config.alignment_coef),
        )
        if name in out.loss_components
    )
    torch.testing.assert_close(out.loss, weighted)


def test_a_small_model_learns_a_cross_modal_rule():
    """The label is the product of a sign in one modality and a sign in the other: neither suffices alone."""
    torch.manual_seed(0)
    raw = {"feature_norm": "none"}  # a layer norm would take the sign, which all columns share, away
    config = feature_config(
        vision_config={"feature_size": 7, **raw}, audio_config={"feature_size": 5, **raw}, num_labels=2, dropout=0.0
    )
    model = CLCRForSequenceClassification(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def sample(size: int):
        signs = torch.randint(0, 2, (2, size), generator=generator) * 2.0 - 1.0
        vision = torch.randn(size, 5, 7, generator=generator) * 0.3 + signs[0][:, None, None]
        audio = torch.randn(size, 4, 5, generator=generator) * 0.3 + signs[1][:, None, None]
        return {"vision_features": vision, "audio_features": audio, "labels": (signs[0] * signs[1] > 0).long()}

    for _ in range(80):
        loss = model(**sample(64)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    test = sample(256)
    accuracy = (model.eval()(**test).logits.argmax(-1) == test["labels"]).float().mean()
    assert accuracy > 0.95


def test_gradient_checkpointing_changes_nothing():
    inputs = batch()
    gradients = []
    for checkpointing in (False, True):
        model = make(tiny_config(dropout=0.0)).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**inputs).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_modality_dropout_drops_in_training_alone_and_never_everything():
    model, inputs = make(feature_config(modality_dropout=0.9)), batch(64, text=False)
    present = model.clcr(**{k: v for k, v in inputs.items() if k != "labels"}).present
    assert present.all()
    model.train()
    present = model.clcr(**{k: v for k, v in inputs.items() if k != "labels"}).present
    assert present.any(-1).all() and not present.all()


def test_frozen_backbone_stays_put_and_gets_no_gradient():
    config = tiny_config(text_config={"backbone_config": dict(TINY_BERT), "source": "taps", "freeze_backbone": True})
    model = make(config).train()
    model(**batch()).loss.backward()
    backbone = model.clcr.hierarchy.encoders["text"].reader.backbone
    assert not backbone.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.parameters())
    assert model.clcr.hierarchy.encoders["text"].projections[0].weight.grad.any()


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"num_labels": 1}, torch.randn(6)),
        ({"num_labels": 1}, torch.randn(6, 1)),
        ({"num_labels": 1, "regression_loss": "mse"}, torch.randn(6)),
        ({"num_labels": 2, "problem_type": "regression"}, torch.randn(6, 2)),
        ({"num_labels": 4}, torch.tensor([0, 1, 2, 3, 1, 0])),
        ({"num_labels": 4, "label_smoothing": 0.1}, torch.tensor([0, 1, 2, 3, 1, 0])),
        ({"num_labels": 5, "problem_type": "multi_label_classification"}, torch.randint(0, 2, (6, 5)).float()),
    ],
)
def test_task_loss_equals_torch(fields, labels):
    model = make(feature_config(lambda_intra=0.0, lambda_inter=0.0, unimodal_loss_weight=0.0, **fields))
    out = model(**{**batch(text=False), "labels": labels})
    logits = out.logits
    if fields["num_labels"] == 4:
        smoothing = fields.get("label_smoothing", 0.0)
        expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    elif fields["num_labels"] == 5:
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    else:
        error = logits - labels.reshape(logits.shape)
        expected = error.square().mean() if fields.get("regression_loss") == "mse" else error.abs().mean()
    torch.testing.assert_close(out.loss, expected)


CLASSES = torch.tensor([0, 1, 2, 3, 1, 0])


@pytest.mark.parametrize(
    "fields", [{}, {"label_smoothing": 0.1}, {"class_weights": [1, 2, 0.5, 3]}, {"focal_gamma": 2}]
)
def test_probabilities_as_labels(fields):
    """Where each is one class the loss is that of the class; a mixture's is that of its classes, mixed (mixup)."""
    fields = {**fields, "num_labels": 4, "problem_type": "single_label_classification", "dropout": 0.0}
    model = make(feature_config(lambda_intra=0.0, lambda_inter=0.0, **fields)).train()

    def loss(labels):
        return model(**{**batch(text=False), "labels": labels}).loss

    certain = torch.nn.functional.one_hot(CLASSES, 4).float()
    torch.testing.assert_close(loss(certain), loss(CLASSES))
    if not fields.keys() & {"class_weights", "focal_gamma"}:
        other = CLASSES.flip(0)
        mixed = 0.7 * certain + 0.3 * torch.nn.functional.one_hot(other, 4)
        torch.testing.assert_close(loss(mixed), 0.7 * loss(CLASSES) + 0.3 * loss(other))


def test_weighted_and_focal_losses_are_those_of_their_formulas():
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    quiet = {"lambda_intra": 0.0, "lambda_inter": 0.0, "unimodal_loss_weight": 0.0}
    model = make(feature_config(num_labels=4, class_weights=weights.tolist(), **quiet))
    out = model(**{**batch(text=False), "labels": CLASSES})
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(out.logits, CLASSES, weights))

    model.config.class_weights, model.config.focal_gamma = None, 2.0
    out = model(**{**batch(text=False), "labels": CLASSES})
    truth = out.logits.softmax(-1).gather(-1, CLASSES[:, None]).squeeze(-1)
    torch.testing.assert_close(out.loss, (-truth.log() * (1 - truth) ** 2).mean())

    several = {"num_labels": 5, "problem_type": "multi_label_classification", "focal_gamma": 2.0}
    labels = torch.randint(0, 2, (6, 5)).float()
    out = make(feature_config(**several, **quiet))(**{**batch(text=False), "labels": labels})
    truth = torch.where(labels == 1, out.logits.sigmoid(), 1 - out.logits.sigmoid())
    torch.testing.assert_close(out.loss, (-truth.log() * (1 - truth) ** 2).mean())


def test_feature_statistics_travel_with_the_weights(tmp_path):
    standardised = {"feature_size": 7, "feature_norm": "standardise"}
    model, inputs = make(feature_config(vision_config=standardised)), batch(text=False)
    plain = model(**inputs).logits
    mean, std = torch.arange(7.0), torch.tensor([1.0, 2, 3, 4, 5, 6, 0.0])
    model.set_feature_statistics("vision", mean, std)
    model.save_pretrained(tmp_path)
    loaded = CLCRForSequenceClassification.from_pretrained(tmp_path)
    shifted = {**inputs, "vision_features": inputs["vision_features"] * std.clamp(min=1.0) + mean}
    torch.testing.assert_close(loaded(**shifted).logits, plain, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="audio"):
        model.set_feature_statistics("audio", mean, std)
    with pytest.raises(ValueError, match="finite"):
        model.set_feature_statistics("vision", mean * math.nan, std)


# -- ablations -------------------------------------------------------------------------------------------------------


def test_ablation_switches_do_what_they_say():
    inputs = batch()
    assert make(tiny_config(use_hierarchy=False))(**inputs).level_weights.shape == (6, 1)

    dense = make(tiny_config(dense_budget=True))(**inputs)
    assert torch.equal(dense.token_budgets[0]["audio"], inputs["audio_attention_mask"].float())

    plain = make(tiny_config(use_intercad=False))(**inputs)
    torch.testing.assert_close(plain.level_weights, torch.full((6, 3), 1 / 3))
    torch.testing.assert_close(plain.modality_weights, torch.full((6, 3), 1 / 3))

    unfactorised = make(tiny_config(use_intraced=False))
    assert not [name for name, _ in unfactorised.named_parameters() if "raw_" in name]
    assert unfactorised(**inputs).pooler_output.shape == (6, 32)

    no_private = make(tiny_config(use_private_path=False))(**inputs)
    assert no_private.private_gates.abs().max() == 0 and no_private.pooler_output.shape == (6, 32)

    quiet = make(tiny_config(lambda_intra=0.0, lambda_inter=0.0, unimodal_loss_weight=0.0)).train()(**inputs)
    assert quiet.loss == quiet.loss_components["task"]


def test_full_mix_pairs_other_levels():
    torch.manual_seed(0)
    aligned = CLCRForSequenceClassification(tiny_config()).eval()
    mixed = CLCRForSequenceClassification(tiny_config(level_mixing="full_mix")).eval()
    mixed.load_state_dict(aligned.state_dict())
    inputs = batch()
    one = aligned(**inputs, output_hidden_states=True).hidden_states
    other = mixed(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(other[0][:, :6], one[0][:, :6])  # text keeps its place
    torch.testing.assert_close(other[1][:, 6:15], one[0][:, 6:15])  # vision moves by one level
    torch.testing.assert_close(other[2][:, 15:], one[0][:, 15:])  # audio by two


def test_budget_scale_zero_leaves_one_token_a_modality():
    out = make(tiny_config(budget_scale=0.0))(**batch())
    for level in out.token_budgets:
        for activations in level.values():
            assert (activations.sum(-1) <= 1 + 1e-5).all()


# -- segments --------------------------------------------------------------------------------------------------------


def test_a_label_a_segment():
    config = feature_config(num_segments=10, num_labels=4)
    model, inputs = make(config, CLCRForTokenClassification), batch(text=False)
    labels = torch.randint(0, 4, (6, 10))
    labels[0, 7:] = -100
    out = model(**{**inputs, "labels": labels})
    assert out.logits.shape == (6, 10, 4) and out.level_weights.shape == (6, 10, 3)
    assert out.modality_weights.shape == (6, 10, 2) and out.loss.isfinite()
    nothing = model(**{**inputs, "labels": torch.full((6, 10), -100)})
    assert nothing.loss_components["task"] == 0


def test_one_segment_equals_the_clip():
    clip = make(feature_config(num_labels=3))
    segments = CLCRForTokenClassification(feature_config(num_labels=3, num_segments=1)).eval()
    segments.load_state_dict(clip.state_dict())
    inputs = batch(text=False)
    del inputs["labels"]
    torch.testing.assert_close(segments(**inputs).logits[:, 0], clip(**inputs).logits)


def test_a_segment_a_step_and_padded_steps_do_not_count():
    config = CLCRConfig(
        vision_config={"feature_size": 7}, audio_config={"feature_size": 5}, hidden_size=32, num_labels=2
    )
    model = make(config, CLCRForTokenClassification)
    vision, audio = torch.randn(3, 8, 7), torch.randn(3, 8, 5)
    mask = (torch.arange(8) < torch.tensor([[8], [5], [2]])).long()
    masks = {"vision_attention_mask": mask, "audio_attention_mask": mask}
    labels = torch.where(mask.bool(), torch.randint(0, 2, (3, 8)), -100)
    out = model(vision_features=vision, audio_features=audio, labels=labels, **masks)
    assert out.logits.shape == (3, 8, 2)
    short = model(vision_features=vision[1:2, :5], audio_features=audio[1:2, :5])
    torch.testing.assert_close(out.logits[1, :5], short.logits[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="num_segments"):
        model(vision_features=vision, audio_features=audio[:, :6])


# -- saving, precision, compilation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ABLATIONS)
def test_reload_is_exact_to_the_bit(variant, tmp_path):
    model, inputs = make(tiny_config(**ABLATIONS[variant])), batch()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    # The weights are equal to the bit. The answer too but for the kernels' choice by memory alignment.
    torch.testing.assert_close(model(**inputs).logits, loaded(**inputs).logits, atol=1e-6, rtol=1e-6)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_auto_classes_read_the_folder(tmp_path):
    make(tiny_config(num_labels=3)).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is CLCRModel
    token_model = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert type(token_model) is CLCRForTokenClassification and token_model.num_labels == 3


def test_bases_of_weights_that_were_not_in_the_checkpoint_are_sound(tmp_path):
    make(tiny_config(private_rank=16)).clcr.save_pretrained(tmp_path)
    model = CLCRForSequenceClassification.from_pretrained(
        tmp_path, config=tiny_config(private_rank=8), ignore_mismatched_sizes=True
    )
    shared, private = model.clcr.exchange.bases()
    torch.testing.assert_close(private.mT @ private, torch.eye(8).expand(3, 3, 8, 8), atol=1e-5, rtol=0)
    assert (shared[:, None].mT @ private).abs().max() < 1e-5


def test_copies_and_pickles():
    model, inputs = make(tiny_config()), batch()
    expected = model(**inputs).logits
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, expected)
    exchange = pickle.loads(pickle.dumps(model.clcr.exchange))
    assert torch.equal(exchange.raw_shared, model.clcr.exchange.raw_shared)


def test_folded_bases_give_the_same_answer_and_go_away_when_training():
    model, inputs = make(tiny_config()), batch()
    expected = model(**inputs)
    folded = model.fold_bases()(**inputs)
    torch.testing.assert_close(folded.logits, expected.logits, atol=1e-5, rtol=1e-5)
    model.train()
    with torch.no_grad():
        model.clcr.exchange.raw_shared.add_(torch.randn_like(model.clcr.exchange.raw_shared))
    model.eval()
    assert (model(**inputs).logits - folded.logits).abs().max() > 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype):
    model, inputs = make(tiny_config()), batch()
    expected = model(**inputs).logits
    half = copy.deepcopy(model).to(dtype)
    out = half(**{key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()})
    assert out.logits.dtype == dtype and out.loss.isfinite()
    assert (out.logits.float() - expected).abs().max() < 0.15
    shared, _ = half.clcr.exchange.bases()
    assert shared.dtype == torch.float32


def test_bf16_autocast_trains():
    model, inputs = make(tiny_config()).train(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**inputs)
    out.loss.backward()
    assert out.loss.isfinite() and all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert out.token_budgets[0]["text"].dtype == torch.float32


def test_compiles_without_a_graph_break():
    model, inputs = make(tiny_config()), batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    out = compiled(**inputs)
    torch.testing.assert_close(out.logits, make(tiny_config())(**inputs).logits, atol=1e-5, rtol=1e-5)
    model.train()
    compiled(**inputs).loss.backward()
    assert model.clcr.exchange.raw_shared.grad.any()


def test_gradient_against_float64():
    inputs = batch(text=False)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        model = make(feature_config()).to(dtype)
        out = model(**{key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()})
        out.loss.backward()
        gradients.append([parameter.grad.double() for parameter in model.parameters()])
    for single, double in zip(*gradients, strict=True):
        torch.testing.assert_close(single, double, atol=2e-4, rtol=2e-2)


# -- raw inputs ------------------------------------------------------------------------------------------------------

IMAGE_BACKBONES = {
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 12, 16, 20],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    },
    "vit": {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    },
    "dinov2": {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 32,
        "patch_size": 8,
    },
    "clip_vision_model": {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    },
    "videomae": {
        "model_type": "videomae",
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 16,
        "num_frames": 4,
        "tubelet_size": 2,
    },
}


@pytest.mark.parametrize("source", ["taps", "tcn"])
@pytest.mark.parametrize("name", IMAGE_BACKBONES)
def test_frames_through_image_and_video_backbones(name, source):
    config = feature_config(
        vision_config={"backbone_config": IMAGE_BACKBONES[name], "source": source, "token_grid": 2}, num_labels=2
    )
    model = make(config)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    inputs = {"pixel_values": torch.randn(3, 4, 3, 32, 32), "audio_features": torch.randn(3, 6, 5)}
    out = model(**inputs, vision_attention_mask=mask, labels=torch.tensor([0, 1, 0]))
    steps = 2 if name == "videomae" else 4
    budgets = out.token_budgets[0]["vision"]
    assert budgets.shape == (3, steps * 4)
    assert (budgets[0] > 0).any() and budgets[2].abs().max() == 0 and out.modality_weights[2, 0] == 0
    out.loss.backward()
    assert model.clcr.hierarchy.encoders["vision"].projections[0].weight.grad.any()


AUDIO_BACKBONES = {
    "wav2vec2": (
        {
            "model_type": "wav2vec2",
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "conv_dim": [8, 8],
            "conv_kernel": [10, 3],
            "conv_stride": [5, 4],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            "mask_time_prob": 0.0,
        },
        (3, 800),
    ),
    "whisper": (
        {
            "model_type": "whisper",
            "d_model": 16,
            "encoder_layers": 3,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "vocab_size": 50,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        (3, 8, 40),
    ),
    "audio-spectrogram-transformer": (
        {
            "model_type": "audio-spectrogram-transformer",
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "patch_size": 8,
            "max_length": 32,
            "num_mel_bins": 16,
            "frequency_stride": 4,
            "time_stride": 4,
        },
        (3, 32, 16),
    ),
    "resnet": ({**IMAGE_BACKBONES["resnet"], "num_channels": 1}, (3, 64, 32)),
}


@pytest.mark.parametrize("name", AUDIO_BACKBONES)
def test_sound_through_audio_backbones(name):
    backbone, shape = AUDIO_BACKBONES[name]
    config = feature_config(audio_config={"backbone_config": backbone, "source": "taps"}, num_labels=2)
    model = make(config)
    steps = shape[2] if name == "whisper" else shape[1]
    mask = torch.ones(3, steps, dtype=torch.long)
    mask[1, steps // 2 :] = 0
    mask[2] = 0
    out = model(
        input_values=torch.randn(shape),
        audio_attention_mask=mask,
        vision_features=torch.randn(3, 5, 7),
        labels=torch.tensor([0, 1, 0]),
    )
    budgets = out.token_budgets[0]["audio"]
    assert (budgets[0] > 0).sum() > (budgets[1] > 0).sum() > 0 and budgets[2].abs().max() == 0
    out.loss.backward()
    assert model.clcr.hierarchy.encoders["audio"].projections[0].weight.grad.any()


def test_spectrogram_without_backbone_counts_as_features():
    model, inputs = make(feature_config()), batch(text=False)
    renamed = {("input_values" if key == "audio_features" else key): value for key, value in inputs.items()}
    assert torch.equal(model(**inputs).logits, model(**renamed).logits)


def test_features_tapped_elsewhere():
    config = feature_config(audio_config={"feature_size": 5, "source": "taps"})
    out = make(config)(audio_features=torch.randn(2, 3, 6, 5), vision_features=torch.randn(2, 4, 7))
    assert out.token_budgets[2]["audio"].shape == (2, 6)


def test_from_backbones_loads_pretrained_weights(tmp_path):
    backbone = AutoModel.from_config(AutoConfig.for_model(**TINY_BERT))
    backbone.save_pretrained(tmp_path)
    model = CLCRForSequenceClassification.from_backbones(
        {"text": str(tmp_path)}, vision_config={"feature_size": 7}, hidden_size=32, num_labels=1
    )
    found = model.clcr.hierarchy.encoders["text"].reader.backbone.state_dict()
    for name, tensor in found.items():
        assert torch.equal(tensor, backbone.state_dict()[name]), name
    with pytest.raises(ValueError, match="gaze"):
        CLCRModel.from_backbones({"gaze": "x"})


def test_resize_token_embeddings(tmp_path):
    model, inputs = make(tiny_config()), batch()
    before = model(**inputs).logits
    model.resize_token_embeddings(120)
    assert model.config.text_config.backbone_config.vocab_size == 120
    torch.testing.assert_close(model(**inputs).logits, before)
    model.save_pretrained(tmp_path)
    assert CLCRForSequenceClassification.from_pretrained(tmp_path).get_input_embeddings().num_embeddings == 120
    with pytest.raises(NotImplementedError, match="text backbone"):
        make(feature_config()).resize_token_embeddings(5)


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.clear(), "No input"),
        (lambda x: x.update(smell_features=torch.randn(6, 2, 3)), "smell"),
        (lambda x: x.update(vision_features=torch.randn(6, 9, 8)), "vision_features"),
        (lambda x: x.update(vision_features=torch.randn(6, 7)), "vision_features"),
        (lambda x: x.update(vision_attention_mask=torch.ones(6, 3)), "vision"),
        (lambda x: x.update(audio_features=torch.randn(5, 12, 5), audio_attention_mask=None), "Batch sizes"),
        (lambda x: x.update(pixel_values=torch.randn(6, 2, 3, 8, 8)), "both raw"),
        (lambda x: x.update(vision_features=None, pixel_values=torch.randn(6, 9, 3, 8, 8)), "no backbone"),
        (lambda x: x.update(text_features=torch.randn(6, 6, 32), input_ids=None), "text_features"),
        (lambda x: x.update(labels=torch.randn(5)), "labels"),
        (lambda x: x.update(flow_features=torch.randn(6, 2, 3)), "flow"),
    ],
)
def test_bad_input_is_refused(change, message):
    model, inputs = make(tiny_config()), batch()
    change(inputs)
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_taps_beyond_the_backbone_are_refused():
    with pytest.raises(ValueError, match="text_config.taps"):
        CLCRModel(tiny_config(text_config={"backbone_config": dict(TINY_BERT), "source": "taps", "taps": [1, 2, 9]}))
