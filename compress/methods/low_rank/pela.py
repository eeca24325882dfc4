"""Blocks held near what they were (PELA, paper 40): a module learns to make the features of the one that it replaces.

    L = weight * mean over blocks of  mean ( f_student - f_before ) ^ 2

Both see the same batch. The loss acts on the blocks' outputs themselves, so its gradient is written out and added where it
arises: dL/df_student = weight * 2 (f_student - f_before) / (blocks x elements of f).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.models.features import FeatureHooks, ModuleLayers
from compress.models.layers import first_tensor


def blocks_of(module: nn.Module, example: Tensor) -> list[str]:
    """Paths of what PELA compares: the outermost numbered modules, or the ends of each resolution where there are none."""
    return ModuleLayers.of(module, example).blocks()


@contextmanager
def blocks_near(module: nn.Module, before: nn.Module, paths: Sequence[str], weight: float) -> Iterator[None]:
    """While the block lasts, each training pass of ``module`` runs ``before`` too, and its backward adds the gradient.

    Args:
        before: frozen; has the same paths, whose outputs have the same shapes.
    """
    handles: list[Any] = []
    wanted: list[Tensor] = []
    if weight > 0 and paths:
        taps = FeatureHooks(before, paths)

        def ask(student: nn.Module, given: tuple[Any, ...]) -> None:
            wanted.clear()
            if torch.is_grad_enabled() and student.training:
                with torch.no_grad(), taps:
                    before.to(given[0].device)(*given)
                    wanted.extend(taps.features())

        handles = [module.register_forward_pre_hook(ask)]
        handles += [
            module.get_submodule(path).register_forward_hook(_puller(wanted, index, weight / len(paths)))
            for index, path in enumerate(paths)
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _puller(wanted: list[Tensor], index: int, weight: float) -> Any:
    """Adds the gradient of one block's distance to what comes back to its output."""

    def hook(block: nn.Module, given: Any, output: Any) -> None:
        made = first_tensor(output)
        if wanted and made is not None and made.requires_grad:
            pull = 2 * weight / made.numel() * (made.detach().float() - wanted[index].float())
            made.register_hook(lambda gradient: gradient + pull.to(gradient))

    return hook


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
