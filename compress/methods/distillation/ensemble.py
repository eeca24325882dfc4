"""Teacher ensembles and flip averaging: the weighted mean of class probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from profiles.errors import UserError

HALF = math.log(0.5)


@final
class TeacherEnsemble(nn.Module):
    """Teacher ensemble: log of the weighted mean of the teachers' class probabilities, (samples, classes).

    Losses that read a teacher's inside read the first's, which is called last, so that what is found by the order of calls
    is its own.

    Args:
        shares: above 0; they are scaled to sum to 1.

    Raises:
        UserError: (when called) a teacher's outputs are not one distribution a sample, as those of classification are.
    """

    def __init__(self, teachers: Sequence[nn.Module], shares: Sequence[float]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self._logs = [torch.tensor(share / sum(shares)).log().item() for share in shares]

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Map (samples, ...) to log probabilities, (samples, classes)."""
        logits = [_logits(teacher(*inputs, **named)) for teacher in reversed(self.teachers)]
        return _mean(logits, list(reversed(self._logs)))


@final
class FlipAveraging(nn.Module):
    """Flip averaging: log of the mean of class probabilities of an image and its mirror image, (samples, classes).

    The image itself comes last, so that what losses read of the teacher's inside is of it.

    Raises:
        UserError: (when called) the outputs are not one distribution a sample, or the inputs are no images.
    """

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (samples, channels, height, width) to log probabilities, (samples, classes)."""
        if inputs.dim() != 4:
            shape = tuple(inputs.shape)
            raise UserError(f"[teacher] mirrored is for images, (samples, channels, height, width); given: {shape}")
        mirror = _logits(self.teacher(inputs.flip(-1)))
        return _mean([mirror, _logits(self.teacher(inputs))], [HALF, HALF])


def _mean(logits: Sequence[Tensor], logs: Sequence[float]) -> Tensor:
    """Compute the log of the weighted mean of distributions given as logits, by the logs of their shares."""
    shares = [z.float().log_softmax(dim=-1) + log for z, log in zip(logits, logs, strict=True)]
    return torch.logsumexp(torch.stack(shares), dim=0)


def _logits(outputs: object) -> Tensor:
    tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    if len(tensors) != 1 or tensors[0].dim() != 2:
        shapes = [tuple(leaf.shape) for leaf in tensors]
        fault = "several teachers, and a mirrored one, are for classification: one output of shape (samples, classes)"
        raise UserError(f"{fault}; given: {shapes}")
    return tensors[0]
