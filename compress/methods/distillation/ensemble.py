"""Teacher ensembles and flip averaging: the weighted mean of class probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from profiles.errors import UserError

HALF = math.log(0.5)


@final
class TeacherEnsemble(nn.Module):
    """Teacher ensemble: log of the weighted mean of the teachers' class probabilities, (samples, classes) or of each pixel.

    Losses that read a teacher's inside read the first's, which is called last, so that what is found by the order of calls
    is its own.

    Args:
        shares: above 0; they are scaled to sum to 1.
        maps: whether outputs are (samples, classes, rows, columns), as those of segmentation; enlarged to the first's size.

    Raises:
        UserError: (when called) a teacher's outputs are not one distribution a sample, as those of classification are.
    """

    def __init__(self, teachers: Sequence[nn.Module], shares: Sequence[float], *, maps: bool = False) -> None:
        super().__init__()
        self._maps = maps
        self.teachers = nn.ModuleList(teachers)
        self._logs = [torch.tensor(share / sum(shares)).log().item() for share in shares]

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Map (samples, ...) to log probabilities, (samples, classes) or (samples, classes, rows, columns)."""
        logits = [_logits(teacher(*inputs, **named), maps=self._maps) for teacher in reversed(self.teachers)]
        size = logits[-1].shape[2:]
        resized = [z if z.shape[2:] == size else functional.interpolate(z, size, mode="bilinear") for z in logits]
        return _mean(resized, list(reversed(self._logs)))


@final
class FlipAveraging(nn.Module):
    """Flip averaging: log of the mean of class probabilities of an image and its mirror image, (samples, classes).

    With ``maps`` those of each pixel, (samples, classes, rows, columns), the mirror's turned back. The image itself comes
    last, so that what losses read of the teacher's inside is of it.

    Raises:
        UserError: (when called) the outputs are not one distribution a sample, or the inputs are no images.
    """

    def __init__(self, teacher: nn.Module, *, maps: bool = False) -> None:
        super().__init__()
        self._maps = maps
        self.teacher = teacher

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (samples, channels, height, width) to log probabilities, (samples, classes) or of each pixel."""
        if inputs.dim() != 4:
            shape = tuple(inputs.shape)
            raise UserError(f"[teacher] mirrored is for images, (samples, channels, height, width); given: {shape}")
        mirror = _logits(self.teacher(inputs.flip(-1)), maps=self._maps)
        mirror = mirror.flip(-1) if self._maps else mirror
        return _mean([mirror, _logits(self.teacher(inputs), maps=self._maps)], [HALF, HALF])


def _mean(logits: Sequence[Tensor], logs: Sequence[float]) -> Tensor:
    """Compute the log of the weighted mean of distributions given as logits, by the logs of their shares."""
    shares = [z.float().log_softmax(dim=1) + log for z, log in zip(logits, logs, strict=True)]
    return torch.logsumexp(torch.stack(shares), dim=0)


def _logits(outputs: object, *, maps: bool) -> Tensor:
    tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    if len(tensors) != 1 or tensors[0].dim() != (4 if maps else 2):
        shapes = [tuple(leaf.shape) for leaf in tensors]
        kinds = "(samples, classes), or of segmentation (samples, classes, rows, columns)"
        fault = f"several teachers, and a mirrored one, are for classification and segmentation: one output {kinds}"
        raise UserError(f"{fault}; given: {shapes}")
    return tensors[0]
