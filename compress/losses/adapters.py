"""Adapter layers from the student's width to the teacher's: trained with the losses, dropped before export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from compress.losses.base import Example, as_float32, match_sizes

RIDGE = 1e-3
"""Of the mean square of the student's channels, added to each: what is left undecided by few places stays small."""


def make_adapter(student: Tensor, teacher: Tensor, *, fitted: bool = False) -> nn.Module:
    """Make the layer from the student's width to the teacher's; the identity where they are equal.

    Maps (samples, channels, height, width): a 1x1 convolution. Tokens (samples, tokens, width) and vectors
    (samples, width): a linear layer.

    Args:
        fitted: it starts as the least squares map of the one example onto the other. For a student that works already: a
            random map drags it away from where it is.
    """
    maps = student.dim() == 4
    ours, theirs = (x.shape[1] if maps else x.shape[-1] for x in (student, teacher))
    if ours == theirs:
        return nn.Identity()
    layer = nn.Conv2d(ours, theirs, 1, bias=False) if maps else nn.Linear(ours, theirs)
    if fitted:
        _fit(layer, *match_sizes(student, teacher))
    return layer


@final
class Adapters(nn.Module):
    """One adapter per pair of features; pairs are brought to one width and one size, the smaller of both, in float32."""

    def __init__(self, student: Sequence[Tensor], teacher: Sequence[Tensor], *, fitted: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make_adapter(s, t, fitted=fitted) for s, t in zip(student, teacher, strict=True))

    @classmethod
    def of(cls, example: Example, what: str) -> Adapters:
        """Make adapters for the student's and the teacher's ``what`` (``features``, ``blocks``) in an example."""
        return cls(example[f"student_{what}"], example[f"teacher_{what}"], fitted=example.get("trained", False))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        triples = zip(self.layers, student, teacher, strict=True)
        return [match_sizes(layer(as_float32(s)), t) for layer, s, t in triples]


@torch.no_grad()
def _fit(layer: nn.Conv2d | nn.Linear, student: Tensor, teacher: Tensor) -> None:
    """Set a layer to the ridge regression of the teacher's places on the student's, of one size."""
    ours, theirs = _places(student), _places(teacher)
    about = (ours.mean(0), theirs.mean(0)) if layer.bias is not None else (ours.new_zeros(()), theirs.new_zeros(()))
    ours, theirs = ours - about[0], theirs - about[1]
    products = ours.T @ ours
    ridge = RIDGE * products.diagonal().mean().clamp_min(1e-12)
    weight = torch.linalg.solve(products + ridge * torch.eye(len(products), dtype=products.dtype), ours.T @ theirs)
    layer.weight.copy_(weight.T.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(about[1] - about[0] @ weight)


def _places(values: Tensor) -> Tensor:
    """(places, channels) in float64."""
    last = values.movedim(1, -1) if values.dim() == 4 else values
    return last.reshape(-1, last.shape[-1]).double()
