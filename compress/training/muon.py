"""Muon (Jordan et al. 2024): kernels move along orthogonal matrices, all else by SGD.

The momentum of a kernel, as matrix (outputs, inputs x kernel), is replaced by the orthogonal matrix nearest to it, so
that no direction of it learns faster than the others: UV' of its singular value decomposition USV', approached by three
Newton-Schulz iterations. As in Jordan's airbench each kernel keeps its norm: a step turns it by about the learning rate,
whatever its scale, and weight decay has nothing to hold back.

torch.optim.Muon takes matrices only, iterates in bf16, which a CPU without bf16 arithmetic emulates (0.98 s for one
224x2016 kernel here), and lets norms grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

ITERATIONS = 3
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan's: they raise small singular values fastest, and leave all between about 0.7 and 1.2."""

MOMENTUM = 0.6
"""Of the kernels, airbench's; the rest keeps SGD's 0.9."""


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximate the orthogonal matrix nearest to ``matrix`` (rows, columns) by Newton-Schulz steps; zeros stay zeros."""
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def hidden_kernels(module: nn.Module) -> list[nn.Parameter]:
    """List the weights of convolutions and linear layers that Muon is for, in the order of definition.

    Not the first and the last layer, which take pictures and give logits; not grouped convolutions, whose groups are
    matrices of their own, too small to gain; not kernels of zeros, which have no norm to keep.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    inner = [m for m in layers[1:-1] if getattr(m, "groups", 1) == 1]
    kernels = [weight for m in inner for name, weight in m.named_parameters(recurse=False) if name == "weight"]
    return [kernel for kernel in kernels if kernel.requires_grad and bool(kernel.any())]


@final
class Muon(torch.optim.Optimizer):
    """SGD with Nesterov's momentum; in groups with ``turns`` along orthogonal matrices, norms kept."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "turns": False, "weight_decay": 0.0, "momentum": 0.9})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients; parameters without one stay."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                step = self._momentum(parameter, group)
                if group["turns"]:
                    _turn(parameter, step, group["lr"])
                else:
                    parameter.add_(step, alpha=-group["lr"])

    def _momentum(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        return gradient.add(buffer, alpha=group["momentum"])


def _turn(kernel: nn.Parameter, step: Tensor, rate: float) -> None:
    """Move ``kernel`` by ``rate`` of its norm along the orthogonal matrix of ``step``, and back to its norm."""
    norm = kernel.norm()
    direction = orthogonalize(step.flatten(1))
    rank = min(direction.shape)
    kernel.add_(direction.view(kernel.shape) * (norm / rank**0.5), alpha=-rate)
    kernel.mul_(norm / kernel.norm().clamp(min=1e-12))
