"""A compact anchor-free one-stage detector: FCOS (Tian et al. 2019) in plain convolutions.

Everything is a 3x3 or 1x1 convolution with batch norm and ReLU, nearest upsampling and addition, so that it quantises
and runs in integers from input to heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

PRIOR = 0.01
"""What each class score is at the start; most places hold nothing (Lin et al. 2017, section 3.3)."""

FIRST_DISTANCE = 2.0
"""What the distances to a box's sides are at the start, before softplus, in strides."""

Activation = Literal["relu", "silu"]


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, activation: Activation) -> nn.Sequential:
    act = nn.ReLU(inplace=True) if activation == "relu" else nn.SiLU(inplace=True)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), act)


@final
class Residual(nn.Module):
    """Residual block: two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3, 1, activation)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
        self.activation = nn.ReLU(inplace=True) if activation == "relu" else nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        output: Tensor = self.activation(self.second(self.first(x)) + x)
        return output


@final
class Detector(nn.Module):
    """A residual backbone, a top-down feature pyramid over its last maps, and a head on each."""

    def __init__(
        self,
        widths: Sequence[int],
        neck: int,
        blocks: int,
        scales: int,
        in_channels: int,
        classes: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        stem = max(8, widths[0] // 2)
        self.stem = nn.Sequential(
            _convolution(in_channels, stem, 3, 2, activation), _convolution(stem, widths[0], 3, 2, activation)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                _convolution(inputs, outputs, 3, 2, activation), *[Residual(outputs, activation) for _ in range(blocks)]
            )
            for inputs, outputs in pairwise(widths)
        )
        self.laterals = nn.ModuleList(_convolution(width, neck, 1, 1, activation) for width in widths[-scales:])
        self.towers = nn.ModuleList(_convolution(neck, neck, 3, 1, activation) for _ in range(scales))
        self.heads = nn.ModuleList(nn.Conv2d(neck, 4 + classes, 1) for _ in range(scales))
        for head in self.heads:
            assert isinstance(head, nn.Conv2d)
            nn.init.normal_(head.weight, std=0.01)
            assert head.bias is not None
            with torch.no_grad():
                head.bias[:4] = FIRST_DISTANCE
                head.bias[4:] = math.log(PRIOR / (1 - PRIOR))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return a map for each scale, finest first, for images of shape (batch, in_channels, height, width).

        Each is of shape (batch, 4 + classes, rows, columns), as the task ``detection`` reads it.
        """
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        levels = [lateral(level) for lateral, level in zip(self.laterals, levels[-len(self.laterals) :], strict=True)]
        for index in reversed(range(len(levels) - 1)):
            coarser = functional.interpolate(levels[index + 1], size=levels[index].shape[-2:], mode="nearest")
            levels[index] = levels[index] + coarser
        return tuple(head(tower(level)) for head, tower, level in zip(self.heads, self.towers, levels, strict=True))


def detector(
    *,
    widths: Sequence[int] = (32, 64, 96, 128),
    neck: int = 64,
    blocks: int = 2,
    scales: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    in_channels: int = 3,
    classes: int = 80,
    activation: Activation = "relu",
) -> Detector:
    """Build a detector with maps at the last ``scales`` of the strides 8, 16, 32, ... one for each width after the first.

    Args:
        widths: channels at stride 4, and of each stage, which halves the resolution.
        neck: channels of the pyramid and the heads.
        blocks: residual blocks in each stage.
        width: factor on ``widths`` and ``neck``, in steps of 8.
        depth: factor on ``blocks``, at least one staying.
    """
    scaled = [max(8, 8 * round(channels * width / 8)) for channels in (*widths, neck)]
    return Detector(scaled[:-1], scaled[-1], max(1, round(blocks * depth)), scales, in_channels, classes, activation)
