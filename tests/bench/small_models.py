"""Two networks in which int8 is hard: gated depthwise convolutions, and attention. Inputs are (samples, 1, 32, 32)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo import ViTBlock


class Gate(nn.Module):
    """Squeeze and excite (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(functional.silu(self.down(squeezed))))


class MBConv(nn.Module):
    """EfficientNet's block: expand, depthwise, gate, project; SiLU (Tan & Le 2019)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        depth = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self.depth = nn.Sequential(depth, nn.BatchNorm2d(wide), nn.SiLU())
        self.gate = Gate(wide)
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depth(self.expand(x))))
        return x + y if self.adds else y


def gated(classes: int = 10) -> nn.Module:
    """A small EfficientNet."""
    blocks = [(16, 24, 3, 2), (24, 24, 3, 1), (24, 40, 5, 2), (40, 40, 5, 1), (40, 80, 3, 2), (80, 80, 3, 1)]
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()),
        *[MBConv(*block) for block in blocks],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(80, classes),
    )


class ViT(nn.Module):
    """64 patches of 4x4 (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 65, width) * 0.02)
        self.blocks = nn.Sequential(*[ViTBlock(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit(classes: int = 10) -> nn.Module:
    """A ViT of width 96 and depth 4."""
    return ViT(96, 4, 4, classes)
