"""What stands between a model's code and one program of it whose batch is free."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from profiles.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

ASSERTIONS = ("_assert_scalar", "_assert_tensor_metadata", "_assert_async", "sym_constrain_range", "_print")
"""Operators that check or tell, and compute nothing."""


@contextlib.contextmanager
def free_lengths(module: torch.nn.Module) -> Iterator[None]:
    """Have ``len(tensor)`` in the files of a module's classes be ``tensor.shape[0]``, within the block.

    Python wants a plain number of ``len``, so that it makes the batch a constant of the program: RT-DETR of transformers
    takes it so. Torch's own files stay as they are, and files that have a ``len`` of their own.
    """
    import torch

    def length(given: Any) -> Any:
        return given.shape[0] if isinstance(given, torch.Tensor) and given.dim() else len(given)

    names = {type(each).__module__ for each in module.modules()}
    files = [
        sys.modules[name] for name in names if name in sys.modules and name.partition(".")[0] not in ("torch", "builtins")
    ]
    shadowed = [file for file in files if "len" not in vars(file)]
    for file in shadowed:
        vars(file)["len"] = length
    try:
        yield
    finally:
        for file in shadowed:
            del vars(file)["len"]


def drop_assertions(program: ExportedProgram) -> None:
    """Take out of a program what only checks at run time, with what is computed for it alone: ONNX has no form of it."""
    graph = program.graph_module.graph
    for node in reversed(graph.nodes):
        name = getattr(node.target, "_opname", "") or getattr(node.target, "__name__", "").partition(".")[0]
        if node.op == "call_function" and name in ASSERTIONS and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def check_batch(program: ExportedProgram) -> None:
    """Check that the number of samples is no constant of a program.

    Raises:
        UserError: it is one in each input.
    """
    from torch.fx.experimental.symbolic_shapes import is_concrete_int

    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    first = [node.meta["val"].shape[0] for node in inputs if getattr(node.meta.get("val"), "ndim", 0)]
    if first and all(is_concrete_int(size) for size in first):
        raise UserError(
            f"its code makes the number of samples a constant ({first[0]}, the example's), as a loop over samples does; "
            "have it work on all samples at once, their number x.shape[0]"
        )
