"""The first tensor in which an engine and the float model part: both run with their intermediate tensors as outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from deploy.onnx_graph.graph import Graph
from deploy.onnx_graph.run import run_batches

LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.99, "fp16": 0.99, "int8": 0.9}
"""Of an engine's outputs to the module's; below it the tensor is looked for."""
MOST_RELATIVE_ERROR = {"fp32": 0.005, "bf16": 0.1, "fp16": 0.1, "int8": 0.35}
"""Norm of the difference over the norm of the tensor that each precision may reach on its way."""

Run = Callable[[onnx.ModelProto, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A tensor, the node that makes it, and how far off it is, as a share of its norm."""

    tensor: str
    node: str
    off: float

    def __str__(self) -> str:
        return f"engine and module part at {self.tensor} (made by {self.node}): off by {100 * self.off:.0f} % of its norm"


def first_divergence(
    plain: onnx.ModelProto, built: onnx.ModelProto, run: Run, inputs: npt.NDArray[Any], precision: str
) -> Divergence | None:
    """The first tensor of the float model, in its order, that is farther off on the engine than its precision explains.

    Args:
        built: the file that the engine was built from; tensors of the float model keep their names in it.
        run: builds an engine of a file as ``built`` was and gives its outputs for inputs of shape (samples, ...).
    """
    graph = Graph(plain)
    there = {name for node in built.graph.node for name in node.output}
    tensors = [name for node in graph.nodes for name in node.output if name in there and graph.is_activation(name)]
    _, expected = next(run_batches(plain, tensors, [inputs]))
    found = run(add_outputs(built, tensors), inputs)
    for name in tensors:
        if name not in found or found[name].shape != expected[name].shape:
            continue
        want, got = expected[name].astype(np.float64), found[name].astype(np.float64)
        off = float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))
        if not off <= MOST_RELATIVE_ERROR[precision]:
            maker = graph.producer(name)
            assert maker is not None
            return Divergence(tensor=name, node=maker.name or maker.op_type, off=off)
    return None


def add_outputs(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """A copy of ``model`` that also gives ``tensors``, which are float."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    shapes = {value.name: value for value in model.graph.value_info}
    for name in tensors:
        if name not in known:
            opened.graph.output.append(shapes.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return opened
