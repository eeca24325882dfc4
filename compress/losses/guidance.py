"""Losses with a mixture of labels and an earlier model's predictions."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import Example, flatten_places, masked_mean, of_all_processes, split_labels


@final
class SelfGt(nn.Module):
    """Squared distance to labels and to an earlier model, weighed by a share (Borup and Andersen 2021, paper 21).

    a * |p - y|^2 + (1 - a) * |p - q|^2, mean over samples and classes, p and q the softmax of student and teacher (the
    model of the generation before). ``share`` is a; below 0 it is found in closed form: a* = <y - g, h - g> / |h - g|^2
    on held-out samples, h and g ridge regressions on the student's embedding to labels and to the teacher, whose sums are
    kept as training goes on; every tenth sample of a batch is held out. Logits (samples, classes), targets (samples,),
    embeddings (samples, width).
    """

    gram: Tensor
    moments: Tensor
    ratio: Tensor

    def __init__(self, example: Example, *, share: float = -1.0, ridge: float = 1e-3, memory: float = 0.99) -> None:
        super().__init__()
        width, classes = example["student_embedding"].shape[-1], example["student_logits"].shape[-1]
        self._share, self._ridge, self._memory = share, ridge, memory
        # float64: sums over a whole epoch, then a system of equations
        self.register_buffer("gram", torch.zeros(width + 1, width + 1, dtype=torch.float64))
        self.register_buffer("moments", torch.zeros(width + 1, 2 * classes, dtype=torch.float64))
        self.register_buffer("ratio", torch.zeros(2, dtype=torch.float64))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, student_embedding: Tensor, targets: Tensor) -> Tensor:
        where, known = split_labels(student_logits, targets)
        p, q = flatten_places(student_logits).softmax(dim=1), flatten_places(teacher_logits).softmax(dim=1)
        y = functional.one_hot(where, p.shape[1]).to(p.dtype)
        seen = map(of_all_processes, (student_embedding.detach(), y, q.detach(), known))
        share = self._share if self._share >= 0 else self._found(*seen)
        truth, before = (p - y).square().mean(dim=1), (p - q).square().mean(dim=1)
        return masked_mean(share * truth + (1 - share) * before, known)

    def _found(self, embedding: Tensor, y: Tensor, q: Tensor, known: Tensor) -> float:
        features = functional.pad(embedding.double(), (0, 1), value=1.0)
        held = torch.arange(len(features), device=features.device) % 10 == 9
        new, both = features[held & known], torch.cat([y, q], dim=1).double()
        if len(new) and self.gram.any():
            level = self._ridge * self.gram.diagonal().mean() * torch.eye(len(self.gram), device=features.device)
            h, g = (new @ torch.linalg.solve(self.gram + level, self.moments)).chunk(2, dim=1)
            self.ratio += ratio_parts(y[held & known].double(), h, g)
        old = features[~held & known]
        self.gram.mul_(self._memory).add_(old.T @ old)
        self.moments.mul_(self._memory).add_(old.T @ both[~held & known])
        return float((self.ratio[0] / self.ratio[1]).clamp(0, 1)) if float(self.ratio[1]) > 0 else 0.5


def ratio_parts(truth: Tensor, by_labels: Tensor, by_teacher: Tensor) -> Tensor:
    """Compute <y - g, h - g> and |h - g|^2 from y, h, g (samples, classes); the ratio a makes a h + (1 - a) g nearest y."""
    gap = by_labels - by_teacher
    return torch.stack([((truth - by_teacher) * gap).sum(), gap.square().sum()])
