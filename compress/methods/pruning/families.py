"""Families of channel groups: role (stage, neck or head) and scale, by the traced graph."""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn


def find_families(work: nn.Module, graph: tp.DependencyGraph, example: Tensor) -> dict[str, str]:
    """Find role and scale of each layer by path, on the traced graph.

    ``neck``: behind an upsampling. ``head``: it makes no feature map, or leads to some of the model's outputs only.
    ``stage``: everything else. The scale is the input's height over the map's.
    """
    heights: dict[str, int] = {}

    def record(path: str) -> Any:
        return lambda layer, given, output: heights.__setitem__(path, output.shape[-2] if output.dim() == 4 else 0)

    handles = [
        layer.register_forward_hook(record(path))
        for path, layer in work.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            work(example)
    finally:
        for handle in handles:
            handle.remove()
    ends = {node for node in graph.module2node.values() if not node.outputs}
    families: dict[str, str] = {}
    for path, height in heights.items():
        node = graph.module2node.get(work.get_submodule(path))
        if node is None or not height:
            families[path] = "head/0"
            continue
        behind = any("Upsample" in str(other.grad_fn) for other in _reachable(node, "inputs"))
        part = len(_reachable(node, "outputs") & ends) < len(ends)
        role = "neck" if behind else "stage"
        role = "head" if part and len(ends) > 1 and (behind or not _reachable(node, "outputs") - ends) else role
        families[path] = f"{role}/{round(example.shape[-2] / height)}" if example.dim() == 4 else role
    return families


def _reachable(node: Any, way: str) -> set[Any]:
    """Collect all nodes that lead to ``node`` (``inputs``) or that it leads to (``outputs``), itself among them."""
    nodes, waiting = {node}, [node]
    while waiting:
        for other in getattr(waiting.pop(), way):
            if other not in nodes:
                nodes.add(other)
                waiting.append(other)
    return nodes
