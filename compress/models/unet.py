"""A small U-Net (Ronneberger et al. 2015) of plain convolutions, for a class at each pixel, or a value.

Nearest upsampling, addition in place of concatenation, 3x3 convolutions with batch norm and ReLU: it all
runs in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import final

from torch import Tensor, nn
from torch.nn import functional


@final
class UNet(nn.Module):
    """Stages that each halve the map, and steps back up that add the map of the same size on the way down."""

    def __init__(self, widths: Sequence[int], blocks: int, stride: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.stem = _convolution(in_channels, widths[0], stride)
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(i, o, 2), *[_convolution(o, o) for _ in range(blocks)]) for i, o in pairwise(widths)
        )
        self.laterals = nn.ModuleList(_convolution(o, i, kernel=1) for i, o in pairwise(widths))
        self.ups = nn.ModuleList(_convolution(i, i) for i in widths[:-1])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (batch, classes, height / stride, width / stride) for images (batch, in_channels, height, width)."""
        levels = [self.stem(x)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        x = levels.pop()
        for lateral, up in zip(reversed(self.laterals), reversed(self.ups), strict=True):
            finer = levels.pop()
            x = up(functional.interpolate(lateral(x), size=finer.shape[-2:], mode="nearest") + finer)
        maps: Tensor = self.head(x)
        return maps


def _convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def unet(
    *,
    widths: Sequence[int] = (16, 32, 64, 96, 128),
    blocks: int = 1,
    stride: int = 2,
    width: float = 1.0,
    depth: float = 1.0,
    in_channels: int = 3,
    classes: int = 11,
) -> UNet:
    """Build a U-Net whose maps have the input's size over ``stride``; the task ``segmentation`` enlarges them.

    Args:
        widths: channels at each size, the first at ``stride``, each further one at half of it.
        blocks: convolutions of each stage behind the one that halves.
        width: factor on ``widths``, in steps of 8.
        depth: factor on ``blocks``.
    """
    scaled = [max(8, 8 * round(channels * width / 8)) for channels in widths]
    return UNet(scaled, max(0, round(blocks * depth)), stride, in_channels, classes)
