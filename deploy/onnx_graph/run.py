"""Runs of ONNX models in ONNX Runtime on the host: intermediate tensors batch by batch, or outputs alone. Host only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from deploy.engines.base import pad_batch
from deploy.onnx_graph.graph import Graph

BATCH_BYTES = 1 << 25
"""Bytes of all observed tensors of a run. Larger runs are slower, since their results are new memory every time."""


def split_batches(
    model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[npt.NDArray[Any]]
) -> Iterator[npt.NDArray[Any]]:
    """Split ``batches`` so that ``tensors`` of each part take at most ``BATCH_BYTES``.

    A part has at least one sample, and a multiple of the model's batch where that is fixed.
    """
    graph = Graph(model)
    fixed = graph.sample_shape(graph.inputs[0])[0]
    bytes_a_batch = sum(4 * math.prod(graph.sample_shape(name)) for name in tensors if graph.is_activation(name))
    size = fixed * max(1, BATCH_BYTES // max(bytes_a_batch, 1))
    for batch in batches:
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def run_batches(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[npt.NDArray[Any]], threads: int = 0
) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]]]]:
    """Yield for each batch the number of its samples, and the values of inputs or intermediate tensors by name."""
    import onnxruntime as ort

    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    source = extended.graph.input[0].name
    known = {o.name for o in extended.graph.output} | {source}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(extended.SerializeToString(), options, ["CPUExecutionProvider"])
    computed = [name for name in tensors if name != source]
    for batch in _fixed_batches(batches, session.get_inputs()[0].shape[0]):
        values = session.run(computed, {source: batch}) if computed else []  # an empty list would mean all outputs
        yield len(batch), {**dict(zip(computed, values, strict=True)), source: batch}


def _fixed_batches(batches: Iterable[npt.NDArray[Any]], size: Any) -> Iterator[npt.NDArray[Any]]:
    """Yield ``batches`` in the model's fixed batch size, if it has one; a last incomplete batch is dropped."""
    for batch in batches:
        if not isinstance(size, int):
            yield batch
            continue
        for start in range(0, len(batch) - size + 1, size):
            yield batch[start : start + size]


def onnx_session(model: onnx.ModelProto) -> Callable[[Any], list[Any]]:
    """Open a model as a function of arrays that takes any number of samples, whatever batch it is fixed to."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    source = session.get_inputs()[0]

    def predict(inputs: Any) -> list[Any]:
        size = source.shape[0] if isinstance(source.shape[0], int) else len(inputs)
        starts = range(0, len(inputs), size)
        parts = [session.run(None, {source.name: pad_batch(inputs[i : i + size], size)}) for i in starts]
        return [np.concatenate(outputs)[: len(inputs)] for outputs in zip(*parts, strict=True)]

    return predict
