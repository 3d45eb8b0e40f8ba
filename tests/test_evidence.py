"""What makes the fusion pay moves as it should: private subspaces, own evidence, agreement, alignment, folding."""

import copy
import logging

import pytest
import torch
from model_utils import batch, feature_config, tiny_config

from clcr_hf import CLCRConfig, CLCRForPreTraining, CLCRForSequenceClassification, CLCRForTokenClassification
from clcr_hf.alignment import alignment_loss


def make(config, model_class=CLCRForSequenceClassification, seed=0):
    torch.manual_seed(seed)
    return model_class(config).eval()


# -- private subspaces -------------------------------------------------------------------------------------------------


def test_private_subspaces_of_two_modalities_are_two():
    model = make(feature_config())
    _, private = model.clcr.exchange.bases()
    projectors = private @ private.mT  # (L, M, d, d)
    gap = (projectors[:, 0] - projectors[:, 1]).flatten(1).norm(dim=-1)
    assert (gap > 1).all()
    full = make(feature_config(private_rank=16))
    _, private = full.clcr.exchange.bases()
    projectors = private @ private.mT
    torch.testing.assert_close(projectors[:, 0], projectors[:, 1], atol=1e-5, rtol=0)


def test_private_bases_learn_as_the_shared_one_does():
    sizes = {}
    for rank in (8, 16):
        model, inputs = make(feature_config(private_rank=rank)).train(), batch(32, text=False)
        model(**inputs).loss.backward()
        exchange = model.clcr.exchange
        sizes[rank] = (exchange.raw_shared.grad.norm() / exchange.raw_private.grad.norm()).item()
    assert sizes[8] < 100 < sizes[16]


def test_all_of_the_width_as_ranks_warns(caplog, tmp_path):
    log = logging.getLogger("transformers")
    log.propagate = True
    try:
        CLCRConfig(shared_rank=64, private_rank=64).save_pretrained(tmp_path)
        assert "Lower private_rank" in caplog.text
        caplog.clear()
        CLCRConfig(), CLCRConfig(shared_rank=64, private_rank=64, vision_config={"feature_size": 3})
        CLCRConfig.from_pretrained(tmp_path)
        assert "Lower private_rank" not in caplog.text
    finally:
        log.propagate = False


# -- a modality's own evidence -----------------------------------------------------------------------------------------


@pytest.mark.starts_at_zero
def test_own_evidence_says_nothing_before_it_has_learned():
    out = make(tiny_config())(**batch())
    assert (out.modality_logits == 0).all() and out.joint_logits.std() > 0
    assert make(tiny_config(evidence="agreement"))(**batch()).modality_logits is None


@pytest.mark.parametrize("fields", [{}, {"label_mean": 3.0, "label_std": 2.5}, {"use_joint_path": False}])
def test_logits_are_the_sum_of_their_parts(fields):
    model, inputs = make(tiny_config(**fields)), batch()
    mask = inputs["audio_attention_mask"].clone()
    mask[1] = 0
    out = model(**{**inputs, "audio_attention_mask": mask})
    assert out.modality_logits.shape == (6, 3, 1)
    total = model.logit_bias() + out.joint_logits + out.modality_logits.sum(dim=1)
    torch.testing.assert_close(out.logits, total, atol=1e-5, rtol=1e-5)
    assert out.modality_logits[1, 2].abs().max() == 0 and out.modality_logits[0, 2].abs().max() > 0
    assert (out.joint_logits == 0).all() == (not model.config.use_joint_path)


@pytest.mark.parametrize("segments", [4, None])
def test_logits_of_segments_are_the_sum_of_their_parts(segments):
    config = feature_config(num_labels=3, num_segments=segments)
    model, inputs = make(config, CLCRForTokenClassification), batch(text=False)
    inputs = {"vision_features": inputs["vision_features"], "audio_features": inputs["audio_features"][:, :9]}
    out = model(**inputs)
    assert out.modality_logits.shape == (6, segments or 9, 2, 3)
    total = model.logit_bias() + out.joint_logits + out.modality_logits.sum(dim=-2)
    torch.testing.assert_close(out.logits, total, atol=1e-5, rtol=1e-5)


