"""Every command of `clcr`, and the arguments of the scripts: one line on the standard error, and before any work where
what is wrong can be known before."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from clcr_hf.cli.main import main
from clcr_hf.training.arguments import parse_args

from .case import Case

sys.path.insert(0, str(Path(__file__).parents[1]))
from model_utils import save_clip_model, write_clip  # noqa: E402

# What begins the work of a command: reading a model, or data.
_WORK = (
    "clcr_hf.modeling_clcr.CLCRPreTrainedModel.from_pretrained",
    "clcr_hf.data.source.Source.open",
    "clcr_hf.extract.readers.Readers.load",
    "clcr_hf.training.run.load_data",
)


class Told(OSError):
    """The one line that a command said."""


def clcr(*words: str, without: str | None = None) -> str:
    """A command in this process: its output, or `Told` with its one line of error; `without`: a package that is not
    installed."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with _absent(without), redirect_stdout(out), redirect_stderr(err):
            main(words)
    except SystemExit as stop:
        if stop.code in (None, 0):
            return out.getvalue()
        said = [line for line in err.getvalue().splitlines() if line.lower().startswith("error")]
        if len(said) != 1 or "Traceback" in err.getvalue() or out.getvalue().count("\n") > 8:
            raise RuntimeError(f"said {err.getvalue()[-600:]!r}") from stop
        raise Told(said[0]) from None
    return out.getvalue()


@contextmanager
def _absent(package: str | None) -> Iterator[None]:
    """As if a package were not installed."""
    before = sys.modules.get(package or "")
    sys.modules |= {} if package is None else {package: None}
    try:
        yield
    finally:
        if package is not None:
            del sys.modules[package]
            sys.modules |= {} if before is None else {package: before}


def early(*words: str, without: str | None = None) -> str:
    """The same, where work must not begin."""
    with ExitStack() as stack:
        for name in _WORK:
            stack.enter_context(mock.patch(name, side_effect=AssertionError(f"{name} was called: work has begun")))
        return clcr(*words, without=without)


def cases(folder: Path) -> Iterator[Case]:
    model, clip = save_clip_model(folder / "model"), write_clip(folder / "clip.mp4")
    (Path(model) / "run.json").write_text(json.dumps({"metrics": {}, "data_arguments": {}}))
    (folder / "rows.csv").write_text("id,text,label\n" + "".join(f"r{i},word {i},{i % 2}\n" for i in range(6)))
    (folder / "a_file").write_text("x")
    (folder / "a_folder").mkdir()
    place = {"model": model, "clip": clip, "table": f"{folder}/rows.csv", "file": f"{folder}/a_file"}
    place |= {"folder": f"{folder}/a_folder", "new": f"{folder}/new", "absent": f"{folder}/absent"}
    for line, without in _lines(early=True):
        words = [word.format(**place) for word in line.split()]
        name = line if without is None else f"{line}, without {without}"
        yield Case(f"early: clcr {name}", partial(early, *words, without=without))
    for line, without in _lines(early=False):
        words = [word.format(**place) for word in line.split()]
        yield Case(f"clcr {line}", partial(clcr, *words, without=without))
    for words in _ARGUMENTS:
        yield Case(f"arguments: {words}", partial(_parsed, words.split()))


def _parsed(words: list[str]) -> Any:
    return [vars(each) for each in parse_args(words)] and "parsed"


def _lines(early: bool) -> Iterator[tuple[str, str | None]]:
    """Lines of a command, and a package that is not there."""
    for line in (_EARLY if early else _LATE).strip().splitlines():
        words, _, without = line.partition(" #without ")
        yield words.strip(), without.strip() or None


