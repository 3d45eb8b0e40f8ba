"""Publishing a trained model: one folder with all that a user of the Hub expects, sent in one commit."""

import json
import os
import shutil
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from accelerate.utils import convert_file_size_to_int
from huggingface_hub import HfApi
from transformers import AutoProcessor

from ..configuration_clcr import CLCRConfig
from ..data.files import Roots
from ..data.folders import check_writable, file_sum, read_json, write_json
from ..errors import plainly
from ..modeling_clcr import CLCRPreTrainedModel
from ..onnx_graph import ONNXModel, check_graph, find_graph
from ..remote_code import add_remote_code
from .card import card_from_run
from .run_folder import RUN_FILE, card_files, check_hub_id, copy_card_files, read_run, weight_sums

_HANDLER = Path(__file__).parent / "handler.py"
# What the handler needs on an Inference Endpoint, beside the torch and transformers that are there.
_REQUIREMENTS = "transformers>=5.23\nav>=14\npillow>=10\n"
_GRAPH_REQUIREMENTS = "onnxruntime>=1.20\n"
_RESULTS = ("all_results.json", "train_results.json", "eval_results.json", "test_results.json")


def publish(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    max_shard_size: int | str = "5GB",
    media_root: str | os.PathLike | None = None,
    graph: bool = False,
) -> str:
    """
    Sends the trained model in `folder` to the Hub, whole or not at all (one commit); what else the repository holds
    stays.

    Args:
        folder: Where training left model, processor and `run.json`; see [`build_release`] for what is sent.
        repo_id: `"org/name"`. Made when it does not exist.
        private: For a repository made now; default the organisation's.
        token: Default the one of `hf auth login`, or `HF_TOKEN`.
        revision: Branch to commit to; it must exist. Default `main`.
        create_pr: Open a pull request instead of committing.
        commit_message: Default says what is sent.
        max_shard_size: Weights beyond this are cut into several files.
        media_root: A further folder in which the files may lie that links in `folder` lead to.
        graph: Send `model.onnx` too; see [`build_release`].

    Returns:
        Address of the commit (or of the pull request).

    Raises:
        FileNotFoundError, ValueError: see [`build_release`]; nothing was sent.
        huggingface_hub.errors.HfHubHTTPError: the Hub refused; its message says why.
    """
    api = HfApi(token=token, library_name="clcr_hf")
    with TemporaryDirectory() as scratch:
        options: dict[str, Any] = {"max_shard_size": max_shard_size, "media_root": media_root, "graph": graph}
        release = build_release(folder, scratch, repo_id, **options)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=release,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or f"Upload {CLCRConfig.model_type} model with its processor, code and card",
        )
    return commit.pr_url or commit.commit_url


def build_release(
    folder: str | os.PathLike,
    target: str | os.PathLike,
    model_id: str,
    *,
    max_shard_size: int | str = "5GB",
    media_root: str | os.PathLike | None = None,
    graph: bool = False,
) -> Path:
    """
    Writes to `target` what [`publish`] sends: weights (safetensors, sharded when large), configuration, processor,
    card, the code for `trust_remote_code`, `handler.py` and `requirements.txt` for Inference Endpoints, `run.json` and
    the results of each split, and what the card shows (figures, examples). Checkpoints, optimiser states and pickles
    stay behind, and so do the folders that the run's arguments name: a path is cut to its last part.

    Args:
        folder: A model saved by `save_pretrained` or a training run.
        target: A folder, made when absent; files in it are replaced.
        model_id: The name that the card's examples load.
        media_root: A further folder in which the files may lie that links in `folder` lead to.
        graph: Take `model.onnx` along, which `clcr export` left in `folder`; the handler then answers by onnxruntime.

    Returns:
        `target`.

    Raises:
        FileNotFoundError: `folder` holds no model or no processor, or no graph where it was asked for.
        ImportError: a graph was asked for, and onnxruntime, which checks it, is not installed.
        OSError: `target` cannot be written.
        ValueError: a name or size that is none; `folder` holds another kind of model, weights that do not fill it or
            are not those that `run.json` recorded, a damaged `run.json`, a graph made of other weights, or a link to a
            file elsewhere.
    """
    folder, target = Path(folder), Path(target)
    check_hub_id("the name of the model", model_id)
    check_writable(target, folder=True)
    with plainly(f"max_shard_size {max_shard_size!r} is no size such as 5GB"):
        convert_file_size_to_int(max_shard_size)
    for name, what in (("config.json", "model"), ("processor_config.json", "processor")):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: save the {what} there first (save_pretrained)")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != CLCRConfig.model_type:
        raise ValueError(f"{folder} holds a model of type {kind!r}, not {CLCRConfig.model_type!r}")
    _check_places(folder, media_root)
    _check_weights(folder)
    target.mkdir(parents=True, exist_ok=True)
    model = CLCRPreTrainedModel.load_with_head(folder)
    graphs = _graph_files(model) if graph else []
    model.save_pretrained(target, max_shard_size=max_shard_size)
    AutoProcessor.from_pretrained(folder).save_pretrained(target)
    add_remote_code(target)
    shutil.copyfile(_HANDLER, target / "handler.py")
    requirements = _REQUIREMENTS + (_GRAPH_REQUIREMENTS if graph else "")
    (target / "requirements.txt").write_text(requirements, encoding="utf-8")
    for name in [*(name for name in _RESULTS if (folder / name).is_file()), *graphs]:
        shutil.copyfile(folder / name, target / name)
    copy_card_files(folder, target)
    _write_record(folder, target, model_id)
    return target


def _graph_files(model: CLCRPreTrainedModel) -> list[str]:
    """The graph beside the weights of `model`, and its weights where they lie in a file of their own."""
    check_graph(ONNXModel(path := find_graph(model)), model)
    return [file.name for file in (Path(path), Path(path + ".data")) if file.is_file()]


def _check_places(folder: Path, media_root: str | os.PathLike | None) -> None:
    """DataFormatError for a file that the release is made of and that is a link to one elsewhere: it would be sent."""
    roots = Roots(folder, media_root)
    for path in [*folder.iterdir(), *(folder / name for name in card_files(folder))]:
        if path.is_file():
            roots.check(path, f"{folder.name}, {path.relative_to(folder)}")


def _check_weights(folder: Path) -> None:
    """ValueError where a file of weights is not as the run left it; models of older versions have no record of it."""
    for name, known in (read_json(folder / RUN_FILE) or {}).get("weights", {}).items():
        path = folder / name
        fault = "missing" if not path.is_file() else "altered" if file_sum(path) != known else None
        if fault is not None:
            meant = f"or take `weights` out of {RUN_FILE} if the change was meant"
            raise ValueError(f"{path}: {fault} since its training; train again, {meant}")


def _write_record(folder: Path, target: Path, model_id: str) -> None:
    """`run.json` without the folders of this machine, and the card made of it; without a record, the card as it is."""
    if (folder / RUN_FILE).is_file():
        record = _without_folders(read_run(folder))
        record["weights"] = weight_sums(target)
        write_json(target / RUN_FILE, record)
        card_from_run(target, model_id).save(target / "README.md")
    elif (folder / "README.md").is_file():
        shutil.copyfile(folder / "README.md", target / "README.md")


def _without_folders(value: Any) -> Any:
    """Absolute paths, alone or as words of a command line, cut to their last part."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str):
        return " ".join(PurePath(word).name if os.path.isabs(word) else word for word in value.split(" "))
    return value


__all__ = ["build_release", "publish"]
