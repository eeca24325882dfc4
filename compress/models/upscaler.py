"""A plain network for restoration (anchor-based, Du et al. 2021): what it learns is added to the enlarged input."""

from __future__ import annotations

from itertools import pairwise
from typing import final

from torch import Tensor, nn
from torch.nn import functional


@final
class Upscaler(nn.Module):
    """3x3 convolutions at the input's size; the last gives ``enlarge`` ** 2 values for each, which are moved to their place.

    No shortcuts inside and no batch norms, which would take contrast out: all of it is fused convolutions in an int8 engine.
    """

    def __init__(self, channels: int, layers: int, enlarge: int, colours: int) -> None:
        super().__init__()
        widths = [colours, *[channels] * layers]
        inner = [nn.Sequential(nn.Conv2d(i, o, 3, 1, 1), nn.ReLU(inplace=True)) for i, o in pairwise(widths)]
        self.body = nn.Sequential(*inner)
        self.head = nn.Conv2d(channels, colours * enlarge**2, 3, 1, 1)
        self.move = nn.PixelShuffle(enlarge)
        self._enlarge = enlarge

    def forward(self, x: Tensor) -> Tensor:
        """Return images (batch, colours, enlarge * height, enlarge * width) for (batch, colours, height, width)."""
        learned: Tensor = self.move(self.head(self.body(x)))
        if self._enlarge == 1:
            return learned + x
        return learned + functional.interpolate(x, scale_factor=float(self._enlarge), mode="nearest")


def upscaler(
    *, channels: int = 32, layers: int = 5, enlarge: int = 2, width: float = 1.0, depth: float = 1.0, colours: int = 3
) -> Upscaler:
    """Build a network that enlarges ``enlarge`` times, or with 1 takes out noise; inputs are not shifted by a mean.

    Args:
        width: factor on ``channels``, in steps of 4.
        depth: factor on ``layers``, at least one staying.
    """
    return Upscaler(max(4, 4 * round(channels * width / 4)), max(1, round(layers * depth)), enlarge, colours)
