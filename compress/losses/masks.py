"""Losses under learned masks of places and channels."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.adapters import Adapters
from compress.losses.base import TINY, Example


@final
class Acam(nn.Module):
    """Mean square under learned channel and spatial masks (ACAM-KD, Lan and Tian 2025, paper 4).

    Features of both are fused by attention, the teacher's as queries and the student's as keys and values; ``units`` vectors
    give channel masks sigmoid(m * mean over space) and spatial masks sigmoid(m . F), what goes into the sigmoid scaled to
    mean 0 and deviation 1 over the mask: the overlap alone would else make each mask 0 or 1 throughout. The loss is, for
    each mask, the masked square of teacher - adapted student over the mask's sum, mean over masks and samples, plus
    ``diversity`` times the Dice overlap of each two masks, so that they part. The masks learn from the diversity alone: a
    mask that could lower the loss would shun what the student lacks. The paper's weights could not be verified. Summed over
    pairs. Maps (samples, channels, height, width).
    """

    def __init__(self, example: Example, *, units: int = 4, diversity: float = 1.0, most: int = 14) -> None:
        super().__init__()
        teacher = example["teacher_features"]
        self._diversity, self._most = diversity, most
        self.adapters = Adapters.of(example, "features")
        self.fuse = nn.ModuleList(_Fuse(t.shape[1]) for t in teacher)
        self.places = nn.ParameterList(torch.randn(units, t.shape[1]) / t.shape[1] ** 0.5 for t in teacher)
        self.channels = nn.ParameterList(torch.randn(units, t.shape[1]) for t in teacher)

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        losses = []
        for index, (student, teacher) in enumerate(self.adapters(student_features, teacher_features)):
            masks = self._masks(index, student.detach(), teacher)
            error = (teacher - student).square()
            for mask in masks:
                kept = mask.detach()
                area = kept.expand(-1, -1, *error.shape[1:]).sum(dim=(2, 3, 4))
                masked = (error[:, None] * kept).sum(dim=(2, 3, 4)) / area.clamp(min=TINY)
                losses.append(masked.mean() + self._diversity * _overlap(mask.flatten(2)))
        return torch.stack(losses).sum()

    def _masks(self, index: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Channel masks (samples, units, channels, 1, 1), spatial masks (samples, units, 1, height, width)."""
        size = (min(self._most, teacher.shape[2]), min(self._most, teacher.shape[3]))
        small = [functional.adaptive_avg_pool2d(x, size) for x in (teacher, student)]
        fused = self.fuse[index](*small)
        channel = _standardised(self.channels[index][None] * fused.mean(dim=(2, 3))[:, None], dims=(2,))
        place = _standardised(torch.einsum("uc,nchw->nuhw", self.places[index], fused), dims=(2, 3))
        place = functional.interpolate(place, teacher.shape[2:], mode="bilinear", align_corners=False)
        return channel.sigmoid()[..., None, None], place.sigmoid()[:, :, None]


class _Fuse(nn.Module):
    """softmax(Q K^T / sqrt(width)) V over places: queries of the first map, keys and values of the second."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.queries, self.keys = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.values = nn.Conv2d(channels, channels, 1)

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        q, k, v = (x.flatten(2).transpose(1, 2) for x in (self.queries(teacher), self.keys(student), self.values(student)))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(len(mixed), -1, *teacher.shape[2:])


def _standardised(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scale to mean 0 and deviation 1 over ``dims``; equal values become 0."""
    apart = values - values.mean(dim=dims, keepdim=True)
    return apart / (apart.square().mean(dim=dims, keepdim=True) + TINY).sqrt()


def _overlap(masks: Tensor) -> Tensor:
    """Mean Dice coefficient of each two masks of a sample, (samples, units, values)."""
    products = masks @ masks.transpose(1, 2)
    squares = products.diagonal(dim1=1, dim2=2)
    dice = 2 * products / (squares[:, :, None] + squares[:, None]).clamp(min=TINY)
    others = ~torch.eye(masks.shape[1], dtype=torch.bool, device=masks.device)
    return dice[:, others].mean() if others.any() else dice.sum() * 0
