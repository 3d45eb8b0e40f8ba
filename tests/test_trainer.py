"""CLCRTrainer: what it logs, how it groups parameters, and that a run goes on from a checkpoint exactly."""

import logging
import shutil

import pytest
import torch
from transformers import BertConfig, set_seed

from clcr_hf import CLCRConfig, CLCRForSequenceClassification
from clcr_hf.data import CLCRDataCollator
from clcr_hf.training.run import metrics_of
from clcr_hf.training.trainer import CLCRTrainer, CLCRTrainingArguments

EPOCHS, ROWS = 2, 12


def make_model() -> CLCRForSequenceClassification:
    backbone = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    config = CLCRConfig(
        text_config={"backbone_config": backbone, "source": "taps"},
        audio_config={"feature_size": 5, "tcn_dilations": [[1], [2], [4]]},
        hidden_size=16,
        num_attention_heads=2,
        num_labels=1,
        problem_type="regression",
    )
    set_seed(3)
    return CLCRForSequenceClassification(config)


def make_rows(count: int = ROWS) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "input_ids": torch.randint(1, 50, (4 + index % 3,), generator=generator),
            "audio_features": torch.randn(6 + index % 4, 5, generator=generator),
            "label": float(index % 5 - 2),
        }
        for index in range(count)
    ]


def make_trainer(folder, **arguments) -> CLCRTrainer:
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **arguments,
    }
    return CLCRTrainer(
        model=make_model(),
        args=CLCRTrainingArguments(**settings),
        data_collator=CLCRDataCollator(),
        train_dataset=make_rows(),
        eval_dataset=make_rows(4),
    )


def names_by_group(trainer: CLCRTrainer) -> list[tuple[dict, set[str]]]:
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    return [(group, {names[id(parameter)] for parameter in group["params"]}) for group in groups]


def test_log_carries_loss_parts_and_budget_curves(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="no")
    trainer.train()
    training = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(training) == EPOCHS * ROWS // 4
    config = trainer.model.config
    for entry in training:
        weights = {
            "task": 1.0,
            "intra": config.lambda_intra,
            "inter": config.lambda_inter,
            "unimodal": config.unimodal_loss_weight,
        }
        weighted = sum(weight * entry[f"loss_{name}"] for name, weight in weights.items())
        assert entry["loss"] == pytest.approx(weighted, rel=1e-3)
        for level in range(1, config.num_levels + 1):
            for name in ("participation", "slack", "budget"):
                assert 0 <= entry[f"{name}_{level}"] <= 1


def test_logged_parts_are_means_since_the_last_log(tmp_path):
    each = make_trainer(tmp_path / "a", save_strategy="no")
    each.train()
    rare = make_trainer(tmp_path / "b", save_strategy="no", logging_steps=3)
    rare.train()
    fine = [entry["loss_task"] for entry in each.state.log_history if "loss_task" in entry]
    coarse = [entry["loss_task"] for entry in rare.state.log_history if "loss_task" in entry]
    assert coarse == pytest.approx([sum(fine[:3]) / 3, sum(fine[3:]) / 3], rel=1e-4)


def test_evaluation_leaves_the_training_means_alone(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="no", eval_strategy="steps", eval_steps=1)
    trainer.train()
    assert not any(key.startswith("participation") for e in trainer.state.log_history if "eval_loss" in e for key in e)


def test_backbone_has_its_own_learning_rate(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-2, backbone_learning_rate=1e-4)
    groups = names_by_group(trainer)
    for group, names in groups:
        assert group["lr"] == (1e-4 if all("backbone" in name for name in names) else 1e-2)
        assert len({"backbone" in name for name in names}) == 1
    assert {name for _, names in groups for name in names} == {name for name, _ in trainer.model.named_parameters()}
    trainer.create_scheduler(10)
    assert trainer._get_learning_rate() == pytest.approx(1e-2)


def test_no_decay_on_bases_norms_biases_and_vectors(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.1)
    shapes = dict(trainer.model.named_parameters())
    raw = [name for name in shapes if "raw_shared" in name or "raw_private" in name]
    assert raw
    for group, names in names_by_group(trainer):
        for name in names:
            free = name in raw or shapes[name].ndim < 2 or "norm" in name.lower() or name.endswith("bias")
            assert group["weight_decay"] == (0.0 if free else 0.1), name


