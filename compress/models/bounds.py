"""Bounds on the model that a plan from elsewhere has built: the plan may state any size, and its weights are of one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from deploy.files.confined import bounded_memory
from profiles.errors import UserError

BESIDE_BYTES, COPIES = 2**29, 8
"""Memory that building may take: so much, and so many times its file of weights; a pruned model is built whole first."""
THREAD_BYTES = 2**27
"""Addresses that a thread of torch reserves, for its stack and its part of the heap."""
BESIDE_MODULES, MODULES_A_TENSOR = 10_000, 100
"""Modules that it may have: so many, and so many for each tensor of its file, as activations and what was cut have none."""


@contextlib.contextmanager
def bounded_building(weights_bytes: int, tensors: int) -> Iterator[None]:
    """Bound what is built within the block by the weights that it is built for.

    Modules are bounded beside memory: a million small ones take half a minute before they take a gigabyte.

    Args:
        weights_bytes: size of the file of weights. tensors: how many it holds.

    Raises:
        UserError: it has more modules. MemoryError, RuntimeError: it takes more memory.

    Example:
        >>> with bounded_building(4_000, tensors=2):
        ...     nn.Sequential(*(nn.Identity() for _ in range(100_000)))
        Traceback (most recent call last):
        profiles.errors.UserError: the plan's model has over 10,200 modules, its file of weights 2 tensors: ...
    """
    most, had, thread = BESIDE_MODULES + MODULES_A_TENSOR * tensors, 0, threading.get_ident()

    def count(_module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal had
        had += threading.get_ident() == thread
        if had > most:
            raise UserError(
                f"the plan's model has over {most:,} modules, its file of weights {tensors} tensors: they are not of one "
                "model; take both from where they were written"
            )

    counting = register_module_module_registration_hook(count)
    try:
        with bounded_memory(BESIDE_BYTES + COPIES * weights_bytes + THREAD_BYTES * (os.cpu_count() or 1)):
            yield
    finally:
        counting.remove()
