"""Plain convolutional networks for small images (Simonyan and Zisserman 2015, with batch normalisation).

No shortcuts: nothing is added, so every layer of an int8 engine is one fused convolution. Nearly all weights lie where
the images are small, which costs an engine little time for what it brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn


@final
class VGG(nn.Module):
    """A stem, stages of 3x3 convolutions that each halve the image after their first one, and a linear classifier."""

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        stem: int,
        stem_kernel: int,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.stem = _convolution(in_channels, stem, stem_kernel, stem_kernel // 2 if stem_kernel % 2 else 0)
        inputs = (stem, *widths)
        self.stages = nn.Sequential(*[_stage(i, o, n) for i, o, n in zip(inputs[:-1], widths, blocks, strict=True)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, classes) for images of shape (batch, in_channels, height, width)."""
        logits: Tensor = self.linear(self.pool(self.stages(self.stem(x))).flatten(1))
        return logits


def _stage(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    rest = [_convolution(outputs, outputs) for _ in range(convolutions - 1)]
    return nn.Sequential(_convolution(inputs, outputs), nn.MaxPool2d(2), *rest)


def _convolution(inputs: int, outputs: int, kernel: int = 3, padding: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, 1, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def vgg(
    *,
    blocks: Sequence[int] = (2, 2, 3),
    widths: Sequence[int] = (32, 64, 192),
    stem: int = 16,
    stem_kernel: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    in_channels: int = 3,
    classes: int = 10,
) -> VGG:
    """Build a network of sum(blocks) + 2 layers.

    Args:
        blocks: convolutions of each stage, at least one staying under ``depth``.
        widths: channels of each stage, as many as there are ``blocks``.
        stem: channels of the first convolution, at the images' own size.
        stem_kernel: its side. An even one is not padded: of 2 it makes 31x31 of 32x32, which halve to 15, 7 and 3, a
            quarter less work than 16, 8 and 4.
        width: factor on ``widths`` and ``stem``.
        depth: factor on ``blocks``.

    Raises:
        ValueError: ``blocks`` and ``widths`` differ in length.
    """
    if len(blocks) != len(widths):
        raise ValueError(f"vgg: blocks and widths give a number for each stage; given: {blocks} and {widths}")
    counts = [max(1, round(count * depth)) for count in blocks]
    channels = [max(1, round(number * width)) for number in (stem, *widths)]
    return VGG(counts, channels[1:], channels[0], stem_kernel, in_channels, classes)
