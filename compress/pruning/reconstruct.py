"""Reconstruction: layers that lost inputs are fitted to what they gave before, by least squares on calibration samples.

    min over W, b of   sum over samples and positions of  || Y - W X - b ||^2  +  ridge || W - W now ||^2

Y is what the layer gives in the whole model, X what it reads in the cut one, all layers before it fitted already, so that
each makes up for what they left (He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
section 3.1, whose second step this is; the channels are chosen elsewhere). Nothing is trained, and no label is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.progress import Progress, counted
from compress.pruning.readers import Layer, hooked, norms_behind, readers, shift_constant
from compress.surgery import Narrow

RIDGE = 0.01
ROWS = 8
"""Samples and positions for each unknown, where calibration has so many."""
MOST_ROWS, MOST_UNKNOWNS = 2**14, 4609
MOST_SAMPLES, ELEMENTS = 256, 2**24
"""Calibration samples: as many as have so many elements together."""


def reconstruct(
    whole: nn.Module,
    cut: nn.Module,
    operation: Narrow,
    batches: Sequence[Tensor],
    ridge: float = RIDGE,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Refit weights, biases and batch norms' means of ``cut``, in place.

    Args:
        whole: the model before ``operation``, and before blocks were taken out; ``cut``: after it, with the same paths.
        batches: calibration inputs, each (samples, ...); they go through ``cut`` once for each layer.
        ridge: of the mean square of what a layer reads: less, and what the samples do not show is made up.

    Returns:
        Paths of layers that lost inputs and were left as they are: run more than once, of too many inputs, or not plain
        ``Conv2d`` or ``Linear`` (a class of its own may pad or scale what it reads).
    """
    lost = readers(whole, operation)
    norms = norms_behind(whole, lost, batches[0][:1])
    order = _order(whole, list(lost), batches[0][:1])
    able = [path for path in order if order.count(path) == 1 and _is_plain(cut.get_submodule(path))]
    known = _known(whole, cut, able, batches)
    for path in counted(progress, "layers fitted anew", able):
        kept = operation.tensors[f"{path}.weight"].get("0")
        rows = known[path]
        given = rows.given if kept is None else rows.given[:, torch.tensor(kept)]
        _refit(cut, path, norms.get(path), _read(cut, path, rows, batches), given, ridge)
    return tuple(path for path in lost if path not in able)


def most_samples(sample_elements: int) -> int:
    """How many samples of so many elements layers are fitted on."""
    return max(1, min(MOST_SAMPLES, ELEMENTS // sample_elements))


@final
@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What a layer gives in the whole model: (rows, outputs), at the same positions of every sample of a batch."""

    positions: list[Tensor | None]
    given: Tensor


def _known(whole: nn.Module, cut: nn.Module, paths: Sequence[str], batches: Sequence[Tensor]) -> dict[str, _Rows]:
    """Rows of every layer, drawn with one seed."""
    random = torch.Generator().manual_seed(0)
    samples = sum(len(inputs) for inputs in batches)
    positions: dict[str, list[Tensor | None]] = {path: [] for path in paths}
    given: dict[str, list[Tensor]] = {path: [] for path in paths}

    def hook(path: str) -> Callable[..., None]:
        wanted = min(ROWS * _unknowns(cut.get_submodule(path)), MOST_ROWS)

        def keep(layer: nn.Module, read: tuple[Tensor, ...], output: Tensor) -> None:
            drawn = None
            if isinstance(layer, nn.Conv2d):
                there = output.shape[2] * output.shape[3]
                drawn = torch.randperm(there, generator=random)[: -(-wanted // samples)]
                output = output.flatten(2)[:, :, drawn].transpose(1, 2)
            positions[path].append(drawn)
            given[path].append(output.reshape(-1, output.shape[-1]))

        return keep

    with hooked(whole, behind={path: hook(path) for path in paths}):
        for inputs in batches:
            whole(inputs)
    return {path: _Rows(positions=positions[path], given=torch.cat(given[path])) for path in paths}


def _read(cut: nn.Module, path: str, rows: _Rows, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """What the layer reads in the cut model, a batch at a time: (rows, inputs x kernel)."""
    layer = cut.get_submodule(path)
    for inputs, positions in zip(batches, rows.positions, strict=True):
        read = _input(cut, path, inputs)
        if isinstance(layer, nn.Conv2d):
            yield _columns(read, layer, positions)
        else:
            yield read.reshape(-1, read.shape[-1])


def _columns(read: Tensor, layer: nn.Conv2d, positions: Tensor | None) -> Tensor:
    """The patches under a kernel at some positions: (samples x positions, channels x kernel)."""
    assert positions is not None and not isinstance(layer.padding, str)
    patches = functional.unfold(read, layer.kernel_size, layer.dilation, layer.padding, layer.stride)[:, :, positions]
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _refit(cut: nn.Module, path: str, norm: str | None, read: Iterator[Tensor], given: Tensor, ridge: float) -> None:
    layer = cut.get_submodule(path)
    assert isinstance(layer, Layer)
    now, target = layer.weight.detach().double().flatten(1).T, given.double().mean(0)
    squares, products, means = _moments(read, given, len(now))
    free = isinstance(layer.bias, Tensor) or norm is not None
    if free:  # with a constant of its own, the weights are those of what is left when both means are taken off
        squares = squares - len(given) * means.outer(means)
        products = products - len(given) * means.outer(target)
    held = ridge * squares.diagonal().mean() * torch.eye(len(now)).double()
    fitted = torch.linalg.solve(squares + held, products + held @ now)
    with torch.no_grad():
        layer.weight.copy_(fitted.T.reshape(layer.weight.shape))
    if free:
        bias = layer.bias.detach().double() if isinstance(layer.bias, Tensor) else 0.0
        shift_constant(cut, path, norm, target - means @ fitted - bias)


def _moments(read: Iterator[Tensor], given: Tensor, unknowns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows of x x^T and of x y^T, and the mean of x."""
    squares = torch.zeros(unknowns, unknowns, dtype=torch.float64)
    products = torch.zeros(unknowns, given.shape[1], dtype=torch.float64)
    total, at = torch.zeros(unknowns, dtype=torch.float64), 0
    for columns in read:
        rows, known = columns.double(), given[at : at + len(columns)].double()
        squares += rows.T @ rows
        products += rows.T @ known
        total += rows.sum(0)
        at += len(columns)
    return squares, products, total / at


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer's output is its weight times zero-padded patches of what it reads, and the fit is no giant."""
    if type(layer) is nn.Conv2d and (isinstance(layer.padding, str) or layer.padding_mode != "zeros"):
        return False
    return type(layer) in (nn.Conv2d, nn.Linear) and _unknowns(layer) <= MOST_UNKNOWNS


def _unknowns(layer: nn.Module) -> int:
    assert isinstance(layer, Layer)
    return layer.weight[0].numel() + 1


def _order(module: nn.Module, paths: Sequence[str], inputs: Tensor) -> list[str]:
    """The paths in the order in which they run, as often as they do."""
    order: list[str] = []
    with hooked(module, behind={path: (lambda *_, path=path: order.append(path)) for path in paths}):
        module(inputs)
    return order


class _ReadAlreadyError(Exception):
    """What comes after the layer need not run."""


def _input(module: nn.Module, path: str, inputs: Tensor) -> Tensor:
    """What a layer inside reads."""
    found: list[Tensor] = []

    def stop(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0])
        raise _ReadAlreadyError

    with suppress(_ReadAlreadyError), hooked(module, before={path: stop}):
        module(inputs)
    return found[0]