def test_own_evidence_reads_mean_spread_and_maximum_of_real_tokens():
    model, inputs = make(feature_config()), batch(text=False)
    del inputs["labels"]
    out = model.clcr(**inputs, output_hidden_states=True)
    length = int(inputs["vision_attention_mask"][2].sum())
    tokens = torch.stack(out.hidden_states)[:, 2, :length]  # (L, T, d)
    expected = torch.stack((tokens.mean(1), tokens.std(1, correction=0), tokens.amax(1)), dim=1).flatten()
    torch.testing.assert_close(out.modality_statistics[2, 0], expected, atol=3e-3, rtol=1e-3)


def test_own_evidence_alone_has_no_fusion():
    model, inputs = make(tiny_config(use_joint_path=False)), batch()
    out = model(**inputs)
    assert out.level_weights is None and out.token_budgets is None
    assert not [name for name, _ in model.named_parameters() if "exchange" in name or "aggregation" in name]
    with pytest.raises(ValueError, match="leaves no answer"):
        tiny_config(use_joint_path=False, unimodal_evidence=False)


def test_each_part_has_its_share_and_a_loss_of_its_own():
    model, inputs = make(feature_config(num_labels=3, dropout=0.0, lambda_intra=0, lambda_inter=0)), batch(text=False)
    inputs["labels"] = torch.tensor([0, 1, 2, 0, 1, 2])
    answers = {}
    for share in (0.0, 0.25, 1.0):
        model.config.own_share = share
        answers[share] = model(**inputs)
    torch.testing.assert_close(answers[0.25].logits, 0.75 * answers[0.0].logits + 0.25 * answers[1.0].logits)
    assert (answers[1.0].joint_logits == 0).all() and (answers[0.0].modality_logits == 0).all()
    model.train()
    found = model(**inputs)
    parts, loss = found.loss_components, torch.nn.functional.cross_entropy
    torch.testing.assert_close(parts["task"], loss(answers[0.0].logits, inputs["labels"]))
    torch.testing.assert_close(found.loss, parts["task"] + 0.5 * parts["unimodal"])
    parts["unimodal"].backward(retain_graph=True)
    assert model.classifier.unimodal.weight.grad.abs().sum() > 0
    assert model.classifier.dense.weight.grad is None and model.clcr.exchange.raw_shared.grad is None
    model.zero_grad()
    parts["task"].backward()
    assert model.classifier.unimodal.weight.grad is None and model.classifier.dense.weight.grad.abs().sum() > 0
    with torch.no_grad():
        measured = model.eval()(**inputs)
    torch.testing.assert_close(measured.loss, loss(measured.logits, inputs["labels"]))


def test_scores_are_learned_in_units_of_their_spread():
    inputs = batch(text=False)
    plain, scaled = make(feature_config()), make(feature_config(label_mean=50.0, label_std=20.0))
    expected = plain(**inputs).loss
    found = scaled(**{**inputs, "labels": inputs["labels"] * 20 + 50}).loss
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# -- agreement ---------------------------------------------------------------------------------------------------------


def test_agreement_is_exactly_zero_for_one_modality_alone():
    model, inputs = make(feature_config(evidence="agreement")), batch(text=False)
    inputs["audio_attention_mask"][2] = 0
    encoded = model.clcr.hierarchy(
        {name: {"features": inputs[f"{name}_features"]} for name in ("vision", "audio")},
        {name: inputs[f"{name}_attention_mask"].bool() for name in ("vision", "audio")},
    )
    found = model.clcr.exchange(encoded.tokens, encoded.membership, encoded.lengths).agreement
    assert found[2].abs().max() == 0 and (found[0][:, encoded.mask[0]].abs() > 0).all()
    out = model(**inputs)
    assert out.logits.isfinite().all()
    alone = model(vision_features=inputs["vision_features"], vision_attention_mask=inputs["vision_attention_mask"])
    torch.testing.assert_close(alone.logits[2], out.logits[2], atol=1e-5, rtol=1e-5)


