"""Layers that bring a student's features into the shape of its teacher's: trained with the losses, dropped before export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from compress.losses.base import alike, full


def adapter(student: Tensor, teacher: Tensor) -> nn.Module:
    """The layer from the student's width to the teacher's, by the examples' shapes; nothing where they are equal.

    Maps (samples, channels, height, width): a 1x1 convolution. Tokens (samples, tokens, width) and vectors
    (samples, width): a linear layer.
    """
    maps = student.dim() == 4
    ours, theirs = (x.shape[1] if maps else x.shape[-1] for x in (student, teacher))
    if ours == theirs:
        return nn.Identity()
    return nn.Conv2d(ours, theirs, 1, bias=False) if maps else nn.Linear(ours, theirs)


@final
class Adapters(nn.Module):
    """An adapter a pair; pairs come out in one width and one size, the smaller of both, in float32."""

    def __init__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(adapter(s, t) for s, t in zip(student, teacher, strict=True))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        triples = zip(self.layers, student, teacher, strict=True)
        return [alike(layer(full(s)), t) for layer, s, t in triples]
