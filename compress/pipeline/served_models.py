"""Models at their sizes and with their states: examples, modules, references and calibration of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, final

import onnx
from torch import nn

from compress.data import Samples
from compress.data.sequences import steps_of
from compress.data.sized import mix
from compress.models.inputs import ModelInputs, as_arrays, as_tensors, tensors
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.run_context import RunContext
from compress.pipeline.sized_models import module_at
from deploy.engines.serving import Serving, State
from deploy.onnx_graph.run import onnx_session

MODEL = "model.onnx"


@final
class ServedModels:
    """Models of a run by the sizes and states that its recipe names.

    Args:
        file_at: makes a model that is an ONNX file at a size.

    Attributes:
        serving: sizes and states, in the shapes of the teacher.
    """

    def __init__(self, shared: RunContext, file_at: Callable[[CachedModel, int], CachedModel]) -> None:
        self._shared, self._file_at, self.serving = shared, file_at, shared.serving
        self._steps: dict[tuple[CachedModel, str], Samples] = {}
        self._modules: dict[tuple[CachedModel, int], nn.Module] = {}

    def example_at(self, size: int | None, module: nn.Module | None = None) -> ModelInputs:
        """Return the inputs of two samples at a size, at the largest without one; states in the shape of ``module``."""
        if size is None or self.serving.sizes is None:
            return self._shared.example if module is None else self._shared.example_of(module)
        at: ModelInputs = as_tensors(self.serving.sizes.at(as_arrays(self._shared.example), size))
        return at

    @cached_property
    def mix(self) -> dict[int, float]:
        """Return the share of the validation samples that goes to each size; empty where there is one size."""
        return {} if self.serving.sizes is None else mix(self._shared.data.validation, self.serving.sizes)

    def module_at(self, made: CachedModel, size: int | None) -> nn.Module:
        """Return a model's module as it takes inputs of a size; of the largest without one."""
        sizes = self.serving.sizes
        if size is None or sizes is None:
            return made.artifact.module
        if (made, size) not in self._modules:
            self._modules[made, size] = module_at(made.artifact, sizes, size)
        return self._modules[made, size]

    def reference(self, made: CachedModel) -> Callable[[Any], list[Any]]:
        """Return the outputs as a function of inputs: the module's in fp32, or the file's in ONNX Runtime."""
        sizes = self.serving.sizes
        if sizes is None:
            return self._reference_at(made, None)
        at = functools.cache(lambda size: self._reference_at(made, size))
        return lambda inputs: sizes.route(inputs, lambda size, taken: at(size)(taken))

    def serving_of(self, made: CachedModel) -> Serving:
        """Return how samples reach a model; the shapes of states are its own."""
        if not self.serving.states or made.is_onnx:
            return self.serving
        example = as_arrays(self._shared.example_of(made.artifact.module))
        states = [replace(state, shape=tuple(example[state.name].shape[1:])) for state in self.serving.states]
        return replace(self.serving, states=tuple[State, ...](states))

    def calibration_of(self, made: CachedModel, samples: Samples) -> Samples:
        """Return the calibration samples of a model: with states, every step of whole sequences that it walks itself."""
        if not self.serving.states:
            return samples
        key = made, samples.fingerprint()
        if key not in self._steps:
            run = self._reference_at(made, None)
            self._steps = {key: steps_of(samples, self.serving_of(made), run)}
        return self._steps[key]

    def steps_told(self) -> str:
        """Say what an inference is, where a model walks sequences; empty elsewhere."""
        if not self.serving.states:
            return ""
        steps, names = tensors(self._shared.shown)[0].shape[1], ", ".join(sorted(self.serving.state_names))
        return f"latency is that of one step, {steps} of which are a sequence; {names} fed back from step to step"

    def _reference_at(self, made: CachedModel, size: int | None) -> Callable[[Any], list[Any]]:
        if made.is_onnx:
            file = made if size is None else self._file_at(made, size)
            return onnx_session(onnx.load(str(file.step.folder / MODEL)))
        return self._shared.trainer.predictor(self.module_at(made, size))
