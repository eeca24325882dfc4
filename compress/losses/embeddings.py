"""Losses on embeddings: the inputs of the last linear layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import TINY, Example, as_float32, load_npy, masked_mean, of_all_processes, split_labels
from profiles.errors import UserError


@final
class Nd(nn.Module):
    """Distance in direction and norm to the teacher's class mean (KD++, Wang et al. 2023, paper 39).

    Mean over the samples with a label of 1 - <s, c_y / |c_y|> / max(|s|, |t|), c_y the running mean of the teacher's
    embeddings of the class; 0 for a student that lies along c_y and is as long as t or longer. Where widths differ the
    student goes through batch norm, dropout and a linear layer, as in the paper's code. Embeddings (samples, width),
    targets (samples,).
    """

    means: Tensor
    counts: Tensor

    def __init__(self, example: Example) -> None:
        super().__init__()
        ours, theirs = example["student_embedding"].shape[1], example["teacher_embedding"].shape[1]
        classes = example["student_logits"].shape[-1]
        layers = [nn.BatchNorm1d(ours), nn.Dropout(0.5), nn.Linear(ours, theirs)] if ours != theirs else []
        self.adapter = nn.Sequential(*layers)
        self.register_buffer("means", torch.zeros(classes, theirs))
        self.register_buffer("counts", torch.zeros(classes))

    def forward(
        self, student_embedding: Tensor, teacher_embedding: Tensor, student_logits: Tensor, targets: Tensor
    ) -> Tensor:
        where, known = split_labels(student_logits, targets)
        teacher = as_float32(teacher_embedding)
        self._learn(*map(of_all_processes, (teacher, where, known)))
        student = self.adapter(as_float32(student_embedding))
        towards = functional.normalize(self.means.to(student.dtype), dim=1, eps=TINY)[where]
        length = torch.maximum(_length(student), _length(teacher))
        return masked_mean(1 - (student * towards).sum(dim=1) / length, known)

    @torch.no_grad()
    def _learn(self, teacher: Tensor, where: Tensor, known: Tensor) -> None:
        one_hot = functional.one_hot(where, len(self.means)).to(self.means.dtype) * known[:, None]
        count = one_hot.sum(dim=0)
        self.counts += count
        moved = one_hot.T @ teacher.to(self.means.dtype) - count[:, None] * self.means
        self.means += moved / self.counts.clamp(min=1)[:, None]


@final
class MiAlpha(nn.Module):
    """Negative lower bound of the mutual information of both embeddings (Distiller, He et al. 2021, paper 16).

    The bound is Poole et al. 2019's I_alpha.

    -I, I = 1 + mean over i of log(e^f(i,i) / d_i) - mean over i != j of e^f(j,i) / d'_i, d_i = a m_i + (1 - a) q with m_i
    the mean over all k of e^f(k,i), d'_i the same with the mean over k != i, whose samples are independent of i (with the
    pair itself in it, I is no lower bound). a = ``alpha``: 1 is low variance and at most log(batch), 0 high variance. The
    critic f is bilinear between learned projections of student (first index) and teacher, q = 1. Embeddings (samples,
    width); widths may differ.
    """

    def __init__(self, example: Example, *, alpha: float = 0.9, width: int = 64) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"loss mi_alpha: alpha is from 0 to 1; given: {alpha}")
        self._alpha = alpha
        self.student = nn.Linear(example["student_embedding"].shape[1], width)
        self.teacher = nn.Linear(example["teacher_embedding"].shape[1], width)

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        ours, theirs = self.student(as_float32(student_embedding)), self.teacher(as_float32(teacher_embedding))
        # unit length times a fixed sharpness: an unbounded critic overflows before it is right
        ours, theirs = (functional.normalize(x, dim=1, eps=TINY) for x in (ours, theirs))
        return -mutual_information_bound(10.0 * ours @ theirs.T, self._alpha)


def mutual_information_bound(critic: Tensor, alpha: float) -> Tensor:
    """Compute the bound I from a critic's values f(student i, teacher j), (samples, samples), in nats."""
    count = len(critic)
    joint = (critic.diagonal() - _log_mixture(torch.logsumexp(critic, dim=0) - math.log(count), alpha)).mean()
    if count == 1:
        return 1 + joint
    pairs = torch.eye(count, dtype=torch.bool, device=critic.device)
    others = torch.logsumexp(critic.masked_fill(pairs, -math.inf), dim=0) - math.log(count - 1)
    marginal = (critic - _log_mixture(others, alpha)[None]).exp()[~pairs].mean()
    return 1 + joint - marginal


def _log_mixture(log_mean: Tensor, alpha: float) -> Tensor:
    """Compute log(alpha * m + (1 - alpha)) from log m, of the same shape."""
    parts = [log_mean + math.log(alpha)] if alpha > 0 else []
    parts += [torch.full_like(log_mean, math.log(1 - alpha))] if alpha < 1 else []
    return torch.logsumexp(torch.stack(parts), dim=0)


@final
class Align(nn.Module):
    """Cosine distance to embeddings of a vision-language model (VL2V-ADiP, Addepalli et al. 2024, paper 48).

    ``share`` * (1 - cos(P s, image)) + (1 - ``share``) * (1 - cos(P s, text of the class)), P linear. Images: the .npy
    file ``images`` of shape (training samples, width) in the order of the training split, or without it the teacher's
    embeddings; none are read with a ``share`` of 0. Texts: the .npy file ``texts`` of shape (classes, width); without it the
    image term stands alone. With ``class_vectors = true`` of the stage distill, P and the texts then are the model's head.
    Embeddings (samples, width).

    Raises:
        UserError: files that are not there or do not fit each other.
    """

    images: Tensor
    texts: Tensor

    def __init__(self, example: Example, *, share: float = 0.5, images: str | Path = "", texts: str | Path = "") -> None:
        super().__init__()
        tables = [
            load_npy("align", name, path) if path else torch.zeros(0, 0)
            for name, path in (("images", images), ("texts", texts))
        ]
        own = tables[1].shape[-1] if texts and share == 0 else 0
        width = tables[0].shape[-1] or own or example["teacher_embedding"].shape[1]
        classes = example["student_logits"].shape[-1]
        if (images and len(tables[0]) != example["samples"]) or (texts and tables[1].shape != (classes, width)):
            raise UserError(
                f"loss align: images has a row for each of {example['samples']} training samples, texts one for each of "
                f"{classes} classes, both {width} wide; given: {[tuple(t.shape) for t in tables]}"
            )
        self._share, self._has_images, self._has_texts = share, bool(images), bool(texts)
        self.adapter = nn.Linear(example["student_embedding"].shape[1], width)
        for name, table in (("images", tables[0]), ("texts", tables[1])):
            self.register_buffer(name, table, persistent=False)

    def forward(
        self, student_embedding: Tensor, teacher_embedding: Tensor, student_logits: Tensor, targets: Tensor, indices: Tensor
    ) -> Tensor:
        ours = self.adapter(as_float32(student_embedding))
        image: Tensor = ours.new_zeros(())
        if self._share > 0 or not self._has_texts:
            seen = self.images[indices] if self._has_images else as_float32(teacher_embedding)
            image = (1 - functional.cosine_similarity(ours, seen, dim=1, eps=TINY)).mean()
        if not self._has_texts:
            return image
        where, known = split_labels(student_logits, targets)
        text = 1 - functional.cosine_similarity(ours, self.texts[where].to(ours.dtype), dim=1, eps=TINY)
        return self._share * image + (1 - self._share) * masked_mean(text, known)


def _length(values: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, dim=1)
    return length.clamp(min=TINY)
