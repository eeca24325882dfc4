"""Runs of ONNX models in ONNX Runtime on the host: intermediate tensors batch by batch, or outputs alone. Host only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from deploy.engines.inputs import Inputs, Sequences, as_feed, count, padded, rows
from deploy.engines.serving import walk
from deploy.onnx_graph.graph import Graph

BATCH_BYTES = 1 << 25
"""Bytes of all observed tensors of a run. Larger runs are slower, since their results are new memory every time."""


def split_batches(model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[Inputs]) -> Iterator[Inputs]:
    """Split ``batches`` so that ``tensors`` of each part take at most ``BATCH_BYTES``.

    A part has at least one sample, and a multiple of the model's batch where that is fixed.
    """
    graph = Graph(model)
    fixed = graph.sample_shape(graph.inputs[0])[0]
    bytes_a_batch = sum(4 * math.prod(graph.sample_shape(name)) for name in tensors if graph.is_activation(name))
    size = fixed * max(1, BATCH_BYTES // max(bytes_a_batch, 1))
    for batch in batches:
        for start in range(0, count(batch), size):
            yield rows(batch, slice(start, start + size))


def run_batches(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[Inputs], threads: int = 0
) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]]]]:
    """Yield for each batch the number of its samples, and the values of inputs or intermediate tensors by name.

    Raises:
        ValueError: a batch has not the model's inputs.
    """
    import onnxruntime as ort

    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    sources = Graph(model).inputs
    known = {o.name for o in extended.graph.output} | {*sources}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(extended.SerializeToString(), options, ["CPUExecutionProvider"])
    computed = [name for name in tensors if name not in sources]
    for batch in _fixed_batches(batches, session.get_inputs()[0].shape[0]):
        feed = as_feed(batch, sources)
        values = session.run(computed, feed) if computed else []  # an empty list would mean all outputs
        yield count(batch), {**dict(zip(computed, values, strict=True)), **feed}


def _fixed_batches(batches: Iterable[Inputs], size: Any) -> Iterator[Inputs]:
    """Yield ``batches`` in the model's fixed batch size, if it has one; a last incomplete batch is dropped."""
    for batch in batches:
        if not isinstance(size, int):
            yield batch
            continue
        for start in range(0, count(batch) - size + 1, size):
            yield rows(batch, slice(start, start + size))


def onnx_session(model: onnx.ModelProto) -> Callable[[Inputs], list[Any]]:
    """Open a model as a function of arrays that takes any number of samples, whatever batch it is fixed to."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    sources = session.get_inputs()

    def predict(inputs: Inputs) -> list[Any]:
        if isinstance(inputs, Sequences):
            found = walk(inputs.states, dict(inputs), predict)
            return found if inputs.every else [output[:, -1] for output in found]
        samples, first = count(inputs), sources[0].shape[0]
        size = first if isinstance(first, int) else samples
        feed = as_feed(inputs, [source.name for source in sources])
        parts = [session.run(None, padded(feed, start, size)) for start in range(0, samples, size)]
        return [np.concatenate(outputs)[:samples] for outputs in zip(*parts, strict=True)]

    return predict
