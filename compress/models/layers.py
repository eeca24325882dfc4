"""Batch norm classes, and tensors of nested outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def flat_tensors(outputs: Any) -> list[Tensor]:
    """Return the tensors in a module's outputs, in the order in which they are exported."""
    leaves: list[Tensor] = [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return leaves


def first_tensor(output: Any) -> Any:
    """Return a tensor, or the tokens that a transformer block gives first in a tuple; None for other tuples."""
    if isinstance(output, Tensor):
        return output
    first = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
    return first if first is not None and first.dim() == 3 else None
