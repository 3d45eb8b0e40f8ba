"""Training on streamed rows in several processes, for `test_streaming_runs.py`: which rows each step was given."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranked_runs import make_model

from clcr_hf.data import CLCRDataCollator
from clcr_hf.data.shards import stream_shards
from clcr_hf.processing_clcr import CLCRProcessor
from clcr_hf.training.rows import ClipRows
from clcr_hf.training.trainer import CLCRTrainer, CLCRTrainingArguments

COLUMNS = {"vision": "vision_features", "audio": "audio_features"}


class Noting(CLCRTrainer):
    """Keeps the labels of each epoch, one a row, that count."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: dict[int, list[float]] = {}

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        there = inputs["vision_attention_mask"].any(dim=1)
        self.seen.setdefault(int(self.state.epoch), []).extend(inputs["labels"][there].tolist())
        return super().compute_loss(model, inputs, *args, **kwargs)


def train(shards: str, folder: str, batch: int, workers: int, **options: Any) -> dict[int, list[float]]:
    """The labels of the rows that this process learned from, by epoch."""
    arguments = {
        "output_dir": folder,
        "num_train_epochs": 2,
        "per_device_train_batch_size": batch,
        "dataloader_num_workers": workers,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **options,
    }
    trainer = Noting(
        model=make_model("one score"),
        args=CLCRTrainingArguments(**arguments),
        data_collator=CLCRDataCollator(),
        train_dataset=ClipRows(stream_shards(shards)["train"], COLUMNS, CLCRProcessor(), training=True),
    )
    trainer.train()
    return trainer.seen


def worker(rank: int, world: int, shards: str, folder: str, batch: int, choices: list[int]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29597", ACCELERATE_USE_CPU="true")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save([train(shards, folder, batch, workers) for workers in choices], Path(folder) / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # as in ranked_runs.py
