"""Losses on relations between samples, channels or places of a batch."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.adapters import Adapters
from compress.losses.base import (
    TINY,
    Example,
    Temperature,
    as_float32,
    flatten_places,
    kl_divergence,
    log_probabilities,
    match_sizes,
    split_labels,
)


def sp(student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
    """Compute the distance of the samples' similarity matrices (SP, Tung and Mori 2019, equation 4; paper 12).

    |n(G_S) - n(G_T)|^2 / samples^2 with G = F F^T of the flattened maps and n a row's unit length, summed over pairs:
    blind to channels, resolution and scale. Maps of shape (samples, channels, height, width). The paper's weight is 3000.
    """
    pairs = zip(student_features, teacher_features, strict=True)
    return torch.stack([_apart(s.flatten(1), t.flatten(1)) for s, t in pairs]).sum()


@final
class Ickd(nn.Module):
    """Distance of the channels' similarity matrices (ICKD, Liu et al. 2021).

    |n(G_S) - n(G_T)|^2 / (channels * samples) with G = F F^T over space, a matrix a sample, rows of unit length, summed
    over pairs; an adapter where channels differ. Blind to where in the map a channel answers. Maps (samples, channels,
    height, width).
    """

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.adapters = Adapters.of(example, "features")

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        losses = []
        for s, t in self.adapters(student_features, teacher_features):
            ours, theirs = (_unit(x.flatten(2) @ x.flatten(2).transpose(1, 2)) for x in (s, t))
            losses.append((ours - theirs).square().sum() / (s.shape[1] * s.shape[0]))
        return torch.stack(losses).sum()


def rkd(student_embedding: Tensor, teacher_embedding: Tensor, *, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Compute the distances of pairs and angles of triples of embeddings (RKD, Park et al. 2019).

    ``distance`` * smooth L1 of the distances over their mean + ``angle`` * smooth L1 of the cosines at each sample
    between each two others: blind to scale, shift and rotation. Embeddings of shape (samples, width); widths may differ.
    """
    student, teacher = as_float32(student_embedding), as_float32(teacher_embedding)
    near = functional.smooth_l1_loss(_distances(student), _distances(teacher))
    turned = functional.smooth_l1_loss(_angles(student), _angles(teacher))
    return distance * near + angle * turned


def diswot(
    student_features: list[Tensor],
    teacher_features: list[Tensor],
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    targets: Tensor,
) -> Tensor:
    """Compute the sum of both DisWOT metrics (Dong et al. 2023, paper 12).

    Relation: as 'sp' on the last pair of maps. Semantic: |n(E_S) - n(E_T)|^2 / classes^2 with E = g g^T of the
    cross-entropy's gradient g by the last layer's weight, which is (softmax - one-hot)^T f / samples; over classes,
    (classes, classes), so that widths may differ: the paper's E over channels asks for equal ones. The released searches
    use one metric each; this is the sum. Maps (samples, channels, height, width), logits (samples, classes), embeddings
    (samples, width), targets (samples,).
    """
    relation = _apart(student_features[-1].flatten(1), teacher_features[-1].flatten(1))
    where, known = split_labels(student_logits, targets)
    grams = []
    for logits, embedding in ((student_logits, student_embedding), (teacher_logits, teacher_embedding)):
        wrong = (flatten_places(logits).softmax(1) - functional.one_hot(where, logits.shape[-1])) * known[:, None]
        slope = wrong.T @ as_float32(embedding) / max(1, len(wrong))
        grams.append(_unit(_unit(slope) @ _unit(slope).T))
    return relation + (grams[0] - grams[1]).square().sum() / grams[0].shape[0] ** 2


def affinity(student_embedding: Tensor, teacher_embedding: Tensor, *, scale: float = 50.0) -> Tensor:
    """Compute the cross-entropy of the samples' affinities (TinyCLIP, Wu et al. 2023, paper 53).

    Each sample's softmax over the others of ``scale`` * cosine, teacher against student. The paper's affinities are those
    of images with texts, both ways; with one tower the matrix is symmetric and its diagonal, always 1, is left out. Least
    at the teacher; blind to scale and rotation. Embeddings of shape (samples, width); widths may differ.
    """
    student, teacher = (_affinities(as_float32(e), scale) for e in (student_embedding, teacher_embedding))
    return -(teacher.exp() * student).sum(dim=1).mean()


