"""Residual networks for 32x32 images (He et al. 2016, "Deep Residual Learning", section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn


@final
class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut.

    Where shapes change the shortcut is a 1x1 convolution (option B of the paper), or takes every second pixel and
    fills up with zero channels on both sides (option A, ``pad``).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, pad: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if (stride != 1 or inputs != outputs) and pad:
            self.shortcut = nn.Sequential(PadShortcut(stride, outputs - inputs))
        elif stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


@final
class PadShortcut(nn.Module):
    """Shortcut without weights: every ``stride``-th pixel, ``extra`` zero channels added, half before and half after."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self._stride, self._extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, channels + extra, height / stride, width / stride)."""
        before = self._extra // 2
        small = x[:, :, :: self._stride, :: self._stride]
        return nn.functional.pad(small, (0, 0, 0, 0, before, self._extra - before))


@final
class ResNet(nn.Module):
    """A stem, three stages of basic blocks at strides 1, 2 and 4, and a linear classifier."""

    def __init__(
        self,
        blocks: tuple[int, int, int],
        widths: tuple[int, int, int],
        in_channels: int,
        classes: int,
        *,
        pad: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = (widths[0], widths[0], widths[1])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*[BasicBlock(i if n == 0 else o, o, s if n == 0 else 1, pad=pad) for n in range(b)])
            for i, o, b, s in zip(inputs, widths, blocks, (1, 2, 2), strict=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, classes) for images of shape (batch, in_channels, height, width)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def resnet(
    *,
    blocks: int | Sequence[int] = 3,
    widths: Sequence[int] = (16, 32, 64),
    width: float = 1.0,
    depth: float = 1.0,
    in_channels: int = 3,
    classes: int = 10,
    shortcut: Literal["convolution", "pad"] = "convolution",
) -> ResNet:
    """Build a network of 6 x blocks + 2 layers.

    Args:
        blocks: blocks in each of the three stages: 3, 5, 7 or 9 for ResNet-20, 32, 44 or 56; or three numbers.
        widths: channels of the three stages.
        width: factor on ``widths``.
        depth: factor on ``blocks``, at least one block staying.
        shortcut: where shapes change; ``pad`` is what the published CIFAR checkpoints have.
    """
    counts = (blocks,) * 3 if isinstance(blocks, int) else blocks
    first, second, third = (max(1, round(count * depth)) for count in counts)
    narrow, middle, wide = (max(1, round(channels * width)) for channels in widths)
    pad = shortcut == "pad"
    return ResNet((first, second, third), (narrow, middle, wide), in_channels, classes, pad=pad)


def resnet20(*, width: float = 1.0, depth: float = 1.0, in_channels: int = 3, classes: int = 10) -> ResNet:
    """Build ResNet-20: three blocks a stage."""
    return resnet(blocks=3, width=width, depth=depth, in_channels=in_channels, classes=classes)
