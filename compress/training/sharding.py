"""Models spread over the processes of a training by FSDP2, where they do not fit a GPU: a teacher, what is trained."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.execution import distributed
from compress.training.schedule import Schedule
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
            f"accelerate was launched with {' and '.join(asked)}, which wraps the model that is trained in its own "
            "way; launch without it: shard = true in [teacher] or a stage spreads what is too large"
        )


def check_spreadable(name: str, schedule: Schedule, *, is_program: bool, reads_gradients: bool) -> None:
    """Check that a training can be of a model of which each process holds a part.

    Raises:
        UserError: it cannot; all reasons.
    """
    facts = [
        *(["it trains a captured program, which stays whole"] if is_program else []),
        *(["optimizer = 'muon' turns whole kernels"] if schedule.optimizer == "muon" else []),
        *(["a weight by gradient_share reads gradients of whole kernels"] if reads_gradients else []),
    ]
    if facts:
        words = "and shard = true gives each process a part of them; leave one out"
        raise UserError(*(f"{name}: {fact}, {words}" for fact in facts))


def sharded(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a frozen module of which each process holds its part on ``device``; the module itself in one process.

    The parts of a layer are gathered when it runs and let go after; its outputs are those of the whole module. Every process
    calls it, and every process runs it at once. The whole module stays in main memory of each.
    """
    if distributed.count() == 1:
        return module
    spread = copy.deepcopy(module)
    _spread(spread, device)
    return spread


def _spread(module: nn.Module, device: torch.device) -> None:
    """Spread a module in place: each block's parameters are gathered together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # half a second, which a single process does not wait for

    mesh = init_device_mesh(device.type, (distributed.count(),))
    for child in module.children():
        for block in child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]:
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


@contextmanager
def spread_while_trained(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Spread a module in place, so that each process holds, trains and optimises its part; with its whole weights after.

    Hooks and references to it and its layers go on working: FSDP2 changes their classes, and they get them back. Where the
    block fails the weights are lost, as a process alone cannot gather them. In one process nothing is done.
    """
    if distributed.count() == 1:
        yield
        return
    kept = [(layer, layer.__class__, _copied(layer.__dict__)) for layer in module.modules()]
    parameters, shapes = dict(module.named_parameters()), {name: p.shape for name, p in module.named_parameters()}
    _spread(module, device)
    for parameter in parameters.values():
        parameter.data = parameter.data.new_empty(0)  # else each process would hold the whole beside its part
    state: dict[str, Tensor] = {}
    try:
        yield
        state = {name: whole(value) for name, value in module.state_dict().items()}
        state |= distributed.from_main(
            {name: value for name, value in state.items() if name not in parameters}
        )  # statistics
    finally:
        for layer, own, attributes in kept:
            layer.__class__ = own
            training = layer.training
            layer.__dict__.clear()
            layer.__dict__.update({**attributes, "training": training})
        for name, parameter in parameters.items():
            parameter.data = torch.zeros(shapes[name], dtype=parameter.dtype)
            parameter.grad = None
        module.to("cpu")
        if state:
            module.load_state_dict(state)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copy a layer's attributes, and the tables among them in which FSDP2 replaces parameters and adds hooks."""
    return {name: copy.copy(value) if isinstance(value, dict) else value for name, value in attributes.items()}


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its parts, in main memory where it was spread; every process must call this."""
    gathered: Tensor = tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def parted(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, where ``like`` is spread; the tensor itself elsewhere."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    placed = tensor.to(like.device)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)


def is_sharded(module: nn.Module) -> bool:
    """Whether a module is spread over processes, and stays where it is."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)
