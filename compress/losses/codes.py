"""Losses on assignments to a codebook."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from compress.losses.adapters import make_adapter
from compress.losses.base import Example, Temperature, as_float32, kl_divergence, log_probabilities, of_all_processes


@final
class Codebook(nn.Module):
    """KL of soft assignments to a codebook of the teacher's embeddings (VQGraph, Yang et al. 2024, paper 70).

    T^2 * KL(softmax(-|t - e| / T) || softmax(-|s - e| / T)), mean over samples; zero when the embeddings agree. The codes
    e are running means of the teacher's embeddings nearest to them (online k-means), begun with the first ones seen, and
    what no embedding is nearest to moves to one of the batch. An adapter where widths differ. Embeddings (samples,
    width).
    """

    codes: Tensor
    seen: Tensor

    def __init__(self, example: Example, *, size: int = 64, temperature: Temperature = 4.0, memory: float = 0.99) -> None:
        super().__init__()
        teacher = example["teacher_embedding"]
        self._temperature, self._memory = temperature, memory
        self.adapter = make_adapter(example["student_embedding"], teacher, fitted=example.get("trained", False))
        self.register_buffer("codes", torch.zeros(size, teacher.shape[1]))
        self.register_buffer("seen", torch.zeros(size))

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        teacher = as_float32(teacher_embedding)
        self._learn(of_all_processes(teacher.to(self.codes.dtype)))
        student = self.adapter(as_float32(student_embedding))
        ours, theirs = (log_probabilities(-self._distances(x), self._temperature) for x in (student, teacher))
        return self._temperature**2 * kl_divergence(theirs, ours).mean()

    def _distances(self, points: Tensor) -> Tensor:
        squares = (points[:, None] - self.codes.to(points.dtype)[None]).square().sum(dim=-1)
        return squares.clamp(min=1e-12).sqrt()

    @torch.no_grad()
    def _learn(self, teacher: Tensor) -> None:
        empty = (self.seen < 1e-3).nonzero()[:, 0][: len(teacher)]
        self.codes[empty] = teacher[: len(empty)]
        self.seen[empty] = 1.0
        nearest = self._distances(teacher).argmin(dim=1)
        count = torch.bincount(nearest, minlength=len(self.codes)).to(self.codes.dtype)
        sums = torch.zeros_like(self.codes).index_add_(0, nearest, teacher)
        mean = sums / count.clamp(min=1)[:, None]
        step = (1 - self._memory) * (count > 0).to(self.codes.dtype)[:, None]
        self.codes += step * (mean - self.codes)
        self.seen.mul_(self._memory).add_(count)
