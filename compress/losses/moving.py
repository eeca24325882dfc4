"""Losses with a target that changes during training."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import (
    Example,
    cross_entropy,
    flatten_places,
    kl_divergence,
    log_probabilities,
    masked_mean,
    of_all_processes,
    split_labels,
)
from profiles.errors import UserError


@final
class Taid(nn.Module):
    """KL to a mixture moving from the student's own logits to the teacher's (TAID, Shing et al. 2025, paper 72).

    KL(softmax((1 - t) s + t z) || softmax(s)), s without gradient in the mixture. t rises linearly from ``start`` to
    ``end``, faster where the loss falls: t <- min(end, max(line, t + ``step`` * sigmoid(m) * (1 - t))), m the running
    mean of the loss's relative fall. Zero when the logits agree. Logits of shape (samples, ..., classes).
    """

    state: Tensor

    def __init__(self, *, start: float = 0.4, end: float = 1.0, step: float = 5e-4, momentum: float = 0.99) -> None:
        super().__init__()
        self._start, self._end, self._step, self._momentum = start, end, step, momentum
        # t, the running mean, and the loss before (infinite until there is one)
        self.register_buffer("state", torch.tensor([start, 0.0, math.inf], dtype=torch.float64))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, progress: float) -> Tensor:
        student, teacher = flatten_places(student_logits), flatten_places(teacher_logits)
        t = float(self.state[0])
        target = functional.log_softmax((1 - t) * student.detach() + t * teacher, dim=-1)
        loss = kl_divergence(target, functional.log_softmax(student, dim=-1)).mean()
        self._advance(float(of_all_processes(loss.detach()[None]).mean()), progress)
        return loss

    def _advance(self, loss: float, progress: float) -> None:
        t, mean, before = self.state.tolist()
        if math.isfinite(before) and before > 0:
            mean = self._momentum * mean + (1 - self._momentum) * (before - loss) / before
        line = self._start + (self._end - self._start) * progress
        t = min(self._end, max(line, t + self._step * (1 - t) / (1 + math.exp(-max(-60.0, min(60.0, mean))))))
        self.state.copy_(torch.tensor([t, mean, loss], dtype=torch.float64))


@final
class PsKd(nn.Module):
    """Cross-entropy with labels softened by the student's own earlier predictions (PS-KD, Kim et al. 2021, paper 59).

    Target (1 - a) one-hot + a p, p what the student said of this sample when it last saw it, a = ``share`` * progress;
    one-hot where it has not. Reads no teacher. Remembers a distribution for each sample of the training split, in
    float16. Logits of shape (samples, classes), targets (samples,).

    Raises:
        UserError: it was not told how many samples there are, or the outputs are not one distribution a sample.
    """

    said: Tensor
    known: Tensor

    def __init__(self, example: Example, *, share: float = 0.8) -> None:
        super().__init__()
        logits = example["student_logits"]
        if logits.dim() != 2 or not example["samples"]:
            raise UserError(
                "loss ps_kd remembers one distribution a sample: outputs of shape (samples, classes) of a training split of "
                f"known size; given: {tuple(logits.shape)} and {example['samples']} samples"
            )
        self._share = share
        self.register_buffer("said", torch.zeros(example["samples"], logits.shape[1], dtype=torch.float16))
        self.register_buffer("known", torch.zeros(example["samples"], dtype=torch.bool))

    def forward(self, student_logits: Tensor, targets: Tensor, indices: Tensor, progress: float) -> Tensor:
        where, labelled = split_labels(student_logits, targets)
        logs = log_probabilities(student_logits)
        one_hot = functional.one_hot(where, logs.shape[1]).to(logs.dtype)
        trust = self._share * progress * self.known[indices].to(logs.dtype)[:, None]
        target = (1 - trust) * one_hot + trust * self.said[indices].to(logs.dtype)
        seen = of_all_processes(indices)
        self.said[seen] = of_all_processes(logs.detach().exp().to(self.said.dtype))
        self.known[seen] = True
        return masked_mean(cross_entropy(target, logs), labelled)
