"""Feature distillation of factorised blocks, and a bound on the factors' product (PELA, paper 40).

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
from compress.models.inputs import ModelInputs
from compress.models.layers import first_tensor


def compared_blocks(module: nn.Module, example: ModelInputs) -> list[str]:
    """List the paths that PELA compares: the outermost numbered modules, or the last of each resolution without any."""
    return ModuleLayers.of(module, example).blocks()


@contextmanager
def distil_blocks(module: nn.Module, before: nn.Module, paths: Sequence[str], weight: float) -> Iterator[None]:
    """Add the gradient of the blocks' distance from ``before`` to each backward pass within the block.

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
    """Make a hook that adds the gradient of one block's distance to that of its output."""

    def hook(block: nn.Module, given: Any, output: Any) -> None:
        features = first_tensor(output)
        if wanted and features is not None and features.requires_grad:
            pull = 2 * weight / features.numel() * (features.detach().float() - wanted[index].float())
            features.register_hook(lambda gradient: gradient + pull.to(gradient))

    return hook


@final
@dataclass(frozen=True)
class FactorPair:
    """Two factors and the weight that they replace: (rank, inputs), (outputs, rank) and (outputs, inputs)."""

    first: nn.Parameter
    second: nn.Parameter
    whole: Tensor


@contextmanager
def bound_perturbation(pairs: Sequence[FactorPair], weight: float, bound: float) -> Iterator[None]:
    """Add the gradient of the bound on the factors' product to each backward pass within the block."""
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


def bound_gradients(pair: FactorPair, bound: float) -> tuple[Tensor, Tensor]:
    """Compute the gradients of ``(max |W2 W1 - W| - bound) ** 2`` to W1 and W2, in their shapes."""
    first, second = pair.first.detach().flatten(1), pair.second.detach().flatten(1)
    error = second @ first - pair.whole.to(first).flatten(1)
    row, column = divmod(int(error.abs().argmax()), error.shape[1])
    largest = error[row, column]
    pull = 2 * (largest.abs() - bound) * largest.sign()
    to_first, to_second = torch.zeros_like(first), torch.zeros_like(second)
    to_first[:, column], to_second[row] = pull * second[row], pull * first[:, column]
    return to_first.reshape(pair.first.shape), to_second.reshape(pair.second.shape)


def _adder(pair: FactorPair, which: int, weight: float, bound: float) -> Any:
    return lambda gradient: gradient + weight * bound_gradients(pair, bound)[which]
