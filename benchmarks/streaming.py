"""Memory of an epoch on streamed shards, by the number of rows. The figures are in docs/streaming.md.

    python benchmarks/streaming.py --rows 10000 100000 1000000

Writes so many small rows as shards (two modalities of 6 steps, 24 and 12 wide, and a class), and runs `clcr train` with
`--streaming True` over them for one epoch, each in a process of its own. Peak memory is `ru_maxrss` of that process.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, List, Value

from clcr_hf.data.arrow import make_dataset
from clcr_hf.data.shards import record_shards

FEATURES = Features(
    {
        "id": Value("string"),
        "vision_features": List(List(Value("float32"), length=24)),
        "audio_features": List(List(Value("float32"), length=12)),
        "label": ClassLabel(names=["no", "yes"]),
    }
)
STEPS, VALIDATION = 6, 1000
TRAIN = """
import resource, sys, time
from clcr_hf.training import main
begun = time.monotonic()
main(sys.argv[1:])
unit = 1 if sys.platform == "darwin" else 1024
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, time.monotonic() - begun)
"""


def write(folder: Path, rows: int, rows_per_shard: int) -> None:
    """Shards with their record, as `clcr convert` leaves them."""
    draw = np.random.default_rng(0)
    for split, count in (("train", rows), ("validation", VALIDATION)):
        (folder / split).mkdir(parents=True)
        for index, start in enumerate(range(0, count, rows_per_shard)):
            size = min(rows_per_shard, count - start)
            labels = draw.integers(2, size=size)
            vision, audio = (draw.standard_normal((size, STEPS, width), dtype=np.float32) for width in (24, 12))
            columns = {
                "id": [f"{split}/{number}" for number in range(start, start + size)],
                "vision_features": list(vision + 0.2 * labels[:, None, None].astype("f4")),
                "audio_features": list(audio),
                "label": labels.tolist(),
            }
            table = make_dataset(columns, FEATURES).data.table
            path = folder / split / f"{split}-000-{index:05d}.parquet"
            pq.write_table(table, path, use_dictionary=["id"], write_page_checksum=True)
    (folder / "convert.json").write_text(json.dumps({"shards": record_shards(folder)}))


def measure(folder: Path, scratch: Path, batch: int, workers: int, streaming: bool) -> tuple[float, float]:
    """Peak megabytes, and seconds, of an epoch."""
    words = f"--dataset_dir {folder} --streaming {streaming} --output_dir {scratch / 'run'} --num_train_epochs 1"
    words += f" --hidden_size 8 --per_device_train_batch_size {batch} --per_device_eval_batch_size {batch}"
    words += f" --dataloader_num_workers {workers} --use_cpu --report_to none --disable_tqdm True --save_strategy no"
    words += " --load_best_model_at_end False --do_predict False --logging_steps 500 --augment_features False"
    environment = os.environ | {"HF_DATASETS_CACHE": str(scratch / "cache")}
    command = [sys.executable, "-c", TRAIN, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    peak, seconds = map(float, done.stdout.split("PEAK")[1].split())
    return peak / 1e6, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rows_per_shard", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--in_memory", action="store_true", help="without --streaming, to compare")
    args = parser.parse_args()
    print("| rows | shards, MB | peak memory, MB | seconds |\n|---|---|---|---|")
    for rows in args.rows:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "shards"
            write(folder, rows, args.rows_per_shard)
            size = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e6
            peak, seconds = measure(folder, Path(scratch), args.batch, args.workers, not args.in_memory)
            print(f"| {rows:,} | {size:,.0f} | {peak:,.0f} | {seconds:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
