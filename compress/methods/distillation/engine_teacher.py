"""Frozen teachers that run on an inference engine, which is faster on a CPU than the module in PyTorch.

Measured on ResNet-56, batches of 128 on two cores with AVX2: docs/benchmarks.md. The student then learns
from the engine's outputs, int8 ones where the recipe names int8. Features that losses read are further outputs of the
engine's file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from compress.data import Samples
from compress.methods.quantization.post_training import PostTraining, quantize_model
from compress.models.features import FeatureHooks
from compress.models.inputs import ModelInputs, as_arrays, call, device_of, map_tensors
from deploy.engines import engine
from deploy.engines.base import Session
from deploy.engines.inputs import as_feed, padded
from deploy.engines.inputs import count as inputs_count
from deploy.export.to_onnx import capture, to_onnx
from profiles.device import load
from profiles.errors import UserError


@final
class EngineTeacher(nn.Module):
    """A frozen teacher on an inference engine, built from ``model`` on the first batch.

    Args:
        module: the teacher with its features as outputs.
        model: its ONNX file, those outputs first, with Q/DQ pairs for int8.
        example: inputs of shape (samples, ...), for the structure of the outputs.
        runtime: an engine's name.
        order: index of the output of each named layer; several names may share one.

    Raises:
        UserError: the engine cannot run here.
        EngineError: (when called) the runtime refuses the model.
    """

    def __init__(
        self,
        module: FeatureExtractor,
        model: onnx.ModelProto,
        example: ModelInputs,
        runtime: str,
        precision: str,
        order: Sequence[int],
    ) -> None:
        super().__init__()
        self._engine = engine(runtime)
        affinity = self._engine.affinity()
        if affinity.score < 0:
            raise UserError(f"[teacher] engine: {runtime} cannot run here: {affinity.reason}")
        self._model, self._precision, self._runtime_version = model, precision, affinity.version
        self._given, self._names = (
            [given.name for given in model.graph.input],
            [output.name for output in model.graph.output],
        )
        self._shown, self._order = _structure(module, example), order
        self._session: Session | None = None
        self._features: list[Tensor] = []
        self._embedding: list[Tensor] = []

    def forward(self, *one: Tensor, **named: Tensor) -> Any:
        """Return the module's outputs for inputs of shape (samples, ...), in fp32, without gradients."""
        inputs: ModelInputs = named or one[0]
        feed = as_feed(as_arrays(map_tensors(_plain, inputs)), self._given)
        samples = inputs_count(feed)
        if self._session is None:
            self._session = self._open(samples)
        size = self._session.inputs[0].shape[0]
        parts = [self._session.infer(padded(feed, start, size)) for start in range(0, samples, size)]
        whole = [np.concatenate([part[name] for part in parts])[:samples] for name in self._names]
        tensors = [torch.from_numpy(array).to(device_of(inputs)) for array in whole]
        outputs, self._features, self._embedding = tree_unflatten(tensors, self._shown)
        return outputs

    def features(self) -> list[Tensor]:
        """Return the layers' outputs on the last batch, as ``FeatureHooks`` does."""
        return [self._features[number] for number in self._order]

    def embedding(self) -> Tensor:
        """Return the head's input on the last batch, (samples, width)."""
        return self._embedding[0]

    def _open(self, batch: int) -> Session:
        # of as many threads as PyTorch has: only one of the two runs at a time
        here = replace(load("cpu"), threads=torch.get_num_threads(), batch=batch)
        plan = self._engine.plan(here, self._precision, self._runtime_version)
        with tempfile.TemporaryDirectory() as scratch:
            model, folder = Path(scratch) / "model.onnx", Path(scratch) / "engine"
            folder.mkdir()
            onnx.save(self._model, str(model))
            self._engine.build(model, plan, folder)
            return self._engine.open(folder, plan)


@final
class FeatureExtractor(nn.Module):
    """``module`` with the outputs of the layers ``names`` and the input of its layer ``head`` behind its own outputs."""

    def __init__(self, module: nn.Module, names: Sequence[str], head: str | None) -> None:
        super().__init__()
        self.module, self._layers, self._head = module, tuple(names), head

    def forward(self, *inputs: Tensor, **named: Tensor) -> tuple[Any, list[Tensor], list[Tensor]]:
        """Return outputs, layers' outputs and the head's input for inputs of shape (samples, ...)."""
        with FeatureHooks(self.module, self._layers, self._head) as hooks:
            outputs = self.module(*inputs, **named)
            return outputs, hooks.features(), [] if self._head is None else [hooks.embedding()]


@final
class EngineTeachers:
    """The frozen teacher on engines of this machine: one engine for each set of layers that losses read.

    Args:
        engine: runtime and precision, ``openvino/int8``; int8 is quantised without training on ``calibration``.
        example: inputs of shape (samples, ...).
    """

    def __init__(self, module: nn.Module, engine: str, example: ModelInputs, calibration: Samples) -> None:
        self._module, self._example, self._calibration = module, example, calibration
        self._runtime, self._precision = engine.split("/")
        self._teachers: dict[tuple[tuple[str, ...], str | None], EngineTeacher] = {}

    def teacher_for(self, names: Sequence[str] = (), head: str | None = None) -> EngineTeacher:
        """Return the teacher that outputs the layers ``names`` and the input of ``head`` too.

        Raises:
            UserError: the engine cannot run here.
        """
        key = tuple(names), head
        if key not in self._teachers:
            self._teachers[key] = self._build(names, head)
        return self._teachers[key]

    def _build(self, names: Sequence[str], head: str | None) -> EngineTeacher:
        distinct, order = _distinct(self._module, names, self._example)
        module = FeatureExtractor(self._module, distinct, head).eval()
        model = to_onnx(capture(module, self._example))
        if self._precision == "int8":
            recipe = load("cpu").runtime(self._runtime).quantization
            assert recipe is not None, "this machine's profile has an int8 recipe for each of its runtimes"
            model = quantize_model(model, self._calibration, recipe, PostTraining()).onnx()
        return EngineTeacher(module, model, self._example, self._runtime, self._precision, order)


def _plain(tensor: Tensor) -> Tensor:
    """Return values in fp32; ids and masks as they are."""
    return tensor.detach().float() if tensor.is_floating_point() else tensor


def _structure(module: nn.Module, example: ModelInputs) -> TreeSpec:
    with torch.no_grad():
        return tree_flatten(call(module.eval(), example))[1]


def _distinct(module: nn.Module, names: Sequence[str], example: ModelInputs) -> tuple[list[str], list[int]]:
    """Return the layers without those whose output is another's too, and where each of ``names`` stands among them.

    A runtime may keep one name of two that a file has for the same tensor.
    """
    with torch.no_grad(), FeatureHooks(module.eval(), names) as hooks:
        call(module, example)
        outputs = hooks.features()
    first = [next(i for i, each in enumerate(outputs) if each is tensor) for tensor in outputs]
    kept = sorted(set(first))
    return [names[i] for i in kept], [kept.index(i) for i in first]
