"""Several processes that train one model: counts, roles, broadcasts and barriers.

Started by ``accelerate launch -m compress run ...`` or ``torchrun ... -m compress run ...``; alone, all of this does
nothing. Processes on several hosts need the folder of steps on a file system they share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """Return the index of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is the one that writes files and talks."""
    return index() == 0


def from_main(value: T) -> T:
    """Broadcast ``value`` of the main process to all; every process must call this."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _join()
    kept = [value]
    broadcast_object_list(kept, from_process=0)
    return kept[0]


def from_all(value: T) -> list[T]:
    """Return the ``value`` of every process, in their order; every process must call this."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    _join()
    return list(gather_object([value]))


def average_gradients(parameters: Iterable[Any]) -> None:
    """Put the mean of all processes' gradients into each parameter; for what is trained outside of the wrapped module."""
    if count() == 1:
        return
    from accelerate.utils import reduce

    _join()
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(reduce(parameter.grad, reduction="mean"))


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        _join().wait_for_everyone()


def _join() -> Any:
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
