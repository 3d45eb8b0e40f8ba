"""Small studies for tests: a table, a file, and runs that share the test's process."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clcr_hf.study import one, pool

QUICK = "num_train_epochs: 1, hidden_size: 16, config_overrides: 'num_attention_heads=2', baselines: false"


def make_table(path: Path, rows: int = 90) -> Path:
    """Three classes told by the spread of `gaze` and the mean of `pose`; ten people."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, rows)
    gaze = [rng.normal(0, 1 + label, (int(rng.integers(4, 9)), 3)).astype(np.float32) for label in labels]
    pose = [rng.normal(label, 1.5, (5, 2)).astype(np.float32) for label in labels]
    columns = {
        "gaze_features": pa.array([list(each) for each in gaze]),
        "pose_features": pa.array([list(each) for each in pose]),
        "label": [("low", "middle", "high")[label] for label in labels],
        "person": [f"p{number % 10}" for number in range(rows)],
        "split": ["train" if number < rows * 2 // 3 else "test" for number in range(rows)],
    }
    pq.write_table(pa.table(columns), path)
    return path


def study_file(folder: Path, text: str) -> Path:
    table = make_table(folder / "table.parquet")
    path = folder / "study.yaml"
    path.write_text(f"arguments: {{data_file: {table}, {QUICK}}}\n{text}", encoding="utf-8")
    return path


def run_here(monkeypatch) -> list[str]:
    """Runs need no process each from now on; the list takes their folders."""
    done: list[str] = []

    def do(study, run, folder, say):
        own = folder / pool.RUNS / run.folder
        own.mkdir(parents=True, exist_ok=True)
        pool.write_json(own / one.TASK, pool.asdict(run))
        done.append(run.folder)
        one.do(own)
        return {}

    monkeypatch.setattr(pool, "_do", do)
    return done
