"""Losses on feature maps."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.adapters import Adapters, make_adapter
from compress.losses.base import TINY, Example, Temperature, as_float32, kl_divergence, match_sizes, pyramid_mse


def attention(student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
    """Compute the distance of spatial attention maps (Zagoruyko and Komodakis 2017, equation 2; paper 15's A(F)).

    A(F) is the mean over channels of F squared, flattened over space and scaled to unit length; the loss
    is the squared distance of the two maps of each pair, averaged over samples and summed over pairs.
    Channel counts may differ; each map is (samples, channels, height, width), sizes averaged down to the smaller.

    The unit: from 0 to 4 a pair, whatever the size of the map. The authors' code takes the mean over places and weighs it by
    1000, which is a weight of 1000 / (height * width) here: 4 for a map of 16x16, 16 for 8x8, 62 for 4x4.
    """
    pairs = zip(student_features, teacher_features, strict=True)
    distances = [(_map(s) - _map(t)).square().sum(dim=1).mean() for s, t in (match_sizes(*pair) for pair in pairs)]
    return torch.stack(distances).sum()


@final
class Cwd(nn.Module):
    """KL of each channel's softmax over space (CWD, Shu et al. 2021; paper 67's weight is 3).

    T^2 * mean over samples and channels of KL(softmax(t / T) || softmax(s / T)) over places, summed over pairs; an
    adapter where channels differ. Blind to a constant a channel. Maps (samples, channels, height, width).
    """

    def __init__(self, example: Example, *, temperature: Temperature = 4.0) -> None:
        super().__init__()
        self._temperature = temperature
        self.adapters = Adapters.of(example, "features")

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        losses = []
        for pair in self.adapters(student_features, teacher_features):
            ours, theirs = (functional.log_softmax(x.flatten(2) / self._temperature, dim=2).flatten(0, 1) for x in pair)
            losses.append(kl_divergence(theirs, ours).mean())
        return self._temperature**2 * torch.stack(losses).sum()


@final
class Hcl(nn.Module):
    """Mean square at full size and averaged to 4, 2 and 1 places a side (ReviewKD's HCL, Chen et al. 2021; papers 20, 74).

    Weights 1, 1/2, 1/4, 1/8 over their sum, summed over pairs; an adapter where channels differ. Zero when the maps agree.
    Maps (samples, channels, height, width).
    """

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.adapters = Adapters.of(example, "features")

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        return torch.stack([pyramid_mse(s, t) for s, t in self.adapters(student_features, teacher_features)]).sum()


@final
class Dsi(nn.Module):
    """One minus the cosine at each place of the deepest map (RT-DETRv4's DSI, 2025, paper 20).

    The student's map through a linear projector, the teacher's resized to it bilinearly; mean over places. Blind to the
    length of the teacher's features. Maps (samples, channels, height, width). Its weight in the paper is {use =
    "gradient_share"}.
    """

    def __init__(self, example: Example) -> None:
        super().__init__()
        deepest = example["student_features"][-1], example["teacher_features"][-1]
        self.adapter = make_adapter(*deepest, fitted=example.get("trained", False))

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        student, teacher = self.adapter(as_float32(student_features[-1])), as_float32(teacher_features[-1])
        if teacher.shape[2:] != student.shape[2:]:
            teacher = functional.interpolate(teacher, student.shape[2:], mode="bilinear", align_corners=False)
        return (1 - functional.cosine_similarity(student, teacher, dim=1, eps=TINY)).mean()


@final
class BlockMse(nn.Module):
    """Mean square of every block's outputs (PELA, Guo et al. 2024, paper 40), mean over blocks.

    Blocks are paired by depth, so a factorised or pruned model has its own; an adapter where widths differ. Zero when
    they agree. The paper's second term, on the weights' products, belongs to the factorised layers, not here. Maps or
    tokens.
    """

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.adapters = Adapters.of(example, "blocks")

    def forward(self, student_blocks: list[Tensor], teacher_blocks: list[Tensor]) -> Tensor:
        pairs = self.adapters(student_blocks, teacher_blocks)
        return torch.stack([functional.mse_loss(s, t) for s, t in pairs]).mean()


def _map(features: Tensor) -> Tensor:
    """(samples, channels, height, width) to unit vectors (samples, height * width)."""
    return functional.normalize(features.square().mean(dim=1).flatten(1), dim=1)
