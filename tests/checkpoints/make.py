"""Wrote the checkpoints of this folder with version 0.1 of the package (commit e511797); later versions read them.

    python make.py RUN CLIP    # RUN: a folder that 0.1 trained on its generated clips; CLIP: one of these clips

Each folder holds a model as 0.1 saved it, `inputs.npz` (what it is asked) and `answers.npz` (what 0.1 answered).
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import pipeline

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRProcessor
from clcr_hf.media import load_media

HERE = Path(__file__).parent
SAVED = ("config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json")


def answers(model: torch.nn.Module, batch: dict) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = model.eval()(**batch)
    found = {name: outputs[name] for name in ("logits", "level_weights", "modality_weights", "private_gates")}
    for level, by_modality in enumerate(outputs.token_budgets):
        found |= {f"budget_{level}_{name}": budget for name, budget in by_modality.items()}
    return {name: value.numpy() for name, value in found.items()}


def clips(run: Path, clip: Path) -> None:
    folder = HERE / "clips"
    folder.mkdir(exist_ok=True)
    for name in SAVED:
        shutil.copyfile(run / name, folder / name)
    model, processor = CLCRForSequenceClassification.from_pretrained(folder), CLCRProcessor.from_pretrained(folder)
    media = load_media(clip, sampling_rate=16_000, num_frames=10)
    frames, wave = media.video.frames, np.round(media.audio * 32767).astype(np.int16)
    text = "well the show was very dull"
    np.savez_compressed(folder / "inputs.npz", frames=frames, wave=wave, text=text)
    batch = processor(text=[text, None], videos=[frames, frames], audio=[wave, None], sampling_rate=16_000)
    np.savez_compressed(folder / "answers.npz", **answers(model, batch))
    pipe = pipeline("multimodal-sentiment", model=str(folder), device="cpu")
    audio = {"array": wave, "sampling_rate": 16_000}
    said = pipe({"text": text, "video": frames, "audio": audio}, return_explanation=True)
    (folder / "pipeline.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def features(name: str, model: torch.nn.Module, lengths: tuple[int, ...], widths: dict[str, int]) -> None:
    folder = HERE / name
    model.save_pretrained(folder)
    CLCRProcessor().save_pretrained(folder)
    rng = np.random.default_rng(0)
    batch = {}
    for modality, width in widths.items():
        batch[f"{modality}_features"] = rng.normal(size=(len(lengths), max(lengths), width)).astype(np.float32)
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        batch[f"{modality}_attention_mask"] = mask.astype(np.int64)
    batch["vision_attention_mask"][-1] = 0  # a missing one
    np.savez_compressed(folder / "inputs.npz", **batch)
    np.savez_compressed(
        folder / "answers.npz", **answers(model, {key: torch.from_numpy(value) for key, value in batch.items()})
    )


def main() -> None:
    torch.manual_seed(0)
    clips(Path(sys.argv[1]), Path(sys.argv[2]))
    widths = {"text": 8, "vision": 5, "audio": 4, "gaze": 3}
    parts = {f"{name}_config": {"feature_size": width} for name, width in widths.items() if name != "gaze"}
    common = {**parts, "extra_configs": {"gaze": {"feature_size": 3}}, "hidden_size": 16, "num_attention_heads": 2}
    config = CLCRConfig(**common, num_labels=3, problem_type="single_label_classification")
    features("classes", CLCRForSequenceClassification(config), (6, 4, 3), widths)
    config = CLCRConfig(**common, num_labels=4, num_segments=5)
    features("segments", CLCRForTokenClassification(config), (10, 10, 10), widths)


if __name__ == "__main__":
    main()
