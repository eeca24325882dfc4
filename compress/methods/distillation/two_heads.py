"""Mixture of two heads as a model's output: its own, and one that a loss trained beside it (papers 17 and 57)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.data import Samples
from compress.data.base import ArraySamples
from compress.models.features import FeatureHooks, ModuleLayers
from compress.models.inputs import ModelInputs, as_tensors, call
from compress.tasks import Task
from deploy.engines.inputs import Inputs
from profiles.errors import UserError

CHUNK = 256
SHARES = tuple(number / 20 for number in range(20, -1, -1))
TEMPERATURES = (1.0, 0.5, 0.75, 1.25, 1.5, 2.0, 4.0)


@final
class TwoHeads(nn.Module):
    """``own`` and a second linear layer beside it; (samples, width) to (samples, classes).

    The outputs are log(share * softmax(own) + (1 - share) * softmax(second / temperature)): their softmax is the mixture.
    """

    def __init__(self, own: nn.Linear, share: float, temperature: float) -> None:
        super().__init__()
        self.own, self.second = own, nn.Linear(own.in_features, own.out_features)
        self._share, self._temperature = share, temperature

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (samples, width) to the log probabilities of the mixture, (samples, classes)."""
        return mixture_log_probabilities(self.own(embedding), self.second(embedding), self._share, self._temperature)


def mixture_log_probabilities(own: Tensor, second: Tensor, share: float, temperature: float) -> Tensor:
    """Compute the log of the weighted mean of two heads' probabilities, of logits (samples, classes), without underflow."""
    first, other = own.log_softmax(dim=-1), (second / temperature).log_softmax(dim=-1)
    if share in (0, 1):
        return first if share else other
    first, other = first + float(np.log(share)), other + float(np.log1p(-share))
    return torch.maximum(first, other) + torch.log(1 + torch.exp(-(first - other).abs()))


@final
@dataclass(frozen=True, kw_only=True)
class MixtureResult:
    """Result of a mixture search: the own head's share, the other's temperature, and the metric with and without."""

    share: float
    temperature: float
    value: float
    alone: float


def find_head(module: nn.Module, task: Task, example: ModelInputs, option: str = "mixture") -> str:
    """Return the path of the linear layer that gives a module's class scores; ``option`` asks, and is named in errors.

    Raises:
        UserError: there is none, or its output is not what the model gives.
    """
    head = ModuleLayers.of(module, example).head
    if head is None:
        raise UserError(f"{option}: the model has no linear layer that reads vectors (samples, width); leave it out")
    with FeatureHooks(module.eval(), [head]) as hooks, torch.no_grad():
        logits = task.logits(call(module, example))
        if not torch.equal(logits, hooks.features()[0]):
            raise UserError(f"{option}: the model changes what its last linear layer, {head}, gives; leave it out")
    return head


def embedded_samples(module: nn.Module, head: str, samples: Samples) -> ArraySamples:
    """Return what the linear layer at a path reads on ``samples``, (samples, width) in float32, with their targets."""
    chunks, targets = [], []
    with FeatureHooks(module.eval(), [], head) as hooks, torch.no_grad():
        for batch in samples.batches(CHUNK):
            call(module, as_tensors(batch.inputs))
            chunks.append(hooks.embedding().float().numpy())
            targets.append(batch.targets)
    return ArraySamples(np.concatenate(chunks), np.concatenate(targets))


def search_mixture(module: nn.Module, head: str, second: nn.Linear, task: Task, samples: Samples) -> MixtureResult:
    """Search share and temperature that are best on ``samples`` by the task's metric; of equals, the largest share.

    The grid is that of DHO's code: 21 shares, 7 temperatures (Kang et al. 2025, paper 17).
    """
    embedded, own = embedded_samples(module, head, samples), module.get_submodule(head)

    def value(share: float, temperature: float) -> float:
        def predict(embeddings: Inputs) -> list[npt.NDArray[Any]]:
            with torch.no_grad():
                given = as_tensors(embeddings)
                return [mixture_log_probabilities(own(given), second(given), share, temperature).numpy()]

        return task.evaluate(predict, embedded).value

    grid = [(share, t) for share, t in product(SHARES, TEMPERATURES) if share < 1 or t == 1]
    values = [value(*setting) for setting in grid]
    best = max(range(len(grid)), key=lambda number: values[number])
    return MixtureResult(share=grid[best][0], temperature=grid[best][1], value=values[best], alone=values[0])


def add_second_head(module: nn.Module, head: str, share: float, temperature: float) -> nn.Module:
    """Add a second head of random weights beside the one at a path; changes ``module``.

    Losses read the logits of the mixture from then on, and embeddings where they read them before.
    """
    own = module.get_submodule(head)
    assert isinstance(own, nn.Linear), "the path of a linear layer"
    owner, _, leaf = head.rpartition(".")
    setattr(module.get_submodule(owner), leaf, TwoHeads(own, share, temperature))
    return module
