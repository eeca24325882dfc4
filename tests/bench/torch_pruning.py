"""Torch-Pruning, as its users call it, for what ours is compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compress.models.inputs import ModelInputs, call

RATIO, MULTIPLE = 0.25, 8
"""Of each group, rounded to so many channels: what ours is asked for too."""


def prune(module: nn.Module, example: ModelInputs, heads: Sequence[nn.Module]) -> tuple[float, float]:
    """Prune a module in place by magnitude: the share of parameters that goes, and processor seconds.

    Heads of attention are told to it. What it trips over is raised.

    Args:
        heads: layers that it leaves whole.
    """
    import torch_pruning as tp

    before = sum(parameter.numel() for parameter in module.parameters())
    attention = {m.qkv: m.num_heads for m in module.modules() if hasattr(m, "qkv") and hasattr(m, "num_heads")}
    options: dict[str, Any] = {"num_heads": attention} if attention else {}
    started = time.process_time()
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    tp.pruner.MagnitudePruner(
        module, example, importance, pruning_ratio=RATIO, ignored_layers=[*heads], round_to=MULTIPLE, **options
    ).step()
    seconds = time.process_time() - started
    with torch.no_grad():
        call(module, example)
    return 1 - sum(parameter.numel() for parameter in module.parameters()) / before, seconds
