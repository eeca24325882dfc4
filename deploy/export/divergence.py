"""Divergence of an engine from the float model: the first tensor beyond the tolerance of its precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from deploy.engines.inputs import Inputs
from deploy.onnx_graph.graph import Graph
from deploy.onnx_graph.run import run_batches

LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.99, "fp16": 0.99, "int8": 0.9}
"""Cosine of an engine's outputs and the module's, below which the first diverging tensor is searched."""
MOST_RELATIVE_ERROR = {"fp32": 0.005, "bf16": 0.1, "fp16": 0.1, "int8": 0.35}
"""Largest norm of the difference over the norm of an intermediate tensor, by precision."""

Run = Callable[[onnx.ModelProto, Inputs], dict[str, npt.NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first diverging tensor.

    Attributes:
        node: the node that computes it.
        relative_error: norm of the difference over the norm of the float model's tensor.
    """

    tensor: str
    node: str
    relative_error: float

    def __str__(self) -> str:
        return (
            f"engine and module diverge at {self.tensor} (of {self.node}): by {100 * self.relative_error:.0f} % of its norm"
        )


def first_divergence(
    plain: onnx.ModelProto, built: onnx.ModelProto, run: Run, inputs: Inputs, precision: str
) -> Divergence | None:
    """Find the first tensor of the float model, in its order, with a larger error on the engine than its precision explains.

    Args:
        built: the file that the engine was built from; tensors of the float model keep their names in it.
        run: builds an engine from a file, as from ``built``, and returns its outputs for inputs of shape (samples, ...).

    Returns:
        None when no tensor diverges.
    """
    graph = Graph(plain)
    shared = {name for node in built.graph.node for name in node.output}
    tensors = [name for node in graph.nodes for name in node.output if name in shared and graph.is_activation(name)]
    _, expected = next(run_batches(plain, tensors, [inputs]))
    actual = run(add_outputs(built, tensors), inputs)
    for name in tensors:
        if name not in actual or actual[name].shape != expected[name].shape:
            continue
        reference = expected[name].astype(np.float64)
        difference = np.linalg.norm(actual[name].astype(np.float64) - reference)
        error = float(difference / max(np.linalg.norm(reference), 1e-30))
        if not error <= MOST_RELATIVE_ERROR[precision]:
            producer = graph.producer(name)
            assert producer is not None
            return Divergence(tensor=name, node=producer.name or producer.op_type, relative_error=error)
    return None


def add_outputs(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """Add float ``tensors`` to the outputs, in a copy of ``model``."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    shapes = {value.name: value for value in model.graph.value_info}
    for name in tensors:
        if name not in known:
            extended.graph.output.append(shapes.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return extended
