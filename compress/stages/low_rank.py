"""low_rank: layers become products of thinner ones where that is cheaper, then recover."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Annotated, Any, final

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from compress.factorise import Kind, factors, kinds, multiplies, relative_error
from compress.stage import Artifact, Context, StageResult, TrainedStage, copied
from compress.surgery import Factorise
from profiles.device import DeviceProfile

MILDEST = 0.85
Chosen = dict[str, tuple[Kind, int]]


@final
@dataclass(frozen=True, kw_only=True)
class LowRank(TrainedStage):
    """Factorise linear and 1x1 layers by SVD, k x k convolutions by whichever of spatial and Tucker-2 errs less.

    Attributes:
        keep: multiply-accumulates that a layer's factors may cost, as a fraction of the layer's own; the
            rank is the largest that does, rounded down to the profile's channel multiple.
        largest_error: a layer whose factors miss more of its weight (relative Frobenius norm) stays whole.
    """

    name = "low_rank"

    keep: Annotated[float, Gt(0), Lt(1)] = 0.5
    largest_error: Annotated[float, Gt(0), Lt(1)] = 0.5
    epochs: Annotated[int, Ge(0)] = 10
    learning_rate: Annotated[float, Gt(0)] = 0.02

    def key(self, profile: DeviceProfile) -> dict[str, Any]:
        return {"channel_multiple": profile.channel_multiple}

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        chosen, notes = self._choose(artifact.module, context.profile.channel_multiple)
        chosen, refused = _running(artifact.module, chosen, context.example)
        notes = (*notes, *refused)
        if not chosen:
            return StageResult(artifact=artifact, notes=("no layer has factors that are cheaper than itself", *notes))
        operation = Factorise(layers=chosen)
        module = _factorised(copied(artifact), chosen)
        self.train(module, context)
        return StageResult(artifact=artifact.changed(operation, module), notes=notes)

    def softer(self) -> LowRank | None:
        keep = (1 + self.keep) / 2
        return replace(self, keep=keep) if keep <= MILDEST else None

    def _choose(self, module: nn.Module, multiple: int) -> tuple[Chosen, tuple[str, ...]]:
        chosen: Chosen = {}
        notes: list[str] = []
        for path, layer in module.named_modules():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                continue
            options = [(k, r) for k in kinds(layer) if (r := self._rank(layer, k, multiple))]
            errors = {option: relative_error(layer, *option) for option in options}
            if not errors:
                notes.append(f"{path} stays whole: no factors of it cost at most {self.keep:g} of it")
                continue
            best = min(errors, key=lambda option: errors[option])
            if errors[best] > self.largest_error:
                notes.append(f"{path} stays whole: its factors miss {errors[best]:.0%} of its weight")
                continue
            chosen[path] = best
        return chosen, tuple(notes)

    def _rank(self, layer: nn.Linear | nn.Conv2d, kind: Kind, multiple: int) -> int:
        """The largest rank, a multiple of ``multiple``, whose factors cost at most ``keep`` of the layer; 0 for none."""
        whole = multiplies(layer, None, 0)
        affordable = [r for r in range(multiple, 4097, multiple) if multiplies(layer, kind, r) <= self.keep * whole]
        return max(affordable, default=0)


def _factorised(module: nn.Module, chosen: Chosen) -> nn.Module:
    """``module`` with the chosen layers replaced by the factors nearest to them."""
    wholes = {path: module.get_submodule(path) for path in chosen}
    module = Factorise(layers=chosen).apply(module)
    for path, (kind, rank) in chosen.items():
        whole = wholes[path]
        assert isinstance(whole, nn.Linear | nn.Conv2d)
        module.get_submodule(path).load_state_dict(factors(whole, kind, rank).state_dict())
    return module


def _running(module: nn.Module, chosen: Chosen, example: Tensor) -> tuple[Chosen, tuple[str, ...]]:
    """The chosen layers that the model runs with as factors; a layer whose weight is read, not called, is left whole."""
    if _runs(module, chosen, example):
        return chosen, ()
    alone = {path: _runs(module, {path: chosen[path]}, example) for path in chosen}
    notes = tuple(f"{path} stays whole: the model does not run with its factors" for path, runs in alone.items() if not runs)
    return {path: chosen[path] for path, runs in alone.items() if runs}, notes


def _runs(module: nn.Module, chosen: Chosen, example: Tensor) -> bool:
    try:
        with torch.no_grad():
            Factorise(layers=chosen).apply(copy.deepcopy(module)).eval()(example)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
