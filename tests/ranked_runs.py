"""Training runs that several processes share, for `test_global_batch.py`: each gives what the whole of it learned."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from model_utils import batch, feature_config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import set_seed

from clcr_hf import CLCRForPreTraining, CLCRForSequenceClassification, CLCRForTokenClassification
from clcr_hf.data import CLCRDataCollator
from clcr_hf.training.trainer import CLCRTrainer, CLCRTrainingArguments

# With 4 processes the last of the three batches of an epoch has no row for the fourth; one process may get rows
# without audio alone.
ROWS, MEASURED, BATCH, EPOCHS = 19, 7, 8, 10
QUIET = {
    "lambda_intra": 0.0,
    "weight_inter_private": 0.0,
    "weight_inter_leakage": 0.0,
    "alignment_coef": 0.0,
}  # what is exact a micro-batch
AGREES = {"evidence": "agreement", "alignment_coef": 0.5, "alignment_negatives": 30}
OWN = {"unimodal_evidence": True}
HEADS: dict[str, tuple[Any, dict[str, Any]]] = {
    "one score": (CLCRForSequenceClassification, {"problem_type": "regression"}),
    "scores": (CLCRForSequenceClassification, {"problem_type": "regression", "num_labels": 3}),
    "one class": (CLCRForSequenceClassification, {"num_labels": 3, "class_weights": [1.0, 2.0, 0.5], **OWN, **AGREES}),
    "labels": (CLCRForSequenceClassification, {"problem_type": "multi_label_classification", "num_labels": 3}),
    "turns": (CLCRForTokenClassification, {"num_labels": 3, "num_segments": None}),
    "pretraining": (CLCRForPreTraining, AGREES),
    "rare": (CLCRForSequenceClassification, {"problem_type": "regression", **OWN, **AGREES}),
}
RARE = 4  # one row in so many has audio, and other batches none


def make_model(head: str, **fields: Any) -> Any:
    kind, own = HEADS[head]
    still = {"dropout": 0.0, "attention_dropout": 0.0, "modality_dropout": 0.0}
    config = feature_config(**{"hidden_size": 16, "num_attention_heads": 2, **still, **own, **fields})
    set_seed(1)
    model = kind(config).double()
    if getattr(getattr(model, "classifier", None), "unimodal", None) is not None:
        torch.nn.init.normal_(model.classifier.unimodal.weight, std=0.05)
    return model


def make_rows(head: str, count: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        turns = int(draw.integers(1, 31))
        lengths = (turns, turns) if head == "turns" else draw.integers(4, 9, 2)
        row = {
            name: draw.normal(size=(length, width)).astype(np.float32)
            for name, length, width in zip(("vision_features", "audio_features"), lengths, (7, 5), strict=True)
        }
        if number % RARE if head == "rare" else head != "turns" and number % 3 == 0:
            del row["audio_features"]
        labels: Any = int(draw.integers(3))
        if head == "turns":
            labels = [int(x) if draw.random() > 0.3 else -100 for x in draw.integers(0, 3, turns)]
        elif head in ("one score", "rare"):
            labels = float(draw.normal())
        elif head in ("scores", "labels"):
            values = draw.normal(size=3) if head == "scores" else draw.integers(0, 2, 3).astype(float)
            labels = np.where(draw.random(3) > 0.3, values, np.nan)
        rows.append({**row, "labels": labels})
    return rows


def train(head: str, folder: str, world: int = 1, accumulation: int = 1, options: Any = None, **fields: Any) -> dict:
    """What a run says at each step, `eval_loss` where there is one, and the weights it ends with."""
    arguments = {
        "output_dir": folder,
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH // world // accumulation,
        "per_device_eval_batch_size": BATCH // 2 // world,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 0.02,
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **(options or {}),
    }
    trainer = CLCRTrainer(
        model=make_model(head, **fields),
        args=CLCRTrainingArguments(**arguments),
        data_collator=CLCRDataCollator(),
        train_dataset=make_rows(head, ROWS, 0),
        eval_dataset=make_rows(head, MEASURED, 1),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    parts = sorted(name for name in logs[0] if name.startswith("loss_"))
    bare = trainer.accelerator.unwrap_model(trainer.model)
    found = {
        "steps": torch.tensor([[entry[name] for name in (*parts, "grad_norm")] for entry in logs], dtype=torch.float64),
        "weights": {name: weight.detach().clone() for name, weight in bare.named_parameters()},
    }
    found["eval_loss"] = torch.tensor(trainer.evaluate()["eval_loss"])
    return found


def sharded(rank: int, world: int, head: str, whole: bool) -> dict[str, Any]:
    """Two steps of FSDP2 by hand, all weights as one or in the parts that accelerate takes; of the head "rare" the rows
    of the last process are without audio."""
    model = make_model(head).train()
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        parts = [part for part in model.modules() if type(part).__name__ in model._no_split_modules]
        for part in () if whole else reversed(parts):
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert parts and all(isinstance(weight, DTensor) for weight in model.parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    inputs = {
        name: value.double() if value.is_floating_point() else value for name, value in batch(BATCH, text=False).items()
    }
    if head == "rare":
        inputs["audio_attention_mask"][BATCH // 2 :] = 0
    share = BATCH // world
    inputs = {name: value[share * rank : share * (rank + 1)] for name, value in inputs.items()}
    if rank and head == "rare":
        inputs = {name: value for name, value in inputs.items() if not name.startswith("audio")}
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimiser.step()
        total = loss.detach().clone()
        if world > 1:
            dist.all_reduce(total)
        losses.append(total / world)
    named = model.named_parameters()
    weights = {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in named}
    return {"losses": torch.stack(losses), "weights": {name: each.detach() for name, each in weights.items()}}


def sharded_worker(rank: int, world: int, folder: str, heads: list[str]) -> None:
    """One of several processes that run [`sharded`] as a whole and by parts, for each head."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-sharded", rank=rank, world_size=world)
    found = {head: [sharded(rank, world, head, whole) for whole in (True, False)] for head in heads}
    if rank == 0:
        torch.save(found, Path(folder) / "sharded.pt")
    dist.barrier()
    os._exit(0)


def worker(rank: int, world: int, folder: str, runs: list[tuple[str, dict[str, Any]]]) -> None:
    """One of several processes: runs of [`train`], the results of the first process in `folder`."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29599", ACCELERATE_USE_CPU="true")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world)
    found = [train(head, folder, world, **options) for head, options in runs]
    if rank == 0:
        torch.save(found, Path(folder) / f"{world}.pt")
    dist.barrier()
    os._exit(0)  # with torch 2.13 DDP's reducer, freed after its gloo group, can deadlock on Python's global lock