@pytest.mark.parametrize(
    ("arguments", "momentum"), [({}, 0.9), ({"momentum": 0.5}, 0.5), ({"optim_args": "momentum=0.3"}, 0.3)]
)
def test_sgd_takes_the_momentum(tmp_path, arguments, momentum):
    trainer = make_trainer(tmp_path, optim="sgd", **arguments)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {momentum}


def test_negative_backbone_rate_is_refused(tmp_path):
    with pytest.raises(ValueError, match="backbone_learning_rate"):
        CLCRTrainingArguments(output_dir=str(tmp_path), backbone_learning_rate=-1.0)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_resumed_run_equals_an_unbroken_one(tmp_path, optim):
    settings = {"optim": optim, "backbone_learning_rate": 1e-3}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    first = tmp_path / "whole" / f"checkpoint-{ROWS // 4}"
    moved = tmp_path / "resumed" / first.name
    shutil.copytree(first, moved)
    resumed = make_trainer(tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(moved))
    assert resumed.state.global_step == whole.state.global_step
    expected = whole.model.state_dict()
    found = resumed.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)
    fresh = make_model().state_dict()
    assert any(not torch.equal(fresh[name], tensor) for name, tensor in expected.items())


def test_best_model_is_loaded_at_the_end(tmp_path):
    trainer = make_trainer(
        tmp_path, eval_strategy="epoch", load_best_model_at_end=True, num_train_epochs=3, learning_rate=3e-2
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


class _Plain(torch.nn.Module):
    """A model of somebody else: loss and logits, no parts."""

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(7, 1)

    def forward(self, vision_features, labels=None, **_):
        logits = self.map(vision_features.mean(1))
        return {"loss": (logits[:, 0] - labels).abs().mean(), "logits": logits}


def test_a_model_without_loss_parts_trains_too(tmp_path):
    rows = [{"vision_features": torch.randn(5, 7), "labels": float(index)} for index in range(8)]
    args = CLCRTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, logging_steps=1, use_cpu=True, disable_tqdm=True
    )
    trainer = CLCRTrainer(model=_Plain(), args=args, train_dataset=rows)
    trainer.train()
    assert [entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry] == [True, True]


# -- options of Trainer that would take the labels from the model ------------------------------------------------------


def class_trainer(folder, model=None, **arguments) -> CLCRTrainer:
    """Three classes of features, vision missing in some rows, with regularisers that weigh much."""
    compute, loss = arguments.pop("compute_metrics", None), arguments.pop("compute_loss_func", None)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(9):
        row = {"audio_features": torch.randn(3 + index % 4, 5, generator=generator), "label": index % 3}
        row["vision_features"] = None if index % 4 == 0 else torch.randn(2 + index % 3, 4, generator=generator)
        rows.append(row)
    set_seed(5)
    config = CLCRConfig(
        audio_config={"feature_size": 5},
        vision_config={"feature_size": 4},
        **{"hidden_size": 16, "num_attention_heads": 2, "num_labels": 3, "dropout": 0.0},
        **{"lambda_intra": 1.0, "lambda_inter": 1.0, "problem_type": "single_label_classification"},
    )
    settings = {"output_dir": str(folder), "max_steps": 1, "per_device_train_batch_size": 9, "logging_steps": 1}
    settings |= {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}
    made = CLCRForSequenceClassification(config) if model is None else model
    return CLCRTrainer(
        model=made,
        args=CLCRTrainingArguments(**{**settings, **arguments}),
        data_collator=CLCRDataCollator(),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=metrics_of(made) if compute is None else compute,
        compute_loss_func=loss,
    )


def first_log(trainer: CLCRTrainer) -> dict[str, float]:
    trainer.train()
    return next(entry for entry in trainer.state.log_history if "loss" in entry)


