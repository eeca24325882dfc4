"""The weight-perturbation bound of PELA (paper 40): factors are held near the weight that they stand for.

    L = weight * mean over pairs of ( max |W2 W1 - W| - bound ) ^ 2

Only the largest entry (i, j) has a gradient, so it is written out: with E = W2 W1 - W and s = 2 (|E_ij| - bound) sign(E_ij),
dL/dW2[i, :] = s W1[:, j] and dL/dW1[:, j] = s W2[i, :].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn


@final
@dataclass(frozen=True)
class Pair:
    """Two layers that stand for one weight: (rank, inputs), (outputs, rank), and the weight, (outputs, inputs)."""

    first: nn.Parameter
    second: nn.Parameter
    whole: Tensor


@contextmanager
def held_near(pairs: Sequence[Pair], weight: float, bound: float) -> Iterator[None]:
    """While the block lasts, each backward pass adds the bound's gradient."""
    handles: list[Any] = []
    if weight > 0 and pairs:
        for pair in pairs:
            handles += [
                pair.first.register_hook(_adder(pair, 0, weight / len(pairs), bound)),  # type: ignore[no-untyped-call]
                pair.second.register_hook(_adder(pair, 1, weight / len(pairs), bound)),  # type: ignore[no-untyped-call]
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gradients(pair: Pair, bound: float) -> tuple[Tensor, Tensor]:
    """Of ``(max |W2 W1 - W| - bound) ** 2`` to W1 and W2, in their shapes."""
    first, second = pair.first.detach().flatten(1), pair.second.detach().flatten(1)
    error = second @ first - pair.whole.to(first).flatten(1)
    row, column = divmod(int(error.abs().argmax()), error.shape[1])
    largest = error[row, column]
    pull = 2 * (largest.abs() - bound) * largest.sign()
    to_first, to_second = torch.zeros_like(first), torch.zeros_like(second)
    to_first[:, column], to_second[row] = pull * second[row], pull * first[:, column]
    return to_first.reshape(pair.first.shape), to_second.reshape(pair.second.shape)


def _adder(pair: Pair, which: int, weight: float, bound: float) -> Any:
    return lambda gradient: gradient + weight * gradients(pair, bound)[which]
