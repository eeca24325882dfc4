"""Recipe, task, data and trainer of a run, and the keys of what depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import nn

from compress.data import Samples, Splits
from compress.data.sequences import first_step
from compress.execution.cache import StepCache, digest, versions
from compress.execution.progress import Progress
from compress.models.inputs import ModelInputs, as_tensors, stated_example
from compress.pipeline.cache_keys import PACKAGES, code_key
from compress.recipe.spec import Recipe
from compress.tasks import Task
from compress.training.trainer import Trainer
from deploy.engines.serving import Serving

IDS = (torch.int32, torch.int64)
CHUNK = 512


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RunContext:
    """Recipe, task, data and trainer that all PyTorch steps of a run share.

    Attributes:
        data: as models take it; which calibration samples are used is chosen later.
        serving: how samples reach the models: sizes, states.
    """

    recipe: Recipe
    task: Task
    data: Splits
    serving: Serving
    trainer: Trainer
    cache: StepCache
    progress: Progress

    @cached_property
    def example(self) -> ModelInputs:
        """Return the inputs of two samples as the model takes them."""
        inputs = self.data.train.load(np.arange(2)).inputs
        example: ModelInputs = as_tensors(first_step(inputs, self.serving) if self.serving.states else inputs)
        return example

    @cached_property
    def shown(self) -> ModelInputs:
        """Return the inputs of two samples as the data gives them: the example, or whole sequences."""
        shown: ModelInputs = as_tensors(self.data.train.load(np.arange(2)).inputs)
        return shown

    def example_of(self, module: nn.Module) -> ModelInputs:
        """Return the example as a module takes it, whose states may be of its own shape."""
        return stated_example(module, self.example, self.serving)

    @cached_property
    def id_ranges(self) -> dict[str, tuple[int, int]]:
        """Return the least and the largest id of each integer input by name, over all splits; empty where there is none."""
        ranges: dict[str, tuple[int, int]] = {}
        example = self.example if isinstance(self.example, Mapping) else {}
        names = [n for n, tensor in example.items() if tensor.dtype in IDS and n not in self.serving.state_names]
        for samples in (self.data.train, self.data.validation, self.data.test) if names else ():
            for batch in samples.batches(CHUNK):
                for name in names:
                    low, high = int(batch.inputs[name].min()), int(batch.inputs[name].max())
                    before = ranges.get(name, (low, high))
                    ranges[name] = min(low, before[0]), max(high, before[1])
        return ranges

    def judge(self, module: nn.Module, samples: Samples) -> float:
        """Evaluate a module in fp32 by the task's metric; larger is better."""
        return self.task.evaluate(self.trainer.predictor(module), samples).value

    def task_key(self) -> str:
        """Return a key of what the task decides: its loss, its metric, and how it reads outputs."""
        use, code = self.recipe.task, code_key(type(self.task), *self.task.modules())
        return digest({"kind": use.use, "arguments": dict(use.arguments), "code": code})

    def training_key(self, *roots: Any, samples: Samples | None = None) -> dict[str, Any]:
        """Return what decides a training besides its starting model.

        Args:
            roots: its stage and its losses.
            samples: that it is on; the training split by default.
        """
        train = self.data.train if samples is None else samples
        return {
            "data": train.fingerprint(),
            "task": self.task_key(),
            "seed": self.recipe.seed,
            "numerics": self.trainer.numerics,
            "code": code_key(Trainer, type(train), *roots),
            "versions": versions(*PACKAGES),
        }
