"""Reconstruction: layers are fitted to their outputs before a cut, by least squares on calibration samples.

    min over W, b of   sum over samples and positions of  || Y - W X - b ||^2  +  ridge || W - W now ||^2

Y is what the layer gives in the whole model, X what it reads in the cut one, all layers before it fitted already, so that
each makes up for what they left (He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
section 3.1, whose second step this is; the channels are chosen elsewhere). A layer whose output is added to a stream is
fitted to what the sum was: Y + stream - stream now (section 3.2, the last layer of a residual branch), and so stands in for
whole blocks that are gone before it. The batch norm behind a layer gets the statistics of its new inputs, so that
training, which uses the batch's, starts from the same function. Nothing is trained, and no label is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.execution.progress import Progress, count_progress
from compress.methods.pruning.consumers import (
    Layer,
    find_consumers,
    following_norms,
    forward_hooks,
    has_statistics,
    norm_scales,
    normalize_mean,
    set_statistics,
    shift_bias,
)
from compress.methods.pruning.operations import Narrow
from compress.methods.pruning.residual_streams import find_streams
from compress.models.inputs import ModelInputs, call, count, rows

RIDGE = 0.01
ROWS, ENOUGH = 8, 3
"""Samples and positions for each unknown, where calibration has so many; what lost no input is left alone below so few."""
MOST_ROWS, MOST_UNKNOWNS = 2**14, 4609
FEW = 4
"""Samples that tell whether anything is other than before."""
MOST_SAMPLES, ELEMENTS = 256, 2**24
"""Calibration samples: as many as have so many elements together."""


def reconstruct(
    whole: nn.Module,
    cut: nn.Module,
    operation: Narrow | None,
    batches: Sequence[ModelInputs],
    ridge: float = RIDGE,
    progress: Progress | None = None,
    *,
    onwards: bool = True,
) -> tuple[str, ...]:
    """Refit weights, biases and batch norms of ``cut``, in place.

    Args:
        whole: the model before ``operation``, and before blocks were taken out; ``cut``: after it, with the same paths.
        operation: None where only blocks were taken out.
        batches: calibration inputs, each (samples, ...); they go through both models once for each layer.
        ridge: of the mean square of what a layer reads: less, and what the samples do not show is made up.
        onwards: not only layers that lost inputs but all that read something else than before.

    Returns:
        Paths of layers that lost inputs and were left as they are: run more than once, of too many inputs, or not plain
        ``Conv2d`` or ``Linear`` (a class of its own may pad or scale what it reads).
    """
    lost = find_consumers(whole, operation) if operation else {}
    layers = [path for path, layer in cut.named_modules() if isinstance(layer, Layer)] if onwards else list(lost)
    order = _order(cut, layers, rows(batches[0], slice(1)))
    able = [path for path in order if order.count(path) == 1 and _is_plain(cut.get_submodule(path))]
    norms = following_norms(whole, able, rows(batches[0], slice(1)))
    added = find_streams(whole, able, norms, rows(batches[0], slice(2))) if onwards else {}
    for path in count_progress(progress, "layers fitted anew", able):
        kept = operation.tensors.get(f"{path}.weight", {}).get("0") if operation else None
        work = _Fit(whole=whole, cut=cut, path=path, norm=norms.get(path), stream=added.get(path), kept=kept)
        if path in lost or work.can_make_up(batches):
            work.fit(batches, ridge)
    return tuple(path for path in lost if path not in able)


def fit_sample_count(sample_elements: int) -> int:
    """Compute the number of samples, of so many elements, that layers are fitted on."""
    return max(1, min(MOST_SAMPLES, ELEMENTS // sample_elements))


@final
@dataclass(frozen=True, kw_only=True)
class _Fit:
    """One layer of the cut model, with its target in the whole one.

    Attributes:
        norm: the batch norm that reads its output.
        stream: the module that ends with its output, behind the norm, added to a stream.
        kept: of its outputs in the whole model; None for all.
    """

    whole: nn.Module
    cut: nn.Module
    path: str
    norm: str | None
    stream: str | None
    kept: list[int] | None

    @property
    def layer(self) -> nn.Conv2d | nn.Linear:
        layer = self.cut.get_submodule(self.path)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return layer

    def can_make_up(self, batches: Sequence[ModelInputs]) -> bool:
        """Return whether the layer's inputs or stream differ from before, and samples are enough to fit it on."""
        now, before = (self._seen(module, rows(batches[0], slice(FEW))) for module in (self.cut, self.whole))
        each = now.given[0].numel() // len(self.layer.weight)
        enough = each * sum(count(inputs) for inputs in batches) >= ENOUGH * _unknowns(self.layer)
        return enough and not (torch.equal(now.read, before.read) and torch.equal(now.past, before.past))

    def fit(self, batches: Sequence[ModelInputs], ridge: float) -> None:
        """Fit the layer: its output behind the norm where it is added to a stream, before the norm elsewhere."""
        layer, norm = self.layer, self.cut.get_submodule(self.norm) if self.norm else None
        adaptable = norm if norm is not None and has_statistics(norm) else None
        ones = torch.ones(len(layer.weight), dtype=torch.float64)
        slope = ones if adaptable is None else norm_scales(adaptable)
        unit = ones if self.stream is None else slope
        now = unit * layer.weight.detach().double().flatten(1).T
        bias = layer.bias.detach().double() if isinstance(layer.bias, Tensor) else 0 * ones
        sums = _Sums(*now.shape)
        for read, given in self._asked(batches):
            sums.add(read.double(), given.double())
        fitted = sums.fitted(now, ridge, free=norm is not None or isinstance(layer.bias, Tensor))
        # A norm takes scale away: of what it reads the weights keep theirs, on which depends how fast they learn.
        scale = ones if self.stream is None or adaptable is None else _scale(layer.weight, fitted)
        with torch.no_grad():
            layer.weight.copy_((scale * fitted).T.reshape(layer.weight.shape))
        reads = scale * (sums.read @ fitted) + bias
        if adaptable is not None:
            constant = sums.given if self.stream is not None else normalize_mean(adaptable, sums.given)
            set_statistics(adaptable, reads, scale**2 * sums.variance(fitted), slope / unit / scale, constant)
        else:
            shift_bias(self.cut, self.path, self.norm, sums.given - reads)

    def _asked(self, batches: Sequence[ModelInputs]) -> Iterator[tuple[Tensor, Tensor]]:
        """What the layer reads and what it is to give, a batch at a time: (rows, inputs x kernel), (rows, outputs)."""
        random = torch.Generator().manual_seed(0)
        samples = sum(count(inputs) for inputs in batches)
        each = -(-min(ROWS * _unknowns(self.layer), MOST_ROWS) // samples)
        for inputs in batches:
            now, before = (self._seen(module, inputs) for module in (self.cut, self.whole))
            given = before.given + before.past
            if self.kept is not None:
                given = given.index_select(1 if isinstance(self.layer, nn.Conv2d) else -1, torch.tensor(self.kept))
            given = given - now.past
            if isinstance(self.layer, nn.Conv2d):
                drawn = torch.randperm(given[0, 0].numel(), generator=random)[:each]
                yield _columns(now.read, self.layer, drawn), given.flatten(2)[:, :, drawn].transpose(1, 2).flatten(0, 1)
            else:
                yield now.read.flatten(0, -2), given.flatten(0, -2)

    def _seen(self, module: nn.Module, inputs: ModelInputs) -> _Seen:
        """Run one of the two models up to the layer and record its inputs, outputs and stream."""
        read: list[Tensor] = []
        given: list[Tensor] = []
        past: list[Tensor] = []

        def reads(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            read.append(args[0])

        def gives(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            given.append(output)
            if self.stream is None:
                raise _SeenAllError
            return torch.zeros_like(output)

        def ends(_: nn.Module, __: Any, output: Tensor) -> None:
            past.append(output)
            raise _SeenAllError

        point = self.path if self.stream is None or self.norm is None else self.norm
        end = {} if self.stream is None else {self.stream: ends}
        with suppress(_SeenAllError), forward_hooks(module, before={self.path: reads}, behind={point: gives, **end}):
            call(module, inputs)
        return _Seen(read[0], given[0], past[0] if past else torch.zeros(()))


@final
@dataclass(frozen=True)
class _Seen:
    """Inputs and outputs of a layer (behind its norm where it is added to a stream), and the stream, or 0."""

    read: Tensor
    given: Tensor
    past: Tensor


class _SeenAllError(Exception):
    """What comes after the layer need not run."""


@final
class _Sums:
    """Sums over rows of x x^T, x y^T, x and y, from which weights are fitted."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._squares = torch.zeros(inputs, inputs, dtype=torch.float64)
        self._products = torch.zeros(inputs, outputs, dtype=torch.float64)
        self._read, self._given = torch.zeros(inputs, dtype=torch.float64), torch.zeros(outputs, dtype=torch.float64)
        self._rows = 0

    def add(self, read: Tensor, given: Tensor) -> None:
        self._squares += read.T @ read
        self._products += read.T @ given
        self._read += read.sum(0)
        self._given += given.sum(0)
        self._rows += len(read)

    @property
    def read(self) -> Tensor:
        """The mean of x."""
        return self._read / self._rows

    @property
    def given(self) -> Tensor:
        """The mean of y."""
        return self._given / self._rows

    def fitted(self, now: Tensor, ridge: float, free: bool) -> Tensor:
        """Solve for the weights, (inputs, outputs); ``free``: with a constant beside them, so both means are taken off."""
        squares, products = self._squares, self._products
        if free:
            squares = squares - self._rows * self.read.outer(self.read)
            products = products - self._rows * self.read.outer(self.given)
        held = ridge * squares.diagonal().mean() * torch.eye(len(now), dtype=torch.float64)
        solved: Tensor = torch.linalg.solve(squares + held, products + held @ now)
        return solved

    def variance(self, weights: Tensor) -> Tensor:
        """Compute the variance of each output of the weights."""
        squares = self._squares / self._rows - self.read.outer(self.read)
        return (weights * (squares @ weights)).sum(0).clamp(min=0)


def _scale(weight: Tensor, fitted: Tensor) -> Tensor:
    """Compute the factors that give fitted weights, (inputs, outputs), the norm that each output's had."""
    were, are = weight.detach().double().flatten(1).norm(dim=1), fitted.norm(dim=0)
    return torch.where(are > 0, were / are.clamp(min=1e-30), torch.ones_like(are))


def _columns(read: Tensor, layer: nn.Conv2d, positions: Tensor) -> Tensor:
    """Extract the patches under a kernel at some positions: (samples x positions, channels x kernel)."""
    assert not isinstance(layer.padding, str)
    patches = functional.unfold(read, layer.kernel_size, layer.dilation, layer.padding, layer.stride)[:, :, positions]
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _is_plain(layer: nn.Module) -> bool:
    """Return whether a layer's output is its weight times zero-padded patches of its input, and the fit is not too large."""
    if type(layer) is nn.Conv2d and (isinstance(layer.padding, str) or layer.padding_mode != "zeros" or layer.groups > 1):
        return False
    return type(layer) in (nn.Conv2d, nn.Linear) and _unknowns(layer) <= MOST_UNKNOWNS


def _unknowns(layer: nn.Module) -> int:
    assert isinstance(layer, Layer)
    return layer.weight[0].numel() + 1


def _order(module: nn.Module, paths: Sequence[str], inputs: ModelInputs) -> list[str]:
    """List the paths in the order in which they run, as often as they do."""
    order: list[str] = []
    with forward_hooks(module, behind={path: (lambda *_, path=path: order.append(path)) for path in paths}):
        call(module, inputs)
    return order
