"""`clcr extract`: features of clips by pretrained backbones, written as shards that training reads.

Run on one machine as `clcr extract`, on several processes as `torchrun -m clcr_hf.extract` or
`accelerate launch -m clcr_hf.extract` with the same arguments: process r takes the clips i with i % processes == r.
See docs/extract.md.
"""

from typing import TYPE_CHECKING, Any

from .settings import ExtractSettings

if TYPE_CHECKING:
    from .run import extract_features

__all__ = ["ExtractSettings", "extract_features"]


def __getattr__(name: str) -> Any:  # so that the command's help needs no torch
    if name != "extract_features":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .run import extract_features

    return extract_features
