"""Several teachers as one: the weighted mean of what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from profiles.errors import UserError


@final
class Committee(nn.Module):
    """Log of the weighted mean of the teachers' class probabilities, (samples, classes).

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

    def forward(self, inputs: Tensor) -> Tensor:
        said = [_logits(teacher(inputs)) for teacher in reversed(self.teachers)]
        logs = [z.float().log_softmax(dim=-1) + log for z, log in zip(said, reversed(self._logs), strict=True)]
        return torch.logsumexp(torch.stack(logs), dim=0)


def _logits(outputs: object) -> Tensor:
    found = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    if len(found) != 1 or found[0].dim() != 2:
        shapes = [tuple(leaf.shape) for leaf in found]
        raise UserError(f"several teachers are for classification: one output of shape (samples, classes); given: {shapes}")
    return found[0]
