"""Losses whose mixture is learned sample by sample."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import Example, divergence, labels, log_probabilities, mean_where, rows


@final
class Tgeo(nn.Module):
    """KL and cross-entropy, mixed for each sample by a learned controller (TGeo-KD, Hu et al. 2023, paper 55).

    a_i * T^2 * KL_i + (1 - a_i) * CE_i with a_i a small network of the geometry of student, teacher, truth and the
    teacher's mean for the class (the paper's nine vectors). Every ``held``-th sample of a batch is held out: the
    controller is trained to lower its cross-entropy after one step of the student on the others. The released code
    computes a_i without gradient and never trains the controller; here the step is unrolled through the last linear
    layer, where it has a closed form: logits of held-out sample j move by -``unroll`` * sum over i of (gradient of loss
    i by its logits) <f_i, f_j>, f the embeddings over their mean square norm. ``boost`` scales that loss. Logits
    (samples, classes), targets (samples,), embeddings (samples, width).
    """

    means: Tensor
    counts: Tensor

    def __init__(
        self, example: Example, *, temperature: float = 1.5, held: int = 10, unroll: float = 1.0, boost: float = 10.0
    ) -> None:
        super().__init__()
        classes = example["student_logits"].shape[-1]
        self._temperature, self._held, self._unroll, self._boost = temperature, held, unroll, boost
        widths = (9 * classes, 32, 16, 1)
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.controller = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.register_buffer("means", torch.zeros(classes, classes))
        self.register_buffer("counts", torch.zeros(classes))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, student_embedding: Tensor, targets: Tensor) -> Tensor:
        where, known = labels(student_logits, targets)
        student, teacher = rows(student_logits), rows(teacher_logits)
        share = self.shares(student.detach(), teacher, where, known)
        held = torch.arange(len(student), device=student.device) % self._held == self._held - 1
        taught = self._lower(student, teacher, where, known, share.detach())
        return mean_where(taught, ~held) + self._boost * self._upper(
            student, teacher, student_embedding, where, known, share, held
        )

    def shares(self, student: Tensor, teacher: Tensor, where: Tensor, known: Tensor) -> Tensor:
        """The share of the teacher in each sample's loss, 0 to 1, (samples,); 1 without a label."""
        s, t = student.softmax(dim=1), teacher.softmax(dim=1)
        g = functional.one_hot(where, s.shape[1]).to(s.dtype)
        mean = self._mean(t, where, known)
        parts = [s, t, g, mean, mean - s, g - s, t - s, t - g, mean - g]
        squares = parts[:4] + [part.square() for part in parts[4:]]
        found: Tensor = self.controller(torch.cat(squares, dim=1).to(self.means.dtype)).sigmoid()[:, 0]
        return torch.where(known, found, torch.ones_like(found)).to(student.dtype)

    def _mean(self, teacher: Tensor, where: Tensor, known: Tensor) -> Tensor:
        """The teacher's mean distribution for each sample's class, over all that was seen."""
        one_hot = functional.one_hot(where, len(self.means)).to(self.means.dtype) * known[:, None]
        count = one_hot.sum(dim=0)
        self.counts += count
        moved = one_hot.T @ teacher.to(self.means.dtype) - count[:, None] * self.means
        self.means += moved / self.counts.clamp(min=1)[:, None]
        return self.means[where].to(teacher.dtype)

    def _lower(self, student: Tensor, teacher: Tensor, where: Tensor, known: Tensor, share: Tensor) -> Tensor:
        temperature = self._temperature
        apart = divergence(log_probabilities(teacher, temperature), log_probabilities(student, temperature))
        told = functional.cross_entropy(student, where, reduction="none")
        return share * temperature**2 * apart + torch.where(known, (1 - share) * told, torch.zeros_like(told))

    def _upper(
        self, student: Tensor, teacher: Tensor, embedding: Tensor, where: Tensor, known: Tensor, share: Tensor, held: Tensor
    ) -> Tensor:
        """Cross-entropy of the held-out samples after a step on the others; only the controller gets its gradient."""
        if not (held & known).any():
            return share.sum() * 0
        student, features = student.detach(), embedding.detach().to(student.dtype)
        temperature = self._temperature
        soft = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1))
        hard = student.softmax(1) - functional.one_hot(where, student.shape[1])
        slope = share[:, None] * soft + (1 - share)[:, None] * hard * known[:, None]
        slope = slope * (~held)[:, None] / (~held).sum()
        near = features @ features.T / features.square().sum(dim=1).mean().clamp(min=1e-12)
        stepped = student - self._unroll * near @ slope
        return mean_where(functional.cross_entropy(stepped, where, reduction="none"), held & known)
