"""Templates: ONNX models with variable widths, split into pieces that are models of their own. Host only.

What a layer takes depends on its shapes, not on its weights. So one exported model stands for all its prunings: an
``Axis`` says which sizes of which tensors shrink with a group of channels, and a piece is written out at any widths with
weights drawn at random. Where pieces end is in ``deploy.latency.segments``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.latency.segments import COMPUTE, split_at_cuts, split_by_layer
from deploy.onnx_graph.fixed_batch import fix_batch
from deploy.onnx_graph.graph import NEVER_NEGATIVE, Graph, attribute, drop_unused_constants
from profiles.errors import first_line

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
LEAST_MAP = 4
"""Dimensions of a map: samples, channels, height, width, or more."""
MOST_LAYERS, MOST_AXES = 6, 4
"""A piece with more layers or groups than this is cut at every layer, though several tensors are alive there."""

Sizes = Mapping[str, int]
"""Channels of each axis by name; an axis that is not named has all."""


@final
@dataclass(frozen=True, kw_only=True)
class Axis:
    """A group of channels that shrink together.

    Attributes:
        width: channels as the model is.
        sizes: of each initializer and each of its dimensions that shrinks, how many elements one channel is.
    """

    width: int
    sizes: Mapping[str, Mapping[int, int]]


@final
@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive nodes of a template, by index.

    Attributes:
        axes: names of the axes that its time depends on, in the order in which they come up.
        block: path of the removable block that it is part of; None when it always runs.
    """

    nodes: tuple[int, ...]
    axes: tuple[str, ...]
    block: str | None
    layers: tuple[str, ...]


