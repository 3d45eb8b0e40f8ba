"""Whether the model that a command was given is there."""

from pathlib import Path


def check_model(model: str, *, on_hub: bool = True) -> str:
    """
    `model` itself, a folder or a name on the Hub.

    Raises:
        FileNotFoundError: there is no such folder, and the Hub does not have it or cannot be asked.
        ValueError: a file of weights in the folder is damaged.
    """
    folder = Path(model)
    if folder.is_dir():
        _check_weights(folder)
    elif folder.exists():
        raise FileNotFoundError(f"{model} is a file; give the folder that training wrote")
    elif not on_hub or not _may_be_on_hub(model):
        raise FileNotFoundError(
            f"{model} does not exist; give the folder of a trained model (--output_dir of clcr train)"
        )
    else:
        _ask_hub(model)
    return model


def _may_be_on_hub(model: str) -> bool:
    """Whether a name may be `org/name`: a path into a folder that is here is none."""
    parts = model.split("/")
    return len(parts) == 2 and all(parts) and parts[0][0] not in ".~" and not Path(parts[0]).is_dir()


def _ask_hub(model: str) -> None:
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(model, "config.json")
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split("\n\n")[-1].split())
        raise FileNotFoundError(f"{model} does not exist here, and was not found on the Hub: {why}") from error


def _check_weights(folder: Path) -> None:
    """ValueError for a file of weights that does not open, such as half a download. Only its header is read."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged, perhaps half a download ({error}); fetch or train it again"
            ) from error
