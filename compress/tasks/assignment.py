"""Task-aligned assignment of objects to places of a detector (TOOD, Feng et al. 2021, section 3.2).

Two things differ, both for small and rare objects, which otherwise are not learnt in short trainings: the overlap counts
to the power 3 instead of 6, and the best place of an object shall say 1, not the overlap it has reached, which for a
small object stays little and so would teach little.

N = samples, P = places of all maps, M = most objects in a sample, C = classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.losses.boxes import intersection_and_union

MOST_PLACES = 10
"""Places that learn to answer for an object."""

SCORE_POWER, OVERLAP_POWER = 0.5, 3.0
LEAST = 1e-9


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Targets of each place.

    Attributes:
        scores: (N, P, C), from 0 to 1: 1 for the best place of an object and its class, less for its other places.
        boxes: (N, P, 4), of the object that a place answers for; meaningless where it answers for none.
        owners: (N, P), which object that is.
    """

    scores: Tensor
    boxes: Tensor
    owners: Tensor


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, places: Tensor, targets: Tensor) -> Assignment:
    """Assign each object to the places inside it whose score and box fit best.

    Args:
        scores: predicted probabilities (N, P, C).
        boxes: predicted corners (N, P, 4), in pixels.
        places: centre x, centre y and stride of each place (P, 3), in pixels.
        targets: (N, M, 5 or more), [label, x1, y1, x2, y2, ...], label -1 for none.
    """
    count, total, classes = scores.shape
    labels = targets[..., 0].clamp(min=0).long()
    fits = _in(places, targets) & (targets[..., 0] >= 0)[..., None]  # (N, M, P)
    shared, union = intersection_and_union(targets[:, :, None, 1:5], boxes[:, None])
    ious = shared / union * fits
    score = scores.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, total))
    # A box that is far off everywhere still has places: LEAST keeps them apart from those outside the object.
    aligned = (score**SCORE_POWER * ious**OVERLAP_POWER + LEAST) * fits
    best = aligned.topk(min(MOST_PLACES, total), dim=-1).indices
    chosen = torch.zeros_like(fits).scatter_(-1, best, value=True) & fits
    owner = torch.where(chosen, ious + LEAST, 0.0).argmax(dim=1)  # (N, P)
    chosen &= torch.zeros_like(fits).scatter_(1, owner[:, None], value=True)
    strength = aligned * chosen
    strength = strength / strength.amax(dim=-1, keepdim=True).clamp(min=LEAST)
    answers = strength.gather(1, owner[:, None]).squeeze(1)
    rows = owner[..., None]
    wanted = torch.zeros(count, total, classes, dtype=scores.dtype, device=scores.device)
    wanted.scatter_(2, labels.gather(1, owner)[..., None], answers[..., None].to(scores.dtype))
    return Assignment(scores=wanted, boxes=targets[..., 1:5].gather(1, rows.expand(-1, -1, 4)), owners=owner)


def _in(places: Tensor, targets: Tensor) -> Tensor:
    """Whether a place's centre lies in an object, or within half a stride of its middle: (N, M, P).

    The second gives every object, however small, a place on each map.
    """
    middle = (targets[..., 1:3] + targets[..., 3:5]) / 2
    half = (targets[..., 3:5] - targets[..., 1:3]) / 2
    reach = torch.maximum(half[:, :, None], places[None, None, :, 2:] / 2)
    off = (places[None, None, :, :2] - middle[:, :, None]).abs()
    return (off <= reach).all(dim=-1)