@final
class Template:
    """An ONNX model with variable widths of ``axes``.

    Args:
        model: a float model, shapes inferred, all but the batch fixed.
        blocks: paths of modules that can be removed, their input then being their output.

    Attributes:
        axes: axes that the graph follows. blocks: blocks that can be removed from the graph.
        unfollowed: why an axis or a block is not among them, by name.
    """

    def __init__(self, model: onnx.ModelProto, axes: Mapping[str, Axis], blocks: Sequence[str] = (), batch: int = 1) -> None:
        self._model = fix_batch(model, batch)
        self._graph = Graph(self._model)
        self.nodes = self._graph.nodes
        self._constants = {t.name: t for t in self._model.graph.initializer}
        self._shaping = {name for node in self.nodes for name in _shaping(node)}
        self.unfollowed: dict[str, str] = {}
        self.axes: dict[str, Axis] = {}
        values = [*self._model.graph.value_info, *self._model.graph.input, *self._model.graph.output]
        self._kinds = {v.name: v.type.tensor_type.elem_type for v in values}
        self._base = self._inferred({})
        self._slopes: dict[str, dict[int, dict[str, int]]] = {}
        for name, axis in axes.items():
            self._follow(name, axis)
        self.blocks: dict[str, tuple[frozenset[int], str, str]] = {}
        for path in blocks:
            self._add_block(path)
        self.pieces = tuple(self._pieces())

    def shape(self, tensor: str, widths: Sizes) -> tuple[int, ...]:
        """Return the sizes of a tensor at ``widths``."""
        sizes = list(self._base[tensor])
        for dimension, slopes in self._slopes.get(tensor, {}).items():
            sizes[dimension] -= sum(m * (self.axes[a].width - widths.get(a, self.axes[a].width)) for a, m in slopes.items())
        return tuple(sizes)

    def model(self, nodes: Iterable[int], widths: Sizes, copies: int = 1, *, averaged: bool = False) -> onnx.ModelProto:
        """Build the nodes as a model with random weights, ``copies`` of them one behind the other.

        Args:
            averaged: of a map, (samples, channels, height, width), the means over its positions are given in its place:
                to hand a map over can take longer than the layer that makes it, and the next layer does not ask for that.
        """
        return _Writer(self, tuple(nodes), widths).model(copies, averaged=averaged)

    def chainable(self, nodes: Iterable[int], widths: Sizes) -> bool:
        """Return whether copies of the nodes can stand one behind the other."""
        inputs, outputs = self.boundary_tensors(tuple(nodes))
        return len(inputs) == len(outputs) == 1 and self.shape(inputs[0], widths) == self.shape(outputs[0], widths)

    def signature(self, nodes: Iterable[int], widths: Sizes) -> str:
        """Return a name for the nodes' time: equal structure and sizes, equal name."""
        structure = _Writer(self, tuple(nodes), widths).structure()
        return hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()[:20]

    def whole(self, widths: Sizes, removed: Iterable[str] = ()) -> onnx.ModelProto:
        """Build the whole model with random weights, without the blocks ``removed``."""
        gone, through = self._without(removed)
        indices = [index for index in range(len(self.nodes)) if index not in gone]
        return _Writer(self, tuple(indices), widths, through).model(1)

    def _without(self, removed: Iterable[str]) -> tuple[set[int], dict[str, str]]:
        gone: set[int] = set()
        through: dict[str, str] = {}
        for path in removed:
            nodes, source, result = self.blocks[path]
            gone |= nodes
            through[result] = source
        return gone, through

    def _is_weight(self, tensor: TensorProto) -> bool:
        """Whether random values do as well: floats that decide no shape."""
        return tensor.data_type in FLOATS and math.prod(tensor.dims) > 1 and tensor.name not in self._shaping

    def _kind(self, tensor: str) -> int:
        """Return ONNX's data type of an activation."""
        return int(self._kinds.get(tensor, TensorProto.FLOAT))

    def _follow(self, name: str, axis: Axis) -> None:
        """Learn which tensors shrink with ``axis`` by inferring shapes with one channel, then two, less."""
        missing = [tensor for tensor in axis.sizes if tensor not in self._base]
        followed = {t: s for t, s in axis.sizes.items() if t not in missing}
        self.axes[name] = Axis(width=axis.width, sizes=followed)
        try:
            once, twice = self._inferred({name: axis.width - 1}), self._inferred({name: axis.width - 2})
        except Exception as error:  # whatever shape inference trips over
            del self.axes[name]
            self.unfollowed[name] = f"the exported graph has its width written into it ({first_line(error)})"
            return
        for tensor, before in self._base.items():
            for dimension, (full, less, least) in enumerate(zip(before, once[tensor], twice[tensor], strict=True)):
                assert full - less == less - least, f"{tensor} does not shrink evenly"
                if full != less:
                    self._slopes.setdefault(tensor, {}).setdefault(dimension, {})[name] = full - less

    def _inferred(self, widths: Sizes) -> dict[str, tuple[int, ...]]:
        """Infer the sizes of every tensor, on a model whose weights are left out."""
        light = onnx.ModelProto()
        light.CopyFrom(self._model)
        del light.graph.initializer[:], light.graph.value_info[:]
        for name, tensor in self._constants.items():
            if self._is_weight(tensor):
                light.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, self._weight(tensor, widths)))
            else:
                light.graph.initializer.append(tensor)
        for node in light.graph.node:
            if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
                _set(node, "group", self._groups(node, widths))
        for output in light.graph.output:
            output.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(light, check_type=True, strict_mode=True, data_prop=True)
        values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
        sizes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        return {**{n: tuple(t.dims) for n, t in self._constants.items() if not self._is_weight(t)}, **sizes}

    def _weight(self, tensor: TensorProto, widths: Sizes) -> list[int]:
        sizes = list(tensor.dims)
        for name, width in widths.items():
            for dimension, elements in self.axes[name].sizes.get(tensor.name, {}).items():
                sizes[dimension] -= elements * (self.axes[name].width - width)
        return sizes

    def _groups(self, node: onnx.NodeProto, widths: Sizes) -> int:
        """Return the groups of a convolution: a depthwise one has as many as channels."""
        weight = self._constants[node.input[1]]
        full, now = list(weight.dims), self._weight(weight, {a: w for a, w in widths.items() if a in self.axes})
        return int(attribute(node, "group", 1) * now[0] // full[0])

    def _add_block(self, path: str) -> None:
        inside = frozenset(i for i, node in enumerate(self.nodes) if _within(node, path))
        inputs, outputs = self.boundary_tensors(tuple(sorted(inside)))
        if len(inputs) == len(outputs) == 1 and self._base[inputs[0]] == self._base[outputs[0]]:
            self.blocks[path] = (inside, inputs[0], outputs[0])
        else:
            self.unfollowed[path] = "the exported graph does not have it in one piece"

    def boundary_tensors(self, nodes: tuple[int, ...]) -> tuple[list[str], list[str]]:
        """Return the activations that the nodes read from others, and those that others read from them."""
        inside = set(nodes)
        produced = [o for i in nodes for o in self.nodes[i].output if o]
        read = [t for i in nodes for t in self.nodes[i].input if t and not self._graph.is_constant(t)]
        last = {
            o: max((j for j, n in enumerate(self.nodes) if o in n.input and j not in inside), default=-1) for o in produced
        }
        outputs = [o for o in produced if last[o] >= 0 or o in self._graph.outputs]
        return [t for t in dict.fromkeys(read) if t not in set(produced)], outputs

    def _pieces(self) -> Iterable[Piece]:
        for nodes in split_at_cuts(self._graph):
            layers = sum(self.nodes[i].op_type in COMPUTE for i in nodes)
            whole = self._piece(nodes)
            if layers > MOST_LAYERS or len(whole.axes) > MOST_AXES:
                yield from (self._piece(part) for part in split_by_layer(self._graph, nodes))
            else:
                yield whole

    def _piece(self, nodes: Sequence[int]) -> Piece:
        tensors = dict.fromkeys(t for i in nodes for t in (*self.nodes[i].input, *self.nodes[i].output) if t)
        axes = dict.fromkeys(a for t in tensors for slopes in self._slopes.get(t, {}).values() for a in slopes)
        block = next((path for path, (inside, _, _) in self.blocks.items() if inside.issuperset(nodes)), None)
        layers = tuple(self.nodes[i].name.partition("/")[0] for i in nodes if self.nodes[i].op_type in COMPUTE)
        return Piece(nodes=tuple(nodes), axes=tuple(axes), block=block, layers=layers)


@final
class _Writer:
    """Writer of some nodes of a template as a model at some widths, with numbered tensors."""

    def __init__(
        self, template: Template, nodes: tuple[int, ...], widths: Sizes, through: Mapping[str, str] | None = None
    ) -> None:
        self._template, self._nodes, self._widths, self._through = template, nodes, widths, through or {}
        self._constants = template._constants
        outputs = {o for i in nodes for o in template.nodes[i].output if o}
        read = dict.fromkeys(self._source(t) for i in nodes for t in template.nodes[i].input if t)
        self._read = read
        self._inputs = [t for t in read if t not in outputs and t not in self._constants]
        if through is None:
            self._outputs = template.boundary_tensors(nodes)[1]
        else:
            self._outputs = [self._source(o) for o in template._graph.outputs]

    def _source(self, tensor: str) -> str:
        while tensor in self._through:
            tensor = self._through[tensor]
        return tensor

    def structure(self) -> dict[str, Any]:
        """Describe nodes, inputs and outputs with numbered tensors: equal structures take equal time."""
        names: dict[str, str] = {}
        for tensor in [*self._inputs, *(t for i in self._nodes for t in self._template.nodes[i].output)]:
            names.setdefault(tensor, f"t{len(names)}")
        nodes = []
        for index in self._nodes:
            node = self._write_node(index)
            reads = [self._describe_tensor(t, names) if t else "" for t in node.input]
            attributes = [str(a).strip() for a in sorted(node.attribute, key=lambda a: a.name)]
            nodes.append([node.op_type, node.domain, attributes, reads, [names.get(o, "") for o in node.output]])
        inputs = [[names[t], *self._template.shape(t, self._widths), self._positive(t)] for t in self._inputs]
        return {"nodes": nodes, "inputs": inputs, "outputs": [names[o] for o in self._outputs]}

    def model(self, copies: int, *, averaged: bool = False) -> onnx.ModelProto:
        """Write ``copies`` of the nodes as a model with random weights."""
        random = np.random.default_rng(0)
        nodes: list[onnx.NodeProto] = []
        constants: dict[str, TensorProto] = {}
        names = {tensor: self._input_name(tensor) for tensor in self._inputs}
        for copy in range(copies):
            for tensor in self._read:
                if tensor in self._constants:
                    names[tensor] = f"c{copy}/{tensor}"
                    constants[names[tensor]] = self._constant(tensor, names[tensor], random)
            for index in self._nodes:
                node = self._write_node(index)
                renamed = {o: f"c{copy}/{o}" for o in node.output if o}
                reads = [names[t] if t else "" for t in node.input]
                node.input[:], node.output[:] = reads, [renamed.get(o, "") for o in node.output]
                node.name = f"c{copy}/{index}/{node.op_type}"
                del node.metadata_props[:]
                nodes.append(node)
                names |= renamed
            if copies > 1:
                names[self._inputs[0]] = names[self._outputs[0]]
        template = self._template
        for output in filter(self._is_map, self._outputs) if averaged else ():
            read, names[output] = names[output], f"averaged/{output}"
            nodes.append(helper.make_node("GlobalAveragePool", [read], [names[output]], name=names[output]))
        shapes = {t: template.shape(t, self._widths) for t in self._inputs}
        inputs = [helper.make_tensor_value_info(self._input_name(t), template._kind(t), shapes[t]) for t in self._inputs]
        outputs = [helper.make_tensor_value_info(names[o], template._kind(o), None) for o in self._outputs]
        graph = helper.make_graph(nodes, "piece", inputs, outputs, list(constants.values()))
        model = helper.make_model(graph, opset_imports=template._model.opset_import, ir_version=template._model.ir_version)
        drop_unused_constants(model)
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)

    def _is_map(self, tensor: str) -> bool:
        return len(self._template.shape(tensor, self._widths)) >= LEAST_MAP and self._template._kind(tensor) in FLOATS

    def _write_node(self, index: int) -> onnx.NodeProto:
        node = onnx.NodeProto()
        node.CopyFrom(self._template.nodes[index])
        if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
            _set(node, "group", self._template._groups(node, self._widths))
        node.input[:] = [self._source(t) for t in node.input]
        return node

    def _input_name(self, tensor: str) -> str:
        return f"{'positive' if self._positive(tensor) else 'input'}/{tensor}"

    def _positive(self, tensor: str) -> bool:
        producer = self._template._graph.producer(tensor)
        return producer is not None and producer.op_type in NEVER_NEGATIVE

    def _describe_tensor(self, tensor: str, names: Mapping[str, str]) -> Any:
        """Describe an activation by its number, a weight by its shape, another constant by its values."""
        if tensor not in self._constants:
            return names[tensor]
        constant = self._constants[tensor]
        if self._template._is_weight(constant):
            return list(self._template.shape(tensor, self._widths))
        return [constant.data_type, np.asarray(numpy_helper.to_array(constant)).tolist()]

    def _constant(self, tensor: str, name: str, random: np.random.Generator) -> TensorProto:
        constant = self._constants[tensor]
        if not self._template._is_weight(constant):
            same = TensorProto()
            same.CopyFrom(constant)
            same.name = name
            return same
        shape = self._template.shape(tensor, self._widths)
        # Never negative, so that it can be a variance too; centred where it is a matrix or a kernel.
        values = (
            random.random(shape) + 0.1 if len(shape) < 2 else random.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        )
        return numpy_helper.from_array(np.asarray(values, helper.tensor_dtype_to_np_dtype(constant.data_type)), name)


def _shaping(node: onnx.NodeProto) -> Iterable[str]:
    """Yield the floats that decide a shape: the region and the scales of a Resize."""
    return node.input[1:3] if node.op_type == "Resize" else ()


def _within(node: onnx.NodeProto, path: str) -> bool:
    module = node.name.partition("/")[0]
    return module == path or module.startswith(f"{path}.")


def _set(node: onnx.NodeProto, name: str, value: int) -> None:
    for field in node.attribute:
        if field.name == name:
            field.i = value
