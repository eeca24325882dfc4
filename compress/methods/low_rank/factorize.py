"""Low-rank factors of one layer: their structure, and their best weights.

``svd``       a linear or 1x1 layer W becomes two, W ~ (U sqrt(S)) (sqrt(S) V^T)  (PELA, paper 40). A convolution of one or
              three dimensions too: the first factor has its kernel, the second is 1x1 (Zhang et al. 2016, section 3.1).
``spatial``   a k x k convolution becomes k x 1 then 1 x k (Jaderberg et al. 2014, scheme 2), by SVD.
``tucker2``   a k x k convolution becomes 1x1, k x k, 1x1 over fewer channels (Kim et al. 2016), by HOSVD. One rank stands
              both sides; a side with fewer channels keeps them all.

Grouped and transposed convolutions have no factors here.
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

TINY = 1e-12
Kind = Literal["svd", "spatial", "tucker2"]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Layer = nn.Linear | Convolution
LAYERS = (nn.Linear, *CONVOLUTIONS)


def factor_kinds(layer: nn.Module) -> tuple[Kind, ...]:
    """List the factorisations that a layer has."""
    if isinstance(layer, nn.Linear):
        return ("svd",)
    if (
        not isinstance(layer, CONVOLUTIONS)
        or layer.groups != 1
        or layer.padding_mode != "zeros"
        or isinstance(layer.padding, str)
    ):
        return ()
    if set(layer.kernel_size) == {1}:
        return ("svd",)
    if not isinstance(layer, nn.Conv2d):
        return ("svd", "tucker2")
    return ("spatial", "tucker2") if min(layer.kernel_size) > 1 else ()


def count_macs(layer: Layer, kind: Kind | None, rank: int, pixels: int = 1) -> float:
    """Count the multiply-accumulates of a layer (``kind`` None) or its factors, for ``pixels`` output positions."""
    if isinstance(layer, nn.Linear):
        both = layer.in_features * layer.out_features
        return both if kind is None else rank * (layer.in_features + layer.out_features)
    inputs, outputs, places = layer.in_channels, layer.out_channels, math.prod(layer.kernel_size)
    if kind is None:
        return pixels * inputs * outputs * places
    if kind == "svd":
        return pixels * rank * (inputs * places + outputs)
    if kind == "spatial":  # the first factor keeps the full width
        return pixels * rank * (inputs * layer.kernel_size[0] * layer.stride[1] + outputs * layer.kernel_size[1])
    inner, outer = _sides(layer, rank)
    return pixels * (math.prod(layer.stride) * inner * inputs + inner * outer * places + outer * outputs)


def largest_rank(layer: Layer, kind: Kind) -> int:
    """Return the rank from which on the factors are the layer itself; a larger one has no meaning."""
    if isinstance(layer, nn.Linear):
        return min(layer.in_features, layer.out_features)
    inputs, outputs = layer.in_channels, layer.out_channels
    if kind == "svd":
        return min(inputs * math.prod(layer.kernel_size), outputs)
    if kind == "spatial":
        return min(inputs * layer.kernel_size[0], outputs * layer.kernel_size[1])
    return max(inputs, outputs)


def is_buildable(layer: Layer, kind: Kind, rank: int) -> bool:
    """Return whether factors of that kind and rank can be built and give outputs of the layer's shape.

    They are built without data (on torch's ``meta`` device), so that the answer costs no decomposition.
    """
    with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying between tensors without data does nothing, as it should
        whole = copy.deepcopy(layer).to("meta")
        try:
            inputs = torch.zeros(1, *_smallest_input(layer))
            return bool(factorize(whole, kind, rank)(inputs).shape == whole(inputs).shape)
        except (RuntimeError, ValueError, IndexError):
            return False


def _smallest_input(layer: Layer) -> tuple[int, ...]:
    """Return the shape of a sample on which the layer has two output positions along each side."""
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    spans = [d * (k - 1) + 1 + s for d, k, s in zip(layer.dilation, layer.kernel_size, layer.stride, strict=True)]
    return (layer.in_channels, *spans)


def _sides(layer: Convolution, rank: int) -> tuple[int, int]:
    """Return the inner channels of ``tucker2``: behind its first factor, and before its last one."""
    return min(rank, layer.in_channels), min(rank, layer.out_channels)


def build_factors(layer: Layer, kind: Kind, rank: int) -> nn.Sequential:
    """Build the factors of ``layer`` with ``rank`` inner channels, their weights not yet set."""
    if isinstance(layer, nn.Linear):
        return nn.Sequential(
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=layer.bias is not None),
        )
    inputs, outputs, bias = layer.in_channels, layer.out_channels, layer.bias is not None
    make: Any = next(kind_of for kind_of in CONVOLUTIONS if isinstance(layer, kind_of))
    kernel = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    if kind == "svd":
        return nn.Sequential(make(inputs, rank, *kernel, bias=False), make(rank, outputs, 1, bias=bias))
    if kind == "spatial":
        (height, width), (sh, sw), (ph, pw), (dh, dw) = (_pair(each) for each in kernel)
        return nn.Sequential(
            nn.Conv2d(inputs, rank, (height, 1), (sh, 1), (ph, 0), (dh, 1), bias=False),
            nn.Conv2d(rank, outputs, (1, width), (1, sw), (0, pw), (1, dw), bias=bias),
        )
    inner, outer = _sides(layer, rank)
    return nn.Sequential(
        make(inputs, inner, 1, bias=False),
        make(inner, outer, *kernel, bias=False),
        make(outer, outputs, 1, bias=bias),
    )


def factorize(layer: Layer, kind: Kind, rank: int) -> nn.Sequential:
    """Compute the factors of ``layer`` nearest to it in the Frobenius norm (``tucker2``: by HOSVD, near it)."""
    result = build_factors(layer, kind, rank)
    weight = layer.weight.detach().double()
    parts = {"svd": _both_sides, "spatial": _spatial, "tucker2": _tucker2}[kind](weight, rank)
    state = {f"{index}.weight": part for index, part in enumerate(parts)}
    if layer.bias is not None:
        state[f"{len(parts) - 1}.bias"] = layer.bias.detach()
    result.load_state_dict({name: value.reshape(result.state_dict()[name].shape) for name, value in state.items()})
    return result


def cut_factors(factors: nn.Sequential, layer: Layer, kind: Kind, rank: int) -> nn.Sequential:
    """Cut factors of ``layer`` to a smaller rank, without decomposing it anew.

    Singular vectors and those of HOSVD stand in order of their values, and a smaller rank takes the first of them; so the
    result is ``factorize(layer, kind, rank)``, for ``tucker2`` but for rounding.

    Args:
        factors: of the same layer and kind, of ``rank`` or more.

    Example:
        >>> layer = nn.Linear(8, 6)
        >>> [part.weight.shape[0] for part in cut_factors(factorize(layer, "svd", 5), layer, "svd", 2)]
        [2, 6]
    """
    result, wider = build_factors(layer, kind, rank), factors.state_dict()
    cuts = {name: wider[name][tuple(map(slice, value.shape))] for name, value in result.state_dict().items()}
    result.load_state_dict(cuts)  # refuses what is smaller than asked
    return result


def relative_error(layer: Layer, kind: Kind, rank: int) -> float:
    """Compute the Frobenius norm of the weight less its factors' product, over the norm of the weight."""
    weight = layer.weight.detach().double()
    state = factorize(layer, kind, rank).state_dict()
    tensors = [state[f"{index}.weight"].double() for index in range(3 if kind == "tucker2" else 2)]
    if kind == "svd":
        again = (tensors[1].flatten(1) @ tensors[0].flatten(1)).reshape(weight.shape)
    elif kind == "spatial":
        again = torch.einsum("orw,rih->oihw", tensors[1][:, :, 0], tensors[0][..., 0])
    else:
        core = torch.einsum("or,rsk,si->oik", tensors[2].flatten(1), tensors[1].flatten(2), tensors[0].flatten(1))
        again = core.reshape(weight.shape)
    return float((weight - again).norm() / weight.norm())


def _svd(matrix: Tensor, rank: int) -> list[Tensor]:
    """Split (outputs, inputs) into (rank, inputs) and (outputs, rank), the singular values' roots on both."""
    if len(matrix) > matrix.shape[1]:
        second, first = _svd(matrix.T, rank)
        return [first.T, second.T]
    u = _left(matrix)
    rows = u.T @ matrix
    root = rows.norm(dim=1, keepdim=True).sqrt()
    root = torch.maximum(root, TINY * root.max().clamp(min=TINY))
    return [(rows / root)[:rank], (u * root.T)[:, :rank]]


def _left(matrix: Tensor) -> Tensor:
    """Return the left singular vectors, those of the largest values first: eigenvectors of ``matrix matrix^T``.

    A decomposition of the matrix itself took four times as long with a row for two columns (1,024 by 2,304), and of the
    first layer of VGG's classifier minutes; in double precision the nearest product is the same to its last digits.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    vectors: Tensor = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)[1].flip(1)
    return vectors if wide else torch.linalg.qr(matrix @ vectors)[0]


def _both_sides(weight: Tensor, rank: int) -> list[Tensor]:
    return _svd(weight.flatten(1), rank)


def _spatial(weight: Tensor, rank: int) -> list[Tensor]:
    outputs, inputs, height, width = weight.shape
    matrix = weight.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width)
    second, first = _svd(matrix, rank)
    return [
        first.reshape(inputs, height, rank).permute(2, 0, 1).unsqueeze(-1),
        second.reshape(rank, outputs, width).permute(1, 0, 2).unsqueeze(2),
    ]


def _tucker2(weight: Tensor, rank: int) -> list[Tensor]:
    left, right = _left(weight.flatten(1))[:, :rank], _left(weight.transpose(0, 1).flatten(1))[:, :rank]
    core = torch.einsum("oik,or,is->rsk", weight.flatten(2), left, right)
    return [right.T, core, left]


def _pair(padding: tuple[int, ...] | str) -> tuple[int, int]:
    assert not isinstance(padding, str)
    return padding[0], padding[1]
