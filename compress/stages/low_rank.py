"""The stage ``low_rank``: layers become low-rank factors where that is cheaper, then the model recovers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from compress.methods.allocation import problem as allocation
from compress.methods.allocation.problem import Problem, Term
from compress.methods.allocation.search import allocate
from compress.methods.choice import Choice
from compress.methods.cost_model import LayerPrice, is_gain
from compress.methods.low_rank.factorize import (
    LAYERS,
    Kind,
    Layer,
    count_macs,
    cut_factors,
    factor_kinds,
    factorize,
    is_buildable,
    largest_rank,
)
from compress.methods.low_rank.operations import Factorise
from compress.methods.low_rank.pela import FactorPair, bound_perturbation, compared_blocks, distil_blocks
from compress.models.inputs import ModelInputs, as_tensors, call
from compress.stages.base import Artifact, Context, StageResult, copy_module
from compress.stages.trained import TrainedStage
from profiles.device import DeviceProfile
from profiles.errors import OutOfReachError

MILDEST = 0.85
PARTS = (1.0, 0.75, 0.5, 0.25)
"""Of the largest rank that ``keep`` allows: the ranks that are timed."""
SAMPLES = 64
Errors = Mapping[tuple[Kind, int], float]
"""Of a layer's options, what they miss of its output."""
Chosen = dict[str, tuple[Kind, int]]