def test_label_smoothing_changes_nothing_but_the_task_loss(tmp_path):
    plain, smoothed = first_log(class_trainer(tmp_path)), first_log(class_trainer(tmp_path, label_smoothing_factor=0.1))
    for name in ("loss_intra", "loss_inter", "loss_inter_private", "loss_inter_leakage", "loss_inter_mix"):
        assert smoothed[name] == pytest.approx(plain[name], rel=1e-5)
    change = {name: smoothed[f"loss_{name}"] - plain[f"loss_{name}"] for name in ("task", "unimodal")}
    assert smoothed["loss"] - plain["loss"] == pytest.approx(change["task"] + 0.5 * change["unimodal"], abs=1e-4)
    assert smoothed["loss_task"] != pytest.approx(plain["loss_task"], abs=1e-6)
    trainer = class_trainer(tmp_path, label_smoothing_factor=0.1)
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    logits, labels = trainer.model.eval()(**batch).logits.float(), batch["labels"]
    wanted = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1).item()
    assert trainer.model(**batch).loss_components["task"].item() == pytest.approx(wanted, rel=1e-5)


def test_label_smoothing_of_scores_is_refused(tmp_path):
    with pytest.raises(ValueError, match="smooths one class a row; this model learns regression"):
        make_trainer(tmp_path, label_smoothing_factor=0.1)


def test_a_loss_of_ones_own_stands_in_for_the_task_loss_alone(tmp_path):
    def doubled(outputs, labels, num_items_in_batch=None):
        return 2 * torch.nn.functional.cross_entropy(outputs.logits.float(), labels)

    trainers = class_trainer(tmp_path), class_trainer(tmp_path, compute_loss_func=doubled)
    for trainer in trainers:
        trainer.model.config.own_share = 0.0  # the answer is the joint path's, which the task loss is of
    plain, own = map(first_log, trainers)
    assert own["loss_task"] == pytest.approx(2 * plain["loss_task"], rel=1e-4)
    assert own["loss_intra"] == pytest.approx(plain["loss_intra"], rel=1e-5)
    assert own["loss"] - plain["loss"] == pytest.approx(plain["loss_task"], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_names": ["label"]}, "names no 'labels'"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha adds noise to the embeddings of words"),
    ],
)
def test_options_that_fit_nothing_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        class_trainer(tmp_path, **arguments)


def test_a_metric_that_is_none_is_named(tmp_path):
    arguments = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = class_trainer(tmp_path, metric_for_best_model="acuracy", **arguments)
    with pytest.raises(ValueError, match="'acuracy' is none of the measured metrics; did you mean accuracy?"):
        trainer.train()


def test_options_that_need_text_work_without(tmp_path):
    trainer = class_trainer(tmp_path, train_sampling_strategy="group_by_length", per_device_train_batch_size=3)
    lengths = [len(row["audio_features"]) for row in trainer.train_dataset]
    order = list(trainer._get_train_sampler())
    assert sorted(order) == list(range(9)) and max(lengths[index] for index in order[:3]) == max(lengths)
    trainer.train()
    assert "eval_accuracy" in trainer.evaluate()
    seen = []

    def compute(prediction):
        seen.append(prediction.inputs.shape)
        return {"one": 1.0}

    class_trainer(tmp_path, compute_metrics=compute, include_for_metrics=["inputs"]).evaluate()
    assert seen == [(9, 6, 5)]


def test_metrics_batch_by_batch_and_of_every_row(tmp_path):
    model = class_trainer(tmp_path).model.eval()
    whole = class_trainer(tmp_path, model).evaluate()
    parts = class_trainer(tmp_path, model, batch_eval_metrics=True, per_device_eval_batch_size=4).evaluate()
    dropped = class_trainer(tmp_path, model, dataloader_drop_last=True, per_device_eval_batch_size=4).evaluate()
    for name in ("eval_accuracy", "eval_macro_f1", "eval_map"):
        assert whole[name] == pytest.approx(parts[name]) == pytest.approx(dropped[name])


def test_says_what_is_not_measured_and_what_lies_outside_the_range(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "clcr_hf.training"):
        trainer = make_trainer(tmp_path, save_strategy="no", max_steps=2)
        for row in trainer.train_dataset:
            row["label"] += 40
        trainer.train()
        assert len([line for line in caplog.messages if "label_range=[-3.0, 3.0]" in line]) == 1
        trainer.evaluate([{key: value for key, value in row.items() if key != "label"} for row in make_rows(4)])
    assert "hold no labels: nothing was measured" in caplog.text
