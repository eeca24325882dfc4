"""Losses on token sequences; a map is read as one token per pixel."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.adapters import make_adapter
from compress.losses.base import TINY, Example, as_float32, kl_divergence, match_sizes


def token_relations(
    student_tokens: list[Tensor], teacher_tokens: list[Tensor], *, fused: bool = False, most: int = 256
) -> Tensor:
    """Compute KL of the tokens' relations in the last pair of blocks (Hybrid Distill, Shi et al. 2023, paper 2).

    R = softmax(X X^T / sqrt(width)) of the hidden tokens, mean over tokens of KL(R_T || R_S). With ``fused`` the
    ``layers`` of the recipe give queries, keys and values side by side, and the relations are Q K^T and V V^T, the
    paper's. Blind to rotation. Sequences (samples, tokens, width), averaged down to at most ``most`` tokens; widths may
    differ.
    """
    student, teacher = match_sizes(student_tokens[-1], teacher_tokens[-1])
    if student.shape[1] > most:
        student, teacher = (_fewer(x, most) for x in (student, teacher))
    ours, theirs = (_relations(x, fused=fused) for x in (student, teacher))
    return torch.stack([kl_divergence(t, s).mean() for s, t in zip(ours, theirs, strict=True)]).sum()


@final
class VisibleTokens(nn.Module):
    """L1 of unit-length tokens at three quarters of the depth (DMAE, Bai et al. 2023, paper 6).

    Mean of |n(P s) - n(t)| over the tokens that stay visible, a random share of ``visible`` of them in each step (the
    paper's encoder sees no others; here the model sees all, and the loss those). P is an adapter where widths differ.
    Zero when the tokens agree up to their length. Sequences (samples, tokens, width).
    """

    def __init__(self, example: Example, *, visible: float = 0.25, depth: float = 0.75) -> None:
        super().__init__()
        self._visible, self._at = visible, round(depth * (len(example["student_tokens"]) - 1))
        tokens = example["student_tokens"][self._at], example["teacher_tokens"][self._at]
        self.adapter = make_adapter(*tokens, fitted=example.get("trained", False))

    def forward(self, student_tokens: list[Tensor], teacher_tokens: list[Tensor]) -> Tensor:
        student, teacher = match_sizes(self.adapter(as_float32(student_tokens[self._at])), teacher_tokens[self._at])
        count = student.shape[1]
        kept = torch.randperm(count)[: max(1, round(self._visible * count))].to(student.device)
        ours, theirs = (functional.normalize(x[:, kept], dim=-1, eps=TINY) for x in (student, teacher))
        return (ours - theirs).abs().mean()


@final
class LnHidden(nn.Module):
    """Smooth L1 to the teacher's last hidden tokens, normalised (G2SD, Huang et al. 2023, paper 36).

    Mean over all tokens and channels of smooth L1 (``beta``) of P s and LN(t); P is a linear layer, always there, since a
    student is not normalised. The released code multiplies a second such term, on the encoder, by 0; ``depth`` asks for
    another block. Sequences (samples, tokens, width).
    """

    def __init__(self, example: Example, *, beta: float = 2.0, depth: float = 1.0) -> None:
        super().__init__()
        self._beta, self._at = beta, round(depth * (len(example["student_tokens"]) - 1))
        student, teacher = example["student_tokens"][self._at], example["teacher_tokens"][self._at]
        self.adapter = nn.Linear(student.shape[-1], teacher.shape[-1])

    def forward(self, student_tokens: list[Tensor], teacher_tokens: list[Tensor]) -> Tensor:
        student, teacher = match_sizes(self.adapter(as_float32(student_tokens[self._at])), teacher_tokens[self._at])
        return functional.smooth_l1_loss(student, functional.layer_norm(teacher, teacher.shape[-1:]), beta=self._beta)


def _relations(tokens: Tensor, *, fused: bool) -> list[Tensor]:
    """Log-softmax of the tokens' products, each (samples * tokens, tokens)."""
    if fused:
        queries, keys, values = tokens.chunk(3, dim=-1)
        pairs = [(queries, keys), (values, values)]
    else:
        pairs = [(tokens, tokens)]
    products = [a @ b.transpose(1, 2) / a.shape[-1] ** 0.5 for a, b in pairs]
    return [functional.log_softmax(p, dim=-1).flatten(0, 1) for p in products]


def _fewer(tokens: Tensor, count: int) -> Tensor:
    return functional.adaptive_avg_pool1d(tokens.transpose(1, 2), count).transpose(1, 2)
