"""Families of channel groups: role (stage, neck or head) and scale, by the operators that ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from compress.methods.pruning.structure.coupling import Structure
from compress.models.inputs import ModelInputs, tensors

LAYERS = (nn.Conv2d, nn.Linear)
MATRICES = ("convolution", "addmm", "mm", "bmm", "linear", "baddbmm")


def find_families(work: nn.Module, structure: Structure, example: ModelInputs) -> dict[str, str]:
    """Find role and scale of each layer by path.

    ``neck``: behind an upsampling. ``head``: it makes no feature map, or leads to some of the model's outputs only.
    ``stage``: everything else. The scale is the input's height over the map's.
    """
    image_height = next((tensor.shape[-2] for tensor in tensors(example) if tensor.dim() == 4), 0)
    calls, ends = structure.calls, structure.outputs
    readers: dict[int, list[int]] = {}
    for number, call in enumerate(calls):
        for read in call.reads:
            readers.setdefault(read, []).append(number)
    reads = {number: list(call.reads) for number, call in enumerate(calls)}
    ups = {number for number, call in enumerate(calls) if "upsample" in call.name}
    layers = {path for path, layer in work.named_modules() if isinstance(layer, LAYERS)}
    families: dict[str, str] = {}
    for number, call in enumerate(calls):
        if call.path not in layers or call.name not in MATRICES:
            continue
        height = call.shape[-2] if len(call.shape) == 4 else 0
        if not height:
            families[call.path] = "head/0"
            continue
        behind = bool(_reachable(number, reads) & ups)
        led = _reachable(number, readers) & ends
        part = len(led) < len(ends) and len(ends) > 1
        role = "neck" if behind else "stage"
        role = "head" if part and (behind or led == {number}) else role
        families[call.path] = f"{role}/{round(image_height / height)}" if image_height else role
    return families


def _reachable(start: int, edges: Mapping[int, Sequence[int]]) -> set[int]:
    """Collect all numbers that edges lead to from one, itself among them."""
    found, waiting = {start}, [start]
    while waiting:
        for other in edges.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found