@final
@dataclass(frozen=True, kw_only=True)
class LowRank(TrainedStage):
    """Factorise linear and 1x1 layers by SVD, k x k convolutions by spatial or Tucker-2, as is better on the device.

    Attributes:
        keep: multiply-accumulates that a layer's factors may cost, as a fraction of the layer's own; ranks are the
            largest that do, rounded down to the profile's channel multiple, and fractions of them.
        largest_error: a layer whose factors miss more of its output on calibration data (relative L2) stays whole.
        by: ``latency``: only factors that are measured to be faster than the layer, and of those the ones that err least
            for their time; ``macs``: the largest rank that ``keep`` allows, unmeasured.
        speed_up: with ``latency``, all layers together so many times faster, ranks chosen together; 1: each layer alone.
        precision: that latency is measured in; empty for what is fastest on the device.
        features: weight of the distance of every block's output from what it was before the layers were factorised, in
            training (PELA); 0 for none.
        perturbation: weight of the bound that holds SVD factors near their layer while they train (PELA); 0 for none.
        perturbation_bound: how far an entry may be off without being pulled.
    """

    name = "low_rank"

    keep: Annotated[float, Gt(0), Lt(1)] = 0.5
    largest_error: Annotated[float, Gt(0), Lt(1)] = 0.5
    by: Literal["latency", "macs"] = "latency"
    speed_up: Annotated[float, Ge(1)] = 1.0
    precision: str = ""
    features: Annotated[float, Ge(0)] = 0.0
    perturbation: Annotated[float, Ge(0)] = 0.0
    perturbation_bound: Annotated[float, Ge(0)] = 0.0
    epochs: Annotated[int, Ge(0)] = 10
    learning_rate: Annotated[float, Gt(0)] = 0.02

    @property
    def asks_target(self) -> bool:
        return self.by == "latency"

    def key(self, profile: DeviceProfile) -> dict[str, Any]:
        return {"channel_multiple": profile.channel_multiple}

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        errors, notes = self._errors(artifact.module, context)
        runs, refused = _running(
            artifact.module, {path: next(iter(by_option)) for path, by_option in errors.items()}, context.example
        )
        errors = {path: by_option for path, by_option in errors.items() if path in runs}
        prices = self._prices(errors, context)
        chosen, whole = self._choose(errors, prices)
        notes = (*notes, *refused, *whole)
        if not chosen:
            return StageResult(artifact=artifact, notes=("no layer has factors that are cheaper than itself", *notes))
        module = self._factorised(copy_module(artifact), chosen, context)
        notes = (*self._recover(artifact, module, chosen, context), *notes)
        choices = tuple(_choice(path, artifact.module, option, errors, prices) for path, option in chosen.items())
        about = "each layer timed alone on the device, whole and as factors" if prices else "multiply-accumulates"
        changed = artifact.changed(Factorise(layers=chosen), module)
        return StageResult(artifact=changed, notes=notes, choices=choices, about=about)

    def _recover(self, artifact: Artifact, module: nn.Module, chosen: Chosen, context: Context) -> tuple[str, ...]:
        """Train the factors, in place. What PELA adds is added for each part of a step."""
        before = copy_module(artifact).eval()
        near = distil_blocks(module, before, compared_blocks(before, context.example), self.features / self.accumulate)
        pairs = _pairs(before, module, chosen)
        with bound_perturbation(pairs, self.perturbation / self.accumulate, self.perturbation_bound), near:
            return self.recover(module, context)

    def softer(self) -> LowRank | None:
        keep = (1 + self.keep) / 2
        return replace(self, keep=keep) if keep <= MILDEST else None

    def _errors(self, module: nn.Module, context: Context) -> tuple[dict[str, Errors], tuple[str, ...]]:
        """List the options of each layer within ``keep`` and ``largest_error``, with their error on the layer's output."""
        multiple = context.profile.channel_multiple
        options = {path: self._options(layer, multiple) for path, layer in module.named_modules() if _has_factors(layer)}
        asked = {path: layer_options for path, layer_options in options.items() if layer_options}
        notes = [f"{path} stays whole: no factors of it cost at most {self.keep:g} of it" for path in options.keys() - asked]
        samples = context.data.calibration.load(np.arange(min(SAMPLES, len(context.data.calibration)))).inputs
        inputs = _inputs_of(module, list(asked), as_tensors(samples))
        errors: dict[str, Errors] = {}
        for path, layer_options in asked.items():
            layer = module.get_submodule(path)
            assert isinstance(layer, LAYERS)
            if path not in inputs:
                notes.append(f"{path} stays whole: it is not called")
                continue
            each = {
                option: output_error(layer, self._factors(path, layer, option, context), inputs[path])
                for option in layer_options
            }
            errors[path] = {option: error for option, error in each.items() if error <= self.largest_error}
            if not errors[path]:
                notes.append(f"{path} stays whole: its factors miss {min(each.values()):.0%} of its output")
        return {path: layer_options for path, layer_options in errors.items() if layer_options}, tuple(sorted(notes))

    def _options(self, layer: nn.Module, multiple: int) -> list[tuple[Kind, int]]:
        assert isinstance(layer, LAYERS)
        options: list[tuple[Kind, int]] = []
        for kind in factor_kinds(layer):
            largest = _affordable_rank(layer, kind, multiple, self.keep)
            ranks = {max(int(largest * part) // multiple, 1) * multiple for part in PARTS} if self.asks_target else {largest}
            fitting = [rank for rank in sorted(ranks, reverse=True) if 0 < rank <= largest]
            options += [(kind, rank) for rank in fitting if is_buildable(layer, kind, rank)]
        return options

    def _factors(self, path: str, layer: Layer, option: tuple[Kind, int], context: Context) -> nn.Sequential:
        """Cut the factors of an option from those of the largest rank of all attempts: a layer is decomposed once."""
        kind, rank = option
        widest = _affordable_rank(layer, kind, 1, max(self.keep, MILDEST))
        found = context.attempts.once(f"{kind} factors of {path}", widest, lambda: factorize(layer, kind, widest))
        return cut_factors(found, layer, kind, rank)

    def _factorised(self, module: nn.Module, chosen: Chosen, context: Context) -> nn.Module:
        """Replace the chosen layers of ``module`` by the factors nearest to them."""
        wholes = {path: module.get_submodule(path) for path in chosen}
        module = Factorise(layers=chosen).apply(module)
        for path, whole in wholes.items():
            assert isinstance(whole, LAYERS)
            made = self._factors(path, whole, chosen[path], context)
            module.get_submodule(path).load_state_dict(made.state_dict())
        return module

    def _prices(self, errors: Mapping[str, Errors], context: Context) -> Mapping[str, LayerPrice]:
        if not self.asks_target or context.target is None or not errors:
            return {}
        return context.target.layers({path: list(by_option) for path, by_option in errors.items()}, self.precision)

    def _choose(self, errors: Mapping[str, Errors], prices: Mapping[str, LayerPrice]) -> tuple[Chosen, tuple[str, ...]]:
        if not prices:
            return {path: min(by_option, key=lambda option: by_option[option]) for path, by_option in errors.items()}, ()
        faster, notes = _faster(errors, prices)
        if self.speed_up > 1:
            return _together(errors, faster, prices, self.speed_up), notes
        return {path: min(options, key=lambda o: errors[path][o]) for path, options in faster.items()}, notes


def _faster(
    errors: Mapping[str, Errors], prices: Mapping[str, LayerPrice]
) -> tuple[dict[str, list[tuple[Kind, int]]], tuple[str, ...]]:
    """List the options of each layer that are measured faster than it, and notes on layers without."""
    faster: dict[str, list[tuple[Kind, int]]] = {}
    notes: list[str] = []
    for path, each in errors.items():
        if path not in prices:
            notes.append(f"{path} stays whole: the exported model does not have it as one layer")
            continue
        price = prices[path]
        options = [o for o in each if is_gain(price.whole_ms, price.factors_ms[o])]
        if options:
            faster[path] = options
        else:
            least = min(price.factors_ms.values())
            notes.append(f"{path} stays whole: its factors are not faster ({least:.4f} ms; whole {price.whole_ms:.4f})")
    return faster, tuple(notes)


def _together(
    errors: Mapping[str, Errors],
    faster: Mapping[str, list[tuple[Kind, int]]],
    prices: Mapping[str, LayerPrice],
    speed_up: float,
) -> Chosen:
    """Choose the options of least total squared error with all layers together so many times faster."""
    curves = {p: {0: 0.0, **{i + 1: -(errors[p][o] ** 2) for i, o in enumerate(os)}} for p, os in faster.items()}
    total = sum(price.whole_ms for price in prices.values())
    rest = sum(price.whole_ms for path, price in prices.items() if path not in faster)
    terms = [Term(groups=(path,), cost=_step(prices[path], options)) for path, options in faster.items()]
    try:
        found = allocate(Problem(curves=curves, terms=terms, budget=total / speed_up - rest))
    except allocation.OutOfReachError as error:
        most = total / (error.least + rest)
        raise OutOfReachError(
            f"the fastest factors measured make the layers {most:.1f}x faster; asked {speed_up:g}x"
        ) from None
    return {path: faster[path][index - 1] for path, index in found.widths.items() if index}


def _step(price: LayerPrice, options: Sequence[tuple[Kind, int]]) -> Callable[[Sequence[int]], float]:
    costs = [price.whole_ms, *(price.factors_ms[option] for option in options)]
    return lambda index: costs[index[0]]


def _choice(
    path: str, module: nn.Module, option: tuple[Kind, int], errors: Mapping[str, Errors], prices: Mapping[str, LayerPrice]
) -> Choice:
    layer, price = module.get_submodule(path), prices.get(path)
    assert isinstance(layer, LAYERS)
    return Choice(
        name=path,
        kind="layer",
        family=option[0],
        before=largest_rank(layer, option[0]),
        after=option[1],
        kept=1 - errors[path][option] ** 2,
        bought=None if price is None else price.whole_ms - price.factors_ms[option],
        unit="" if price is None else "ms",
    )


def _pairs(whole: nn.Module, factorized: nn.Module, chosen: Chosen) -> list[FactorPair]:
    """Pair the SVD factors with the weights that they replace."""
    pairs: list[FactorPair] = []
    for path, (kind, _) in chosen.items():
        if kind == "svd":
            first, second = (factorized.get_submodule(f"{path}.{index}").weight for index in (0, 1))
            weight = whole.get_submodule(path).weight
            assert isinstance(first, nn.Parameter) and isinstance(second, nn.Parameter) and isinstance(weight, Tensor)
            pairs.append(FactorPair(first, second, weight.detach().clone()))
    return pairs


def output_error(layer: nn.Module, factors: nn.Module, inputs: Tensor) -> float:
    """Compute the relative L2 error of the factors' outputs against the layer's."""
    with torch.no_grad():
        expected = layer(inputs)
        return float((factors(inputs) - expected).norm() / expected.norm().clamp(min=1e-30))


def _inputs_of(module: nn.Module, paths: Sequence[str], samples: ModelInputs) -> dict[str, Tensor]:
    """Record the inputs of each layer for some samples."""
    inputs_by_path: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        return lambda layer, given: inputs_by_path.setdefault(path, given[0].detach())

    handles = [module.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            call(module, samples)
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return inputs_by_path


def _affordable_rank(layer: Layer, kind: Kind, multiple: int, keep: float) -> int:
    """Return the largest rank, a multiple of ``multiple``, whose factors cost at most ``keep`` of the layer; or 0."""
    whole = count_macs(layer, None, 0)
    ranks = range(multiple, largest_rank(layer, kind) + 1, multiple)
    return max((rank for rank in ranks if count_macs(layer, kind, rank) <= keep * whole), default=0)


def _has_factors(layer: nn.Module) -> bool:
    return isinstance(layer, LAYERS)


def _running(module: nn.Module, chosen: Chosen, example: ModelInputs) -> tuple[Chosen, tuple[str, ...]]:
    """Keep the chosen layers with which the model runs as factors; a layer whose weight alone is read stays whole."""
    if _runs(module, chosen, example):
        return chosen, ()
    alone = {path: _runs(module, {path: chosen[path]}, example) for path in chosen}
    notes = tuple(f"{path} stays whole: the model does not run with its factors" for path, runs in alone.items() if not runs)
    return {path: chosen[path] for path, runs in alone.items() if runs}, notes


def _runs(module: nn.Module, chosen: Chosen, example: ModelInputs) -> bool:
    try:
        with torch.no_grad():
            call(Factorise(layers=chosen).apply(copy.deepcopy(module)).eval(), example)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
