"""Long work in a process of its own, for `test_soak.py`: `soak_runs.py pipeline|training FOLDER` prints, in JSON, the
resident bytes after each stretch of it."""

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from model_utils import PHRASES, batch, feature_config, save_clip_model, write_clip
from transformers import TrainerCallback, pipeline

from clcr_hf import CLCRForSequenceClassification
from clcr_hf.data import CLCRDataCollator
from clcr_hf.training.trainer import CLCRTrainer, CLCRTrainingArguments

CALLS, STEPS, WARM_UP, EVERY = 500, 1000, 100, 10


def resident() -> int:
    return psutil.Process().memory_info().rss


def read(folder: Path) -> list[int]:
    """Clips, texts, both, batches, and what is refused, after a warm-up."""
    pipe = pipeline("multimodal-sentiment", model=save_clip_model(folder / "model"), device="cpu")
    clips = [write_clip(folder / f"{seed}.mp4", 1.0 + seed / 4, seed=seed) for seed in range(4)]
    (folder / "broken.mp4").write_bytes(b"not a clip")
    found = []
    for number in range(WARM_UP + CALLS):
        clip, text = clips[number % len(clips)], PHRASES[number % 2] * (1 + number % 3)
        kinds: list[Any] = [{"text": text}, clip, {"media": clip, "text": text}, [{"text": text}, {"media": clip}]]
        pipe(kinds[number % len(kinds)], return_explanation=number % 3 == 0)
        if number % 7 == 0:
            answer = pipe([{"media": str(folder / "broken.mp4")}], on_error="skip")
            assert "error" in answer[0]
        if number >= WARM_UP and number % EVERY == 0:
            found.append(resident())
    return found


def train(folder: Path) -> list[int]:
    """Steps with logs, measurements on validation and checkpoints between them, after a warm-up."""
    found = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step > WARM_UP and state.global_step % EVERY == 0:
                found.append(resident())

    columns = batch(64, text=False)
    rows = [{name: column[number] for name, column in columns.items()} for number in range(64)]
    arguments = CLCRTrainingArguments(
        str(folder / "run"),
        max_steps=WARM_UP + STEPS,
        per_device_train_batch_size=8,
        logging_steps=10,
        eval_strategy="steps",
        eval_steps=50,
        save_steps=50,
        save_total_limit=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = CLCRForSequenceClassification(feature_config())
    CLCRTrainer(model, arguments, CLCRDataCollator(), rows, rows[:16], callbacks=[Watch()]).train()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"pipeline": read, "training": train}[sys.argv[1]](Path(sys.argv[2]))))
