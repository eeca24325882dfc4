"""Differentiable quantisation: the few values that a layer's weights may take, learned by gradient (Polino et al. 2018).

Each weight takes the nearest point of its bucket's range, and the points move (section 4); so do the weights where they may
(quantized distillation, section 3). Points start where the squared error is least, not at the quantiles as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deploy.packing.indices import BUCKET, PackedTensor, fitted_points, pack

MOST_BITS = 8
__all__ = [
    "PackedTensor",
    "Points",
    "attach_points",
    "bits_by_gradient",
    "detach_points",
    "gradient_norms",
    "pack_evenly",
    "pack_fitted",
]


@final
class Points(nn.Module):
    """Parametrisation of a weight by points of its buckets' ranges; a point's gradient sums its weights', times their span.

    A weight that asks for a gradient gets that of its point, straight through, and so can move on to another one.

    Args:
        weight: float, of any shape.
        bits: 2 ** bits points, which start where the squared error of the weight is least.
    """

    def __init__(self, weight: Tensor, bits: int, bucket: int = BUCKET) -> None:
        super().__init__()
        self.bits, self.bucket = bits, bucket
        self.points = nn.Parameter(torch.from_numpy(fitted_points(weight.detach().numpy(), bits, bucket)))
        start = pack(weight.detach().numpy(), bits, bucket=bucket)
        which = torch.arange(weight.numel()) // bucket
        self.low: Tensor
        self.span: Tensor
        self.register_buffer("low", torch.from_numpy(start.low)[which].reshape(weight.shape))
        self.register_buffer("span", torch.from_numpy(start.span)[which].reshape(weight.shape))

    def forward(self, weight: Tensor) -> Tensor:
        """Round a weight to the points of its buckets' ranges; same shape."""
        ordered = self.points.sort().values
        scaled = (weight.detach() - self.low) / self.span.clamp_min(torch.finfo(torch.float32).tiny)
        middles = (ordered[:-1] + ordered[1:]).detach() / 2
        rounded: Tensor = self.low + self.span * ordered[torch.searchsorted(middles, scaled.contiguous())]
        return rounded + (weight - weight.detach()) if weight.requires_grad else rounded

    def packed(self, weight: Tensor) -> PackedTensor:
        """Pack ``weight`` with the current points, in the ranges that it had when this was built."""
        low, span = (each.flatten()[:: self.bucket].numpy() for each in (self.low, self.span))
        return pack(weight.detach().numpy(), self.bits, self.points.detach().numpy(), self.bucket, (low, span))


def attach_points(module: nn.Module, bits: Mapping[str, int], bucket: int = BUCKET, *, points_alone: bool = True) -> None:
    """Parametrise parameters of a module, by name, with points of so many bits.

    Args:
        points_alone: whether from now on nothing but points asks for gradients.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.requires_grad and not points_alone)
    for name, number in bits.items():
        layer, leaf = _owner(module, name)
        points = Points(getattr(layer, leaf), number, bucket)
        parametrize.register_parametrization(layer, leaf, points)


def detach_points(module: nn.Module, names: Iterable[str]) -> dict[str, PackedTensor]:
    """Undo ``attach_points``: set each of these parameters to its points' values, and return them packed."""
    packed: dict[str, PackedTensor] = {}
    for name in names:
        layer, leaf = _owner(module, name)
        held = layer.parametrizations[leaf]  # type: ignore[index]
        assert isinstance(held, parametrize.ParametrizationList) and isinstance(held[0], Points)
        packed[name] = held[0].packed(held.original)
        parametrize.remove_parametrizations(layer, leaf, leave_parametrized=False)
        with torch.no_grad():
            getattr(layer, leaf).copy_(torch.from_numpy(packed[name].unpack()))
    return packed


def pack_evenly(weight: Tensor, bits: int, bucket: int = BUCKET) -> PackedTensor:
    """Pack a weight on evenly spaced points."""
    return pack(weight.detach().numpy(), bits, None, bucket)


def pack_fitted(weight: Tensor, bits: int, bucket: int = BUCKET) -> PackedTensor:
    """Pack a weight on the points of least squared error."""
    values = weight.detach().numpy()
    return pack(values, bits, fitted_points(values, bits, bucket), bucket)


def gradient_norms(module: nn.Module, names: Iterable[str], losses: Iterable[Tensor]) -> dict[str, float]:
    """Compute the norm of each parameter's gradient of the summed ``losses``, one of which is in memory at a time."""
    module.zero_grad(set_to_none=True)
    parameters = {name: module.get_parameter(name).requires_grad_() for name in names}
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    norms = {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in parameters.items()}
    module.zero_grad(set_to_none=True)
    return norms


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def bits_by_gradient(norms: Mapping[str, float], bits: int) -> dict[str, int]:
    """Share out bits over layers, ``bits`` on average, by the norm of the loss's gradient.

    What is shared out are points, as the callers of the released code do: half of 2 ** bits for each layer, the other half
    of all by share of the norms. The bits of a layer are the logarithm of its points, rounded so that they are ``bits`` on
    average (largest remainders first, then largest norms); from 1 to 8.

    Raises:
        ValueError: ``bits`` is below 2, so that a layer might get none.
    """
    if bits < 2:
        raise ValueError(f"bits to share out are 2 on average at least; given: {bits}")
    total = sum(norms.values())
    shares = {name: norm / total if total else 1 / len(norms) for name, norm in norms.items()}
    points = {name: 2.0 ** (bits - 1) * (1 + len(norms) * share) for name, share in shares.items()}
    exact = {name: math.log2(count) for name, count in points.items()}
    shared = {name: min(MOST_BITS, math.floor(value)) for name, value in exact.items()}
    order = sorted(norms, key=lambda name: (shared[name] - exact[name], -norms[name]))
    while sum(shared.values()) < bits * len(norms):
        for name in [name for name in order if shared[name] < MOST_BITS][: bits * len(norms) - sum(shared.values())]:
            shared[name] += 1
    return shared
