"""Vocabulary of the losses' inputs, and functions shared by losses."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, ParamSpec, final

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional

from deploy.files.npz import ArraysError, read_array
from profiles.errors import UserError

VOCABULARY = (
    "student_logits",
    "teacher_logits",
    "plain_logits",
    "again_logits",
    "student_features",
    "teacher_features",
    "student_tokens",
    "teacher_tokens",
    "student_blocks",
    "teacher_blocks",
    "student_embedding",
    "teacher_embedding",
    "student_boxes",
    "teacher_boxes",
    "student_distributions",
    "teacher_distributions",
    "student_keypoints",
    "teacher_keypoints",
    "student_coefficients",
    "teacher_coefficients",
    "student_prototypes",
    "teacher_prototypes",
    "targets",
    "task_loss",
    "indices",
    "progress",
    "epoch",
)

Example = Mapping[str, Any]
"""What a loss reads, on some samples: shapes for a loss that has parts of its own. Also ``samples``, how many there are to
train on, and ``trained``, whether the student works already, so that parts may be fitted to what is shown."""

TINY = 1e-8

UNTAGGED = -2
"""Target of a word whose tag is unknown; -1 is that of a token that begins no word."""

Temperature = Annotated[float, Gt(0)]
"""Temperature of softened class probabilities."""


P = ParamSpec("P")


@final
class PerSampleLoss(Generic[P]):
    """Decorator for a function of values for each place: the loss is their mean over the places that count.

    Attributes:
        each: the loss of each place and whether it counts, both (places,): of logits (samples, classes) a sample is a place.
    """

    def __init__(self, each: Callable[P, tuple[Tensor, Tensor]]) -> None:
        self.each = each
        functools.update_wrapper(self, each)

    def __call__(self, *given: P.args, **options: P.kwargs) -> Tensor:
        return masked_mean(*self.each(*given, **options))


class TwoHeaded(nn.Module):
    """Loss with a second classifier on the student's embedding; subclasses are final.

    Attributes:
        head: (samples, width) to (samples, classes). The stage ``distill`` can make it part of the model (``mixture``).
    """

    head: nn.Linear


def as_float32(values: Tensor) -> Tensor:
    """Cast ``values`` to float32, and leave float64: in lower precision differences are noise."""
    return values if values.dtype == torch.float64 else values.float()


def flatten_places(logits: Tensor) -> Tensor:
    """Reshape logits (samples, ..., classes) to (places, classes), in float32 at least."""
    return as_float32(logits).reshape(-1, logits.shape[-1])


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the log of the softened class probabilities, (places, classes)."""
    return functional.log_softmax(flatten_places(logits) / temperature, dim=-1)


def kl_divergence(target: Tensor, given: Tensor) -> Tensor:
    """Compute KL(target || given) of log-probabilities, (places, classes) to (places,)."""
    return (target.exp() * (target - given)).sum(dim=-1)


def cross_entropy(target: Tensor, given: Tensor) -> Tensor:
    """Compute -sum over classes of target times given: probabilities, log-probabilities (places, classes) to (places,)."""
    return -(target * given).sum(dim=-1)


def split_labels(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Split targets into labels (places,), 0 where there is none, and a mask (places,) of the places with one.

    Raises:
        UserError: the task's targets are not one label a place.
    """
    if targets.shape != logits.shape[:-1] or targets.is_floating_point():
        raise UserError(
            f"a loss reads one class label a place, so targets of shape {tuple(logits.shape[:-1])} for logits of "
            f"{tuple(logits.shape)}; this task's are {tuple(targets.shape)}; use the losses 'task', 'kd' or 'bce_kd'"
        )
    flat = targets.reshape(-1)
    return flat.clamp(min=0), flat >= 0


def all_counted(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``values`` and a mask that counts each of them."""
    return values, torch.ones_like(values, dtype=torch.bool)


def masked_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Compute the mean of ``values`` where ``chosen`` is true; 0 where none is."""
    return torch.where(chosen, values, torch.zeros_like(values)).sum() / chosen.sum().clamp(min=1)


def match_sizes(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Average both to the smaller size, in float32 at least: maps over areas, tokens over neighbours; vectors stay.

    Maps are (samples, channels, height, width), tokens (samples, tokens, width), vectors (samples, width).
    """
    ours, theirs = as_float32(ours), as_float32(theirs)
    if ours.dim() == 4:
        size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
        return _pooled(ours, size), _pooled(theirs, size)
    if ours.dim() == 3 and ours.shape[1] != theirs.shape[1]:
        count = min(ours.shape[1], theirs.shape[1])
        fewer = [functional.adaptive_avg_pool1d(x.transpose(1, 2), count).transpose(1, 2) for x in (ours, theirs)]
        return fewer[0], fewer[1]
    return ours, theirs


def pyramid_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean square at full size and at 4, 2 and 1 places a side, weights 1, 1/2, 1/4, 1/8 over their sum.

    Maps (samples, channels, height, width) of one shape (the HCL of ReviewKD, Chen et al. 2021).
    """
    sizes = [n for n in (4, 2, 1) if n < student.shape[2]]
    pairs = [(student, teacher), *((_pooled(student, (n, n)), _pooled(teacher, (n, n))) for n in sizes)]
    weights = [0.5**number for number in range(len(pairs))]
    parts = [weight * functional.mse_loss(s, t) for weight, (s, t) in zip(weights, pairs, strict=True)]
    return torch.stack(parts).sum() / sum(weights)


def _pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else functional.adaptive_avg_pool2d(maps, size)


def cells_inside(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Return which cells of a map have their middle in boxes (boxes, 4), corners in cells; (boxes, rows, columns)."""
    y, x = (torch.arange(n, dtype=boxes.dtype, device=boxes.device) + 0.5 for n in (rows, columns))
    left, top, right, bottom = boxes[:, :, None].unbind(dim=1)
    across, down = (x >= left) & (x < right), (y >= top) & (y < bottom)
    return down[:, :, None] & across[:, None]


def load_npy(loss: str, option: str, path: str | Path) -> Tensor:
    """Read a .npy file of numbers in float32, variables of the environment filled in.

    Raises:
        UserError: it is not there, or is no such file.
    """
    try:
        table = read_array(Path(os.path.expandvars(path)))
    except (OSError, ArraysError) as error:
        raise UserError(f"loss {loss}: {option} is a .npy file of numbers; given: {str(path)!r} ({error})") from None
    return torch.from_numpy(table.astype(np.float32))


def of_all_processes(values: Tensor) -> Tensor:
    """Concatenate what the processes of a training have, (samples, ...) each, in their order; ``values`` itself in one.

    What a loss remembers is learned from this, so that it is the same in every process, and as of the whole batch in one. It
    is without gradient; every process calls it, with the same shape.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    own = values.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own)
    return torch.cat(parts)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingStep:
    """Place of one batch in a training.

    Attributes:
        step: counted from 0.
        epoch: counted from 0.
        progress: share of all steps that are done, 0 to 1.
        indices: which samples of the training split these are, (samples,).
        plain: the same samples not augmented; only where a loss reads ``plain_logits``.
    """

    step: int = 0
    epoch: int = 0
    progress: float = 0.0
    indices: Tensor | None = None
    plain: Any = None