def edges(
    student_logits: Tensor,
    teacher_logits: Tensor,
    teacher_embedding: Tensor,
    *,
    neighbours: int = 4,
    temperature: Temperature = 1.5,
    low: float = 1.0,
    high: float = 1.0,
) -> Tensor:
    """Compute KL of neighbours' predictions and of their differences (FF-G2M, Wu et al. 2023, paper 71).

    ``low`` * KL(softmax(t_j) || softmax(s_i)) + ``high`` * KL of softmax(|z_i - z_j| / T) of teacher and student, mean
    over samples i and their ``neighbours`` nearest j. The paper's neighbours are a graph's; here they are nearest by the
    cosine of the teacher's embeddings in the batch. Logits (samples, classes), embeddings (samples, width).
    """
    student, teacher = flatten_places(student_logits), flatten_places(teacher_logits)
    cosine = _unit(as_float32(teacher_embedding))
    near = (cosine @ cosine.T).fill_diagonal_(-2).topk(min(neighbours, len(cosine) - 1), dim=1).indices
    mine = torch.arange(len(near), device=near.device)[:, None].expand_as(near).flatten()
    other = near.flatten()
    shared = kl_divergence(log_probabilities(teacher)[other], log_probabilities(student)[mine]).mean()
    ours, theirs = (log_probabilities((z[mine] - z[other]).abs(), temperature) for z in (student, teacher))
    return low * shared + high * kl_divergence(theirs, ours).mean()


def self_similarity(student_features: list[Tensor], teacher_features: list[Tensor], *, side: int = 7) -> Tensor:
    """Compute the distance of the regions' cosine similarities in each image (MGD, Qin et al. 2022, paper 37; 46).

    Maps averaged down to ``side`` x ``side`` regions; mean square of the difference of the cosines of each two regions,
    summed over pairs: blind to channels and scale. Maps (samples, channels, height, width). The paper's weight is 100.
    """
    losses = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        s, t = match_sizes(student, teacher)
        size = (min(side, s.shape[2]), min(side, s.shape[3]))
        cosines = []
        for x in (s, t):
            regions = functional.normalize(functional.adaptive_avg_pool2d(x, size).flatten(2), dim=1, eps=TINY)
            cosines.append(regions.transpose(1, 2) @ regions)
        losses.append((cosines[0] - cosines[1]).square().mean())
    return torch.stack(losses).sum()


def _apart(student: Tensor, teacher: Tensor) -> Tensor:
    """|n(G_S) - n(G_T)|^2 / samples^2 of (samples, anything)."""
    # scaled first: the product of large activations with themselves is not finite
    ours, theirs = (_unit(x @ x.T) for x in (_scaled(as_float32(student)), _scaled(as_float32(teacher))))
    return (ours - theirs).square().sum() / len(ours) ** 2


def _scaled(values: Tensor) -> Tensor:
    return values / values.detach().abs().amax().clamp(min=TINY)


def _unit(values: Tensor) -> Tensor:
    return functional.normalize(values, dim=-1, eps=TINY)


def _distances(points: Tensor) -> Tensor:
    """Distances of each two points over their mean, (samples, samples)."""
    squares = (points[:, None] - points[None]).square().sum(dim=-1)
    apart = squares.clamp(min=TINY).sqrt() * (1 - torch.eye(len(points), device=points.device, dtype=points.dtype))
    count = max(1, len(points) * (len(points) - 1))
    return apart / (apart.sum() / count).clamp(min=TINY)


def _angles(points: Tensor) -> Tensor:
    """Cosine at j of i and k, (j, i, k)."""
    towards = functional.normalize(points[None] - points[:, None], dim=2, eps=TINY)
    return towards @ towards.transpose(1, 2)


def _affinities(points: Tensor, scale: float) -> Tensor:
    """Log-softmax of ``scale`` * cosine over the other samples, (samples, samples - 1)."""
    unit = _unit(points)
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return functional.log_softmax((scale * unit @ unit.T)[others].reshape(len(unit), len(unit) - 1), dim=1)