_EARLY = """
train --output_dir {file}
train --output_dir {file}/runs
train --output_dir /proc/runs
train --num_train_epochs 0
train --num_train_epochs -1
train --num_train_epochs nan
train --num_train_epochs inf
train --num_train_epochs many
train --max_steps 0 --num_train_epochs 0
train --pretrain_epochs nan
train --pretrain_epochs -1
train --pretrain_learning_rate -1
train --metric_for_best_model acuracy
train --metric_for_best_model eval_acuracy
train --per_device_train_batch_size 0
train --per_device_train_batch_size -4
train --per_device_eval_batch_size 0
train --learning_rate nan
train --learning_rate -1
train --gradient_accumulation_steps 0
train --lr_scheduler_type cosin
train --optim adamm
train --eval_strategy epochs
train --dataset mosi
train --dataset manifest
train --model_name_or_path {absent}
train --model_name_or_path {file}
train --report_to nothing_such
train --report_to comet_ml
train --report_to tensorbord
train --ablation without_all
train --modalities text text
train --hidden_size 0
train --hidden_size wide
train --config_overrides hiden_size=4
train --config_overrides num_levels=0
train --config_overrides num_levels
train --dataset_options a
train --no_such 1
train --learning-rat 1
train {absent}.yaml
train {clip}.yaml
train --face_crop no_such_module:f
train --early_stopping_patience -1
train --dropout 1.5
train --dropout nan
train --validation_fraction 2
train --resume_from_checkpoint {absent}
train --seed word
train --warmup_steps -1
train --weight_decay nan
train --max_grad_norm nan
train --logging_steps 0
train --save_steps 0 --save_strategy steps --eval_strategy steps
train --eval_steps 0 --eval_strategy steps
train --push_to_hub True --hub_model_id a/b/c
evaluate --model {absent}
evaluate --model {file}
evaluate --model {folder}
evaluate --model {model} --batch-size 0
evaluate --model {model} --batch-size -1
evaluate --model {model}
evaluate --model {model} --dataset mosi
evaluate
predict
predict {absent}.mp4 --model {model}
predict {clip} --model {absent}
predict {clip} --model {file}
predict {clip} --model {model} --output {new}.doc
predict {clip} --model {model} --output {file}/x.csv
predict {clip} --model {model} --output {folder}
predict {clip} --model {model} --output /proc/x.csv
predict {clip} --model {model} --window 1s --output {file}/x.png
predict {clip} --model {model} --window 1s --output {new}.png #without matplotlib
predict {clip} --model {model} --window 0
predict {clip} --model {model} --window ten
predict {clip} --model {model} --window -1s
predict {clip} --model {model} --batch-size 0
predict {clip} --model {model} --top -1
predict {clip} --model {model} --device gpu
predict {clip} --model {model} --device cuda:99
predict {clip} --model {model} --device meta
predict {clip} --model {model} --on-error ignore
predict {clip} --model {model} --split test
predict {clip} --model {model} --features gaze
predict {clip} --model {model} --features gaze={absent}.npy
predict {clip} --model {model} --subtitles {absent}.srt
predict {clip} --model {model} --subtitles {clip}
predict {clip} --model {model} --language en
predict {folder} --model {model}
predict {folder}/*.mp4 --model {model}
predict {table} --model {model} --text a
predict {table} --model {model} --output {new}.csv --split tset
explain
explain {absent}.mp4 --model {model}
explain {folder} --model {model}
explain {clip} --model {absent}
explain {clip} --model {model} --output {new}.doc
explain {clip} --model {model} --output {file}/x.png
explain {clip} --model {model} --output {folder}
explain {clip} --model {model} --output /proc/x.png
explain {clip} --model {model} --device gpu
explain {clip} --model {model} #without matplotlib
demo --model {absent}
demo --model {model} --port 0
demo --model {model} --port 70000
demo --model {model} --max-size 0
demo --model {model} --max-size nan
demo --model {model} --max-seconds -1
demo --model {model} #without gradio
demo --model {model} --device gpu
card {absent}
card {file}
card {folder}
card {model} --license other --benchmark nonsense
card {model} --dataset-id a/b/c
card {model} --model-id a/b/c
card {model} --example {absent}.mp4
card {model} --figure --limit 0
card {model} --figure #without matplotlib
publish {absent} org/name
publish {folder} org/name
publish {model} a/b/c
publish {model} a/b/c --to-folder {new}
publish {model} org/name --to-folder {file}
publish {model} org/name --to-folder {file}/x
publish {model} org/name --max-shard-size big
publish {model} org/name --max-shard-size big --to-folder {new}
export {absent} {new}.onnx
export {model} {new}.onnx --format onxx
export {model} {new}.onnx --format torch --opset 18
export {model} {new}.onnx --part half
export {model} {new}.onnx --modalities smell
export {model} {new}.onnx --modalities text,,text
export {model} {new}.onnx --opset 3
export {model} {new}.onnx --opset 99
export {model} {new}.onnx --image-size 0
export {model} {new}.onnx --image-size -4
export {model} {file}/x.onnx
export {model} {folder}
export {model} /proc/x.onnx
export {model} {new}.onnx #without onnx
export {model} {new}.onnx #without onnxscript
export {model} {new}.onnx #without onnxruntime
export {model} {new}.onnx --format int8 #without onnxruntime
extract {absent} {new} --text bert-base-uncased
extract {folder} {file} --text bert-base-uncased
extract {folder} {file}/x --text bert-base-uncased
extract {folder} /proc/x --text bert-base-uncased
extract {folder} {new}
extract {folder} {new} --text {file} --levels 0
extract {folder} {new} --text {file} --taps 1,a
extract {folder} {new} --text {file} --fps 0
extract {folder} {new} --text {file} --fps nan
extract {folder} {new} --text {file} --dtype float7
extract {folder} {new} --text {file} --batch-size 0
extract {folder} {new} --text {file} --num-workers -1
extract {folder} {new} --text {file} --device gpu
extract {folder} {new} --text {file} --dataset mosi
extract {folder} {new} --text {file} --dataset-options a
extract {folder} {new} --text {file} --align letters
extract {folder} {new} --opensmile --opensmile-level high
convert mosi {table} {new}
convert manifest {absent} {new}
convert manifest {table} {file}
convert manifest {table} {file}/x
convert manifest {table} /proc/x
convert manifest {table} {new} --rows-per-shard 0
convert manifest {table} {new} --dataset-options no_such=1
convert manifest {table} {new} --dataset-options =
convert manifest {table} {new} --dataset-options {{
no_such_command
"""
_LATE = """
convert mmsa {table} {new}1
convert csd {folder} {new}2
convert meld {folder} {new}3
convert ave {folder} {new}4
convert shards {folder} {new}5
convert manifest {folder} {new}6
convert hub {folder} {new}7
card {model} --figure
train --dataset manifest --data_file {absent} --output_dir {new}c
train --dataset manifest --data_file {folder} --output_dir {new}c
evaluate --model {model} --dataset manifest --data-file {absent}
evaluate --model {model} --split tset --dataset manifest --data-file {table}
extract {folder} {new}d --text {absent}
extract {folder} {new}d --opensmile #without opensmile
extract {folder} {new}d --vision {absent} --face-crop no_such_module:f
evaluate --model {model} --dataset manifest --data-file {table} --label_column no_such
predict {clip} --model {model} --features gaze={file}.npy
extract {folder} {new}8 --text {model}
extract {table} {new}9 --text {folder}
train --dataset manifest --data_file {table} --text_column no_such --output_dir {new}a
train --dataset manifest --data_file {table} --output_dir {new}b --metric_for_best_model map
train --dataset manifest --data_file {table} --output_dir {new}b --modalities smell
publish {model} org/name --to-folder {model}/config.json
"""
_ARGUMENTS = (
    *("--learning_rate fast", "--num_train_epochs ten", "--do_train perhaps", "--dataset", "--output_dir", "--bf16 7"),
    *("--label_columns", "--missing_labels guess", "--image_backbone vit", "--feature_norm much", "--evidence magic"),
    *("--mmsa_text no", "--corpus_seed x", "--num_train_clips -4", "--max_text_length 0", "--video_frames 0"),
)
