"""A frozen teacher spread over the processes of a training: FSDP2, for one that does not fit a GPU beside the student."""

from __future__ import annotations

import copy
import os
import sys

import torch
from torch import nn

from compress.execution import distributed
from profiles.errors import UserError

LAUNCHED_WITH = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
"""What accelerate's launcher sets where it is to wrap the model that is trained."""


def check_launcher() -> None:
    """Check that the launcher leaves the trained model whole.

    Raises:
        UserError: it was asked to spread it.
    """
    asked = [name for variable, name in LAUNCHED_WITH.items() if os.environ.get(variable, "").lower() in ("true", "1")]
    if asked:
        raise UserError(
            f"accelerate was launched with {' and '.join(asked)}, which spreads the model that is trained, and this loop "
            "keeps that whole; launch without it: a teacher that is too large is spread by shard = true in [teacher]"
        )


def sharded(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a frozen module of which each process holds its part on ``device``; the module itself in one process.

    The parts of a layer are gathered when it runs and let go after; its outputs are those of the whole module. Every process
    calls it, and every process runs it at once. The whole module stays in main memory of each.
    """
    if distributed.count() == 1:
        return module
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # half a second, which a single process does not wait for

    spread = copy.deepcopy(module)
    mesh = init_device_mesh(device.type, (distributed.count(),))
    for child in spread.children():
        for block in child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]:
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    fully_shard(spread, mesh=mesh)
    return spread


def is_sharded(module: nn.Module) -> bool:
    """Whether a module is spread over processes, and stays where it is."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)