def _planted(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Two modalities of ten tokens, in each of which one and the same direction sits in two tokens."""
    shared = torch.randn(size, 1, 12, generator=generator) * 2
    inputs = {}
    for name in ("vision", "audio"):
        tokens = torch.randn(size, 10, 12, generator=generator) * 0.5
        tokens[:, :2] += shared
        inputs[f"{name}_features"] = tokens[:, None].expand(-1, 3, -1, -1)
    return inputs


def _taps(**fields):
    taps = {"feature_size": 12, "source": "taps", "feature_norm": "none"}
    return CLCRConfig(vision_config=dict(taps), audio_config=dict(taps), hidden_size=32, dropout=0.0, **fields)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A model after the alignment stage on planted tokens, saved."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = CLCRForPreTraining(_taps(evidence="agreement")).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = model(**_planted(32, generator)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    folder = tmp_path_factory.mktemp("aligned")
    model.save_pretrained(folder)
    return folder, losses


def test_the_alignment_stage_learns_and_agreement_then_finds_what_was_planted(aligned):
    folder, losses = aligned
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    model = CLCRForSequenceClassification.from_pretrained(folder).eval()
    inputs = _planted(64, torch.Generator().manual_seed(1))
    with torch.no_grad():
        budgets = model(**inputs).token_budgets
    for level in budgets:
        for activations in level.values():
            assert activations[:, :2].mean() > 0.8 > 0.5 > activations[:, 2:].mean()


@pytest.mark.parametrize("head", [CLCRForSequenceClassification, CLCRForTokenClassification])
def test_every_head_loads_what_alignment_learned(aligned, head):
    folder, _ = aligned
    stage = CLCRForPreTraining.from_pretrained(folder)
    model, report = head.from_pretrained(folder, output_loading_info=True, num_segments=2)
    assert not report["unexpected_keys"]
    assert all(not name.startswith("clcr.") for name in report["missing_keys"])
    for name, value in stage.clcr.state_dict().items():
        assert torch.equal(model.clcr.state_dict()[name], value), name


def test_the_stage_of_a_model_that_is_there_learns_in_place():
    model, inputs = make(feature_config(evidence="agreement")), batch(text=False)
    stage = CLCRForPreTraining.around(model).train()
    assert {id(each) for each in stage.parameters()} == {id(each) for each in model.clcr.parameters()}
    stage(**inputs).loss.backward()
    assert model.clcr.exchange.raw_shared.grad.abs().sum() > 0 and model.classifier.dense.weight.grad is None
    with pytest.raises(ValueError, match="two modalities"):
        CLCRForPreTraining.around(make(tiny_config(vision_config=None, audio_config=None)))


def test_alignment_scores_are_the_plain_formula():
    torch.manual_seed(0)
    lengths, scale = [2, 3, 2], torch.tensor([0.7, 1.3])
    coordinates = torch.randn(4, 2, 7, 6)
    ids = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    real = torch.rand(4, 7) > 0.2
    real[0, 2:] = False  # one modality alone: nobody to compare it with by
    membership = (ids == torch.arange(3)[:, None])[None] & real[:, None]
    scores = torch.full((4, 4), -torch.inf)
    for i in range(4):
        for j in range(4):
            pairs = (ids[:, None] != ids) & real[i][:, None] & real[j]
            products = scale[:, None, None] * (coordinates[i] @ coordinates[j].mT) / 6**0.5
            if pairs.any():
                scores[i, j] = products[:, pairs].logsumexp((0, 1)) - (2 * pairs.sum()).log()
    kept = [i for i in range(4) if scores[i, i].isfinite()]
    expected = torch.stack([scores[i, i] - scores[i][scores[i].isfinite()].logsumexp(0) for i in kept]).mean()
    found = alignment_loss(coordinates, scale, membership, lengths, num_negatives=8)
    torch.testing.assert_close(found, -expected, atol=1e-5, rtol=1e-5)


def test_weighted_pool_forgets_what_the_budget_leaves_out():
    """A token that no budget takes says nothing to others, and they can tell no difference."""
    torch.manual_seed(0)
    exchange = make(feature_config(evidence="agreement")).clcr.exchange
    qkv, mask = torch.randn(2, 3, 6, 3 * exchange.rank), torch.ones(2, 6, dtype=torch.bool)
    activations = torch.ones(2, 3, 6)
    activations[..., 4] = 0
    changed = qkv.clone()
    changed[:, :, 4, -exchange.rank :] += 10  # its value
    before, _ = exchange.exchange(qkv, mask, [3, 3], activations, False)
    after, _ = exchange.exchange(changed, mask, [3, 3], activations, False)
    torch.testing.assert_close(before, after, atol=1e-3, rtol=1e-3)
    activations[..., 4] = 1
    heard, _ = exchange.exchange(changed, mask, [3, 3], activations, False)
    assert (heard - before)[:, :, :3].abs().max() > 0.1


@pytest.mark.parametrize("evidence", ["norm", "agreement"])
def test_attentions_that_are_shown_are_those_that_act(evidence):
    model, inputs = make(tiny_config(evidence=evidence)), batch()
    torch.testing.assert_close(
        model(**inputs, output_attentions=True).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5
    )


def test_level_evidence_moves_the_levels():
    model, inputs = make(feature_config(evidence="agreement")), batch(text=False)
    before = model(**inputs).level_weights
    with torch.no_grad():
        model.clcr.aggregation.evidence_gain.fill_(0.0)
    without = model(**inputs).level_weights
    with torch.no_grad():
        model.clcr.aggregation.evidence_gain.fill_(50.0)
    sharp = model(**inputs).level_weights
    assert (before - without).abs().max() > 1e-4
    assert sharp.amax(-1).min() > 0.9


def test_private_gates_start_open_and_cannot_die():
    model, inputs = make(tiny_config()), batch()
    assert (model(**inputs).private_gates > 0.5).all()
    with torch.no_grad():
        model.clcr.aggregation.gate_score.weight.mul_(1e4)
        gates = model(**inputs).private_gates
    assert gates.min().item() == pytest.approx(0.1, abs=1e-5) and gates.max().item() == pytest.approx(1.0)


# -- folding -----------------------------------------------------------------------------------------------------------


def test_bases_are_folded_by_themselves_and_anew_when_a_weight_changes(monkeypatch):
    model, inputs = make(tiny_config()), batch()
    exchange, count = model.clcr.exchange, 0
    bases = exchange.bases

    def counted():
        nonlocal count
        count += 1
        return bases()

    monkeypatch.setattr(exchange, "bases", counted)
    with torch.no_grad():
        first = model(**inputs).logits
        model(**inputs)
        assert count == 1
        exchange.raw_private.add_(torch.randn_like(exchange.raw_private))
        assert (model(**inputs).logits - first).abs().max() > 1e-5 and count == 2
        exchange.qkv.weight.mul_(2)
        model(**inputs)
        assert count == 3
    expected = model(**inputs).logits  # with gradients, not folded
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["load", "to", "train", "deepcopy", "replaced"])
def test_what_is_folded_follows_the_weights(change):
    model, other, inputs = make(tiny_config()), make(tiny_config(), seed=1), batch()
    with torch.no_grad():
        model(**inputs)
    if change == "load":
        model.load_state_dict(other.state_dict())
    elif change == "to":
        model, other = model.double(), model
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    elif change == "train":
        model.train()(**inputs).loss.backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        model.eval()
    elif change == "deepcopy":
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.clcr.exchange.raw_shared.add_(1.0)
    else:
        model.clcr.exchange.raw_shared = torch.nn.Parameter(torch.randn_like(model.clcr.exchange.raw_shared))
    expected = model(**inputs).logits
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_compiled_model_follows_the_weights():
    """What was folded before, by the uncompiled model, is not what the compiled one answers by."""
    model, inputs = make(feature_config()), batch(text=False)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        model(**inputs)
        model.clcr.exchange.raw_shared.add_(torch.randn_like(model.clcr.exchange.raw_shared))
        found = compiled(**inputs).logits
        torch.testing.assert_close(found, model(**inputs).logits, atol=1e-5, rtol=1e-5)


# -- what is not asked for ---------------------------------------------------------------------------------------------


def test_evaluation_computes_no_regularisers():
    model, inputs = make(tiny_config()), batch()
    assert set(model(**inputs).loss_components) == {"task"}
    assert {"intra", "inter"} <= set(model.train()(**inputs).loss_components)
    assert model.eval()(**inputs).budget_statistics is None


def test_pretraining_needs_two_modalities():
    with pytest.raises(ValueError, match="two modalities"):
        CLCRForPreTraining(tiny_config(vision_config=None, audio_config=None))


def test_a_batch_too_small_for_correlations_does_without():
    model, inputs = make(feature_config()).train(), batch(text=False)
    few = {name: value[:3] for name, value in inputs.items()}
    components = model(**few).loss_components
    assert components["intra"] == components["inter_private"] == 0 and components["inter_mix"] > 0
    assert model(**inputs).loss_components["intra"] > 0
