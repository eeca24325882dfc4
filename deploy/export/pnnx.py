"""ONNX -> NCNN's graph and weights, by the program ``pnnx``. Host only.

The program is called and not its Python function, which imports the code that it generates and fails on layers whose names
are numbers. What it translates wrongly or not at all is written in other words first (tests hold each to the outputs): a
strided slice as a pooling of one pixel, reductions with their axes as attributes (opset 17; of opset 18's it keeps no
single axis and reduces over all), one of three taken before axes are moved (``deploy.export.picks``).
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy.engines.base import EngineError
from deploy.export.converter import run_converter
from deploy.export.picks import pick_before_moving
from deploy.onnx_graph.graph import Graph, attribute, drop_unused_constants
from profiles.errors import UserError

OPSET = 17
REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp"})
NEW_ATTRIBUTES = dict.fromkeys(REDUCTIONS, ("noop_with_empty_axes",)) | {
    "Split": ("num_outputs",),
    "Resize": ("antialias", "axes", "keep_aspect_ratio_policy"),
}
"""What opset 18 added."""
LONGEST_S = 1800.0


def convert(model: onnx.ModelProto, *, half: bool = False) -> tuple[str, bytes]:
    """Convert a float model of one sample at once; return NCNN's text of layers and its weights.

    Args:
        half: store weights as float16.

    Raises:
        UserError: the program is not installed.
        EngineError: it cannot convert the model; carries its last words.
    """
    program = executable()
    shapes = [_one_sample(value) for value in Graph(model).model.graph.input if value.name in Graph(model).inputs]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        onnx.save(rewrite(model), str(folder / "model.onnx"))
        command = [str(program), "model.onnx", f"inputshape={','.join(shapes)}", f"fp16={int(half)}"]
        param, weights = "model.ncnn.param", "model.ncnn.bin"
        run_converter("pnnx", command, folder, [param, weights], longest_s=LONGEST_S)
        return (folder / param).read_text(), (folder / weights).read_bytes()


def executable() -> Path:
    """Return the program.

    Raises:
        UserError: the package is not installed here.
    """
    found = importlib.util.find_spec("pnnx")
    if found is None or found.origin is None:
        raise UserError("pnnx, which makes NCNN's files, is not installed here; pip install 'edge-compress[ncnn]'")
    return Path(found.origin).with_name("pnnx")


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write a copy of a float model in the operators that the program translates."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    pick_before_moving(result)
    graph = Graph(result)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        nodes += _pooled_slice(graph, node) if node.op_type == "Slice" else [node]
        if node.op_type in REDUCTIONS and len(node.input) > 1 and graph.is_constant(node.input[1]):
            axes = [int(axis) % graph.rank(node.input[0]) for axis in graph.constant(node.input[1])]
            node.attribute.append(helper.make_attribute("axes", axes))
            del node.input[1:]
        if node.op_type == "Split" and len(node.input) == 1:
            _name_sizes(graph, node)
        dropped = NEW_ATTRIBUTES.get(node.op_type, ())
        kept = [entry for entry in node.attribute if entry.name not in dropped]
        del node.attribute[:]
        node.attribute.extend(kept)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    for entry in result.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, OPSET)
    drop_unused_constants(result)
    return result


def _name_sizes(graph: Graph, node: onnx.NodeProto) -> None:
    """Give a split the sizes of its parts, which it took from the number of its outputs."""
    axis = int(attribute(node, "axis", 0))
    sizes = [graph.shape(output)[axis] for output in node.output]
    node.input.append(f"{node.output[0]}/sizes")
    graph.model.graph.initializer.append(numpy_helper.from_array(np.asarray(sizes, np.int64), node.input[1]))


def _pooled_slice(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Write a slice with strides over height and width as a slice without, and a pooling that keeps one pixel of each."""
    constants = [graph.constant(name).tolist() if graph.is_constant(name) else None for name in node.input[1:]]
    if len(constants) < 4 or any(each is None for each in constants) or graph.rank(node.input[0]) != 4:
        return [node]
    starts, ends, axes, steps = constants
    strides = {int(axis) % 4: int(step) for axis, step in zip(axes, steps, strict=True)}  # type: ignore[arg-type]
    if all(step == 1 for step in strides.values()) or min(strides.values()) < 1 or not {2, 3}.issuperset(strides):
        return [node]
    whole = f"{node.output[0]}/unstrided"
    ones = numpy_helper.from_array(np.ones(len(strides), np.int64), f"{whole}_steps")
    graph.model.graph.initializer.append(ones)
    cut = helper.make_node("Slice", [*node.input[:4], ones.name], [whole], name=whole)
    shape = graph.shape(node.input[0])
    is_whole = all(
        start == 0 and end >= shape[axis % 4]
        for start, end, axis in zip(starts, ends, axes, strict=True)  # type: ignore[arg-type]
    )
    pool = helper.make_node(
        "MaxPool",
        [node.input[0] if is_whole else whole],
        [node.output[0]],
        name=node.name,
        kernel_shape=[1, 1],
        strides=[strides.get(2, 1), strides.get(3, 1)],
    )
    return [pool] if is_whole else [cut, pool]


def _one_sample(value: onnx.ValueInfoProto) -> str:
    """Write the shape of an input as the program reads it, e.g. ``[1,3,224,224]f32``."""
    tensor = value.type.tensor_type
    kinds: dict[int, str] = {onnx.TensorProto.FLOAT: "f32", onnx.TensorProto.INT32: "i32", onnx.TensorProto.INT64: "i64"}
    if tensor.elem_type not in kinds:
        kind = helper.tensor_dtype_to_string(tensor.elem_type)
        raise EngineError(f"NCNN takes float32 and integer inputs; {value.name!r} is {kind}")
    sizes = [dimension.dim_value for dimension in tensor.shape.dim]
    if 0 in sizes[1:]:
        raise EngineError(f"input {value.name!r} has a free dimension besides its batch; export with fixed sizes")
    return f"[{','.join(str(size) for size in [1, *sizes[1:]])}]{kinds[tensor.elem_type]}"
