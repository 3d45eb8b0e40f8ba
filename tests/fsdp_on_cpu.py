"""Runs a script under FSDP on CPUs, as accelerate does on GPUs: `fsdp_on_cpu.py SCRIPT ARGUMENTS`.

accelerate takes FSDP for GPUs alone and turns it off, in silence, on a CPU. This file takes that one decision back and
leaves all else as it is: the settings of `accelerate launch --config_file`, accelerate's and transformers' own code,
PyTorch's `fully_shard` on a gloo mesh.
"""

import os
import runpy
import sys
from typing import Any

import torch.distributed.fsdp
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

plain = AcceleratorState.__init__


def sharding(state: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    plain(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and fsdp_plugin is not None:
        assert state.distributed_type in (DistributedType.MULTI_CPU, DistributedType.FSDP)
        state.fsdp_plugin = fsdp_plugin
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def report() -> None:
    """Says so once all weights of a model are sharded; the test looks for it."""
    shard = torch.distributed.fsdp.fully_shard

    def told(module: Any, *args: Any, **kwargs: Any) -> Any:
        found = shard(module, *args, **kwargs)
        spread = [isinstance(weight, DTensor) for weight in module.parameters()]
        if hasattr(module, "config") and hasattr(module, "save_pretrained"):
            print("sharded weights:", "all" if all(spread) else f"{sum(spread)} of {len(spread)}", flush=True)
        return found

    torch.distributed.fsdp.fully_shard = told


if __name__ == "__main__":
    report()
    AcceleratorState.__init__ = sharding
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
