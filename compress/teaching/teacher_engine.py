"""A frozen teacher that answers from an engine on this machine: a CPU's runtime is faster than the module in PyTorch.

Measured on ResNet-56, batches of 128 on two cores with AVX2: docs/benchmarks.md. What the student learns from is then
what the teacher gives as that engine runs it, int8 where it is asked.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from compress.data import Samples
from compress.quantization.post_training import PostTraining, quantise
from deploy.engines import engine
from deploy.engines.base import Session
from deploy.export import capture, to_onnx
from deploy.worker import padded
from profiles.device import load
from profiles.errors import UserError


@final
class EngineTeacher(nn.Module):
    """Answers as ``module`` does, from an engine that is made of ``model`` for the first batch that comes.

    Args:
        model: the module's ONNX file, with Q/DQ pairs for int8.
        example: inputs of shape (samples, ...), to see what the module gives.
        runtime: an engine's name.

    Raises:
        UserError: the engine cannot run here.
        EngineError: (when called) the runtime refuses the model.
    """

    def __init__(self, module: nn.Module, model: onnx.ModelProto, example: Tensor, runtime: str, precision: str) -> None:
        super().__init__()
        self._engine = engine(runtime)
        found = self._engine.affinity()
        if found.score < 0:
            raise UserError(f"[teacher] engine: {runtime} cannot run here: {found.reason}")
        self._model, self._precision, self._runtime_version = model, precision, found.version
        self._given, self._names = model.graph.input[0].name, [output.name for output in model.graph.output]
        self._outputs = _structure(module, example)
        self._session: Session | None = None

    def forward(self, inputs: Tensor) -> Any:
        """What the module gives for inputs of shape (samples, ...), in fp32, without gradients."""
        rows = inputs.detach().float().cpu().numpy()
        if self._session is None:
            self._session = self._opened(len(rows))
        size = self._session.inputs[0].shape[0]
        parts = [self._session.infer({self._given: padded(rows[i : i + size], size)}) for i in range(0, len(rows), size)]
        whole = [np.concatenate([part[name] for part in parts])[: len(rows)] for name in self._names]
        return tree_unflatten([torch.from_numpy(array).to(inputs.device) for array in whole], self._outputs)

    def _opened(self, batch: int) -> Session:
        # of as many threads as PyTorch has: only one of the two runs at a time
        here = replace(load("cpu"), threads=torch.get_num_threads(), batch=batch)
        plan = self._engine.plan(here, self._precision, self._runtime_version)
        with tempfile.TemporaryDirectory() as scratch:
            model, folder = Path(scratch) / "model.onnx", Path(scratch) / "engine"
            folder.mkdir()
            onnx.save(self._model, str(model))
            self._engine.build(model, plan, folder)
            return self._engine.open(folder, plan)


def engine_teacher(module: nn.Module, asked: str, example: Tensor, calibration: Samples) -> EngineTeacher:
    """``module`` as an engine of this machine runs it.

    Args:
        asked: runtime and precision, ``openvino/int8``; int8 is quantised without training.

    Raises:
        UserError: the engine cannot run here.
    """
    runtime, precision = asked.split("/")
    model = to_onnx(capture(module, [example]))
    if precision == "int8":
        recipe = load("cpu").runtime(runtime).quantization
        assert recipe is not None, "this machine's profile has an int8 recipe for each of its runtimes"
        model = quantise(model, calibration, recipe, PostTraining()).onnx()
    return EngineTeacher(module, model, example, runtime, precision)


def _structure(module: nn.Module, example: Tensor) -> TreeSpec:
    with torch.no_grad():
        return tree_flatten(module.eval()(example))[1]
