"""A frozen teacher that answers from an engine on this machine: a CPU's runtime is faster than the module in PyTorch.

Measured on ResNet-56, batches of 128 on two cores with AVX2: docs/benchmarks.md. What the student learns from is then
what the teacher gives as that engine runs it, int8 where it is asked. What losses read of its inside are further outputs of
the engine's file.
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
from compress.methods.quantization.post_training import PostTraining, quantise
from compress.models.features import FeatureHooks
from deploy.engines import engine
from deploy.engines.base import Session, padded
from deploy.export.to_onnx import capture, to_onnx
from profiles.device import load
from profiles.errors import UserError


@final
class EngineTeacher(nn.Module):
    """Answers as ``module`` does, from an engine that is made of ``model`` for the first batch that comes.

    Args:
        module: gives the outputs, and inside what ``Showing`` shows of it.
        model: its ONNX file, those outputs first, with Q/DQ pairs for int8.
        example: inputs of shape (samples, ...), to see what the module gives.
        runtime: an engine's name.
        order: which of the layers' outputs stands for each that was asked for; some may be one and the same.

    Raises:
        UserError: the engine cannot run here.
        EngineError: (when called) the runtime refuses the model.
    """

    def __init__(
        self,
        module: Showing,
        model: onnx.ModelProto,
        example: Tensor,
        runtime: str,
        precision: str,
        order: Sequence[int],
    ) -> None:
        super().__init__()
        self._engine = engine(runtime)
        found = self._engine.affinity()
        if found.score < 0:
            raise UserError(f"[teacher] engine: {runtime} cannot run here: {found.reason}")
        self._model, self._precision, self._runtime_version = model, precision, found.version
        self._given, self._names = model.graph.input[0].name, [output.name for output in model.graph.output]
        self._shown, self._order = _structure(module, example), order
        self._session: Session | None = None
        self._features: list[Tensor] = []
        self._embedding: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Any:
        """What the module gives for inputs of shape (samples, ...), in fp32, without gradients."""
        rows = inputs.detach().float().cpu().numpy()
        if self._session is None:
            self._session = self._opened(len(rows))
        size = self._session.inputs[0].shape[0]
        parts = [self._session.infer({self._given: padded(rows[i : i + size], size)}) for i in range(0, len(rows), size)]
        whole = [np.concatenate([part[name] for part in parts])[: len(rows)] for name in self._names]
        tensors = [torch.from_numpy(array).to(inputs.device) for array in whole]
        outputs, self._features, self._embedding = tree_unflatten(tensors, self._shown)
        return outputs

    def features(self) -> list[Tensor]:
        """What the last batch left of the layers that are shown, as ``FeatureHooks`` has it."""
        return [self._features[number] for number in self._order]

    def embedding(self) -> Tensor:
        """What the head read of the last batch, (samples, width)."""
        return self._embedding[0]

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


@final
class Showing(nn.Module):
    """``module``, giving behind its outputs those of the layers ``names``, and what its layer ``head`` reads."""

    def __init__(self, module: nn.Module, names: Sequence[str], head: str | None) -> None:
        super().__init__()
        self.module, self._layers, self._head = module, tuple(names), head

    def forward(self, inputs: Tensor) -> tuple[Any, list[Tensor], list[Tensor]]:
        with FeatureHooks(self.module, self._layers, self._head) as taps:
            outputs = self.module(inputs)
            return outputs, taps.features(), [] if self._head is None else [taps.embedding()]


@final
class EngineTeachers:
    """The frozen teacher as engines of this machine run it: one for each choice of what losses read inside it.

    Args:
        asked: runtime and precision, ``openvino/int8``; int8 is quantised without training on ``calibration``.
        example: inputs of shape (samples, ...).
    """

    def __init__(self, module: nn.Module, asked: str, example: Tensor, calibration: Samples) -> None:
        self._module, self._example, self._calibration = module, example, calibration
        self._runtime, self._precision = asked.split("/")
        self._made: dict[tuple[tuple[str, ...], str | None], EngineTeacher] = {}

    def showing(self, names: Sequence[str] = (), head: str | None = None) -> EngineTeacher:
        """The teacher that gives the outputs of the layers ``names`` too, and what ``head`` reads.

        Raises:
            UserError: the engine cannot run here.
        """
        key = tuple(names), head
        if key not in self._made:
            self._made[key] = self._make(names, head)
        return self._made[key]

    def _make(self, names: Sequence[str], head: str | None) -> EngineTeacher:
        distinct, order = _distinct(self._module, names, self._example)
        module = Showing(self._module, distinct, head).eval()
        model = to_onnx(capture(module, [self._example]))
        if self._precision == "int8":
            recipe = load("cpu").runtime(self._runtime).quantization
            assert recipe is not None, "this machine's profile has an int8 recipe for each of its runtimes"
            model = quantise(model, self._calibration, recipe, PostTraining()).onnx()
        return EngineTeacher(module, model, self._example, self._runtime, self._precision, order)


def _structure(module: nn.Module, example: Tensor) -> TreeSpec:
    with torch.no_grad():
        return tree_flatten(module.eval()(example))[1]


def _distinct(module: nn.Module, names: Sequence[str], example: Tensor) -> tuple[list[str], list[int]]:
    """The layers without those whose output is another's too, and where each of ``names`` stands among them.

    A runtime may keep one name of two that a file has for the same tensor.
    """
    with torch.no_grad(), FeatureHooks(module.eval(), names) as taps:
        module(example)
        found = taps.features()
    first = [next(i for i, each in enumerate(found) if each is output) for output in found]
    kept = sorted(set(first))
    return [names[i] for i in kept], [kept.index(i) for i in first]
