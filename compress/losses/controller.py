"""Losses with a learned mixture for each sample."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import (
    Example,
    Temperature,
    flatten_places,
    kl_divergence,
    log_probabilities,
    masked_mean,
    of_all_processes,
    split_labels,
)


@final
class Controller(nn.Module):
    """Network from the geometry of student, teacher, truth and class mean to a share, 0 to 1, for each sample.

    The nine vectors of TGeo-KD (Hu et al. 2023, paper 55) through three linear layers; the mean is over all that was seen.
    """

    means: Tensor
    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers = [nn.Linear(a, b) for a, b in pairwise((9 * classes, 32, 16, 1))]
        self.layers = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.register_buffer("means", torch.zeros(classes, classes))
        self.register_buffer("counts", torch.zeros(classes))

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor, known: Tensor) -> Tensor:
        """Compute the shares (samples,) from logits (samples, classes), labels and their mask (samples,)."""
        s, t = student.softmax(dim=1), teacher.softmax(dim=1)
        g = functional.one_hot(where, s.shape[1]).to(s.dtype)
        mean = self._mean(t, where, known)
        parts = [s, t, g, mean, mean - s, g - s, t - s, t - g, mean - g]
        squares = parts[:4] + [part.square() for part in parts[4:]]
        shares: Tensor = self.layers(torch.cat(squares, dim=1).to(self.means.dtype)).sigmoid()[:, 0]
        return shares.to(student.dtype)

    def _mean(self, teacher: Tensor, where: Tensor, known: Tensor) -> Tensor:
        """The teacher's mean distribution for each sample's class."""
        labels = functional.one_hot(where, len(self.means)).to(self.means.dtype) * known[:, None]
        one_hot, every = of_all_processes(labels), of_all_processes(teacher.to(self.means.dtype))
        count = one_hot.sum(dim=0)
        self.counts += count
        moved = one_hot.T @ every - count[:, None] * self.means
        self.means += moved / self.counts.clamp(min=1)[:, None]
        return self.means[where].to(teacher.dtype)


def holdout_mask(samples: int, every: int, device: torch.device) -> Tensor:
    """Mark the held-out samples of a batch, the last of every ``every``: (samples,)."""
    return torch.arange(samples, device=device) % every == every - 1


def logits_after_step(logits: Tensor, slope: Tensor, embedding: Tensor, unroll: float) -> Tensor:
    """Compute logits (samples, classes) after a step of the last linear layer against ``slope``, their loss's gradient.

    Logits of sample j move by -``unroll`` * sum over i of slope_i <f_i, f_j>, f the embeddings (samples, width) over their
    mean square norm: what a step of gradient descent on that layer does to them, in closed form.
    """
    features = embedding.to(logits.dtype)
    near = features @ features.T / features.square().sum(dim=1).mean().clamp(min=1e-12)
    return logits - unroll * near @ slope


@final
class Tgeo(nn.Module):
    """KL and cross-entropy, mixed for each sample by a learned controller (TGeo-KD, Hu et al. 2023, paper 55).

    a_i * T^2 * KL_i + (1 - a_i) * CE_i with a_i a small network of the geometry of student, teacher, truth and the
    teacher's mean for the class (the paper's nine vectors). Every ``held``-th sample of a batch is held out: the
    controller is trained to lower its cross-entropy after one step of the student on the others. The released code
    computes a_i without gradient and never trains the controller; here the step is unrolled by ``unroll`` through the last
    linear layer, where it has a closed form (``logits_after_step``). ``boost`` scales that loss. Logits (samples, classes),
    targets (samples,), embeddings (samples, width). For a weight by sample of another loss: ``{use = "learned"}``.
    """

    def __init__(
        self, example: Example, *, temperature: Temperature = 1.5, held: int = 10, unroll: float = 1.0, boost: float = 10.0
    ) -> None:
        super().__init__()
        self._temperature, self._held, self._unroll, self._boost = temperature, held, unroll, boost
        self.controller = Controller(example["student_logits"].shape[-1])

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, student_embedding: Tensor, targets: Tensor) -> Tensor:
        where, known = split_labels(student_logits, targets)
        student, teacher = flatten_places(student_logits), flatten_places(teacher_logits)
        share = self.shares(student.detach(), teacher, where, known)
        held = holdout_mask(len(student), self._held, student.device)
        taught = self._lower(student, teacher, where, known, share.detach())
        return masked_mean(taught, ~held) + self._boost * self._upper(
            student, teacher, student_embedding, where, known, share, held
        )

    def shares(self, student: Tensor, teacher: Tensor, where: Tensor, known: Tensor) -> Tensor:
        """Compute the teacher's share in each sample's loss, 0 to 1, (samples,); 1 without a label."""
        shares: Tensor = self.controller(student, teacher, where, known)
        return torch.where(known, shares, torch.ones_like(shares))

    def _lower(self, student: Tensor, teacher: Tensor, where: Tensor, known: Tensor, share: Tensor) -> Tensor:
        temperature = self._temperature
        soft = kl_divergence(log_probabilities(teacher, temperature), log_probabilities(student, temperature))
        hard = functional.cross_entropy(student, where, reduction="none")
        return share * temperature**2 * soft + torch.where(known, (1 - share) * hard, torch.zeros_like(hard))

    def _upper(
        self, student: Tensor, teacher: Tensor, embedding: Tensor, where: Tensor, known: Tensor, share: Tensor, held: Tensor
    ) -> Tensor:
        """Cross-entropy of the held-out samples after a step on the others; only the controller gets its gradient."""
        if not (held & known).any():
            return share.sum() * 0
        student, temperature = student.detach(), self._temperature
        soft = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1))
        hard = student.softmax(1) - functional.one_hot(where, student.shape[1])
        slope = share[:, None] * soft + (1 - share)[:, None] * hard * known[:, None]
        slope = slope * (~held)[:, None] / (~held).sum()
        stepped = logits_after_step(student, slope, embedding.detach(), self._unroll)
        return masked_mean(functional.cross_entropy(stepped, where, reduction="none"), held & known)
