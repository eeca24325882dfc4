"""Placement of Q/DQ pairs: which tensors of a graph are quantised under the recipe of a runtime.

The rules, each of which decides by itself whether int8 is faster or slower than float:

1. A tensor is quantised once and shared by all who read it.
2. Inputs of convolutions and matrix products are quantised; so is their result, after the activation
   that the runtime fuses into them, when an integer operator reads it. Nothing stands in between.
3. A residual add or a concatenation stays in integers when all it reads can be integers and what
   it makes is read by an integer operator: every branch is quantised before it. (Without the pair on
   the convolution's branch ONNX Runtime ran the same network 2x slower.) Branches that a concatenation
   alone reads have its scale, so that it copies them.
4. Operators that only move or select values carry their input's scale.
5. Weights are int8 constants, one scale an output channel; biases stay float.
6. Graph outputs stay float.
7. Layers whose sums and products a logarithm reads stay float: it tells apart what one grid cannot (the front end of a
   model of sound).
8. A detector's decode stays float: the mean of a distribution of distances (DFL), a layer by its form alone, is never one of
   integers, so that no integer operator is behind the last layers with weights, and boxes in pixels and scores from 0 to 1
   that are joined there have no scale at all, let alone one together.

Where a runtime differs, its recipe says so as data (``profiles.quantization``): ``fuses_add`` and
``quantizes_branches`` thin out rule 3, ``fuses_pad`` rule 4, ``integer_results`` ends rules 2 and 6,
``layers_alone`` ends rules 3 and 4, ``integer_layers`` thins out rule 2, ``integer_means`` adds to it,
``integer_operators`` to rule 3, and ``find_shuffles`` joins rules 3 and 4 (``deploy.qdq.find_shuffles``).

Training inserts its fake quantisers at the same tensors (``activations``) and layers (``weights``), so
that what was trained is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from deploy.onnx_graph.graph import FX_NODE, Graph, attribute
from deploy.qdq.shuffles import MOVES, find_shuffles
from profiles.quantization import QuantizationRecipe

COMPUTE = frozenset({"Conv", "Gemm", "MatMul"})
JOIN = frozenset({"Add", "Concat"})
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})
CARRY = POOLS | {"Reshape", "Flatten", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Pad"}
MOVING = CARRY | MOVES | {"Resize"}
"""With what ``find_shuffles`` adds; of Resize the kind that copies the nearest value."""
MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
FUSED = frozenset({"Relu", "Clip"})
LINEAR = COMPUTE | CARRY | MOVES | {"Add", "Sub", "Mul", "Div", "Pow", "Abs", "Sqrt", "Max", "Clip", "Concat", "ReduceSum"}
"""What stands between a layer and the logarithm of its power."""
VIEWS = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast"})
UNKNOWN_LAYERS = frozenset({"ConvTranspose", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"})
"""Layers that no recipe has integers for."""
STANDARD = ("", "ai.onnx")
NO_LAYERS: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A quantised tensor.

    Attributes:
        like: the tensor whose scale it shares; None for a scale of its own.
        counts: whether its values widen the range of that scale.
        pair: whether it gets a Q/DQ pair; false where the runtime passes integers through.
        bits: of its integers, 8 or 16.
    """

    tensor: str
    like: str | None = None
    counts: bool = False
    pair: bool = True
    bits: int = 8

    @property
    def source(self) -> str:
        """Tensor whose scale it has."""
        return self.like or self.tensor


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A quantised weight.

    Attributes:
        layer: the captured program's node (or the ONNX node, for a file of foreign origin) that it belongs to.
        tensor: the initializer's name.
        axis: its output-channel axis.
    """

    layer: str
    tensor: str
    axis: int


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The quantised tensors and weights of a model.

    Attributes:
        kept_float: names of the ONNX nodes of layers that stay float, each with the reason.
    """

    activations: tuple[Activation, ...]
    weights: tuple[Weight, ...]
    kept_float: tuple[tuple[str, str], ...]

    @property
    def pairs(self) -> tuple[Activation, ...]:
        """Activations with a Q/DQ pair."""
        return tuple(activation for activation in self.activations if activation.pair)

    @property
    def bits(self) -> dict[str, int]:
        """Return the bits of each quantised tensor."""
        return {activation.tensor: activation.bits for activation in self.activations}

    def observed_tensors(self) -> dict[str, list[str]]:
        """Return by tensor with a scale of its own the tensors whose values decide its range: itself first."""
        tensors: dict[str, list[str]] = {activation.source: [activation.source] for activation in self.activations}
        for activation in self.activations:
            if activation.counts:
                tensors[activation.source].append(activation.tensor)
        return tensors


@dataclass(frozen=True, kw_only=True)
class _Kinds:
    """Operators that run in integers beside the layers: joins of branches, and those that carry their input's scale."""

    joins: frozenset[str]
    carries: frozenset[str]

    def carry(self, node: onnx.NodeProto) -> bool:
        """Return whether ``node`` only moves or selects values; Resize does so where it copies the nearest."""
        copies = node.op_type != "Resize" or attribute(node, "mode", b"nearest") == b"nearest"
        return node.op_type in self.carries and copies


def place(model: onnx.ModelProto, recipe: QuantizationRecipe, kept: Mapping[str, str] = NO_LAYERS) -> Placement:
    """Place Q/DQ pairs by ``recipe`` in a float model with inferred shapes.

    Args:
        kept: layers (names of ONNX nodes) that stay float, each with the reason.
    """
    graph = Graph(model)
    logarithmic = _read_by_logarithm(graph)
    layers = [node for node in graph.nodes if node.op_type in COMPUTE]
    reasons = {node.name: kept.get(node.name) or _float_reason(graph, node, recipe, logarithmic) for node in layers}
    kinds = _Kinds(joins=JOIN | set(recipe.integer_operators), carries=MOVING if recipe.shuffles else CARRY)
    if recipe.layers_alone:
        kinds = _Kinds(joins=frozenset(), carries=frozenset())
    integer = _integer_nodes(graph, {name for name, why in reasons.items() if not why}, kinds)
    shared = _concatenations(graph, integer, kinds) if recipe.quantizes_branches else {}
    shared |= _shuffle_activations(graph, integer) if recipe.shuffles else {}
    activations: dict[str, Activation] = {}
    weights: dict[str, Weight] = {}
    for node in graph.nodes:
        if node.name not in integer:
            continue
        for tensor in _tensors_at(graph, node, recipe):
            activations.setdefault(tensor, shared.get(tensor) or _moved_activation(graph, tensor, integer, kinds, shared))
        if node.op_type in COMPUTE and (weight := _layer_weight(graph, node)):
            weights.setdefault(weight.tensor, weight)
    reasons |= {n.name: f"no recipe knows the operator {n.op_type}" for n in graph.nodes if _is_unknown(n)}
    floats = tuple((name, why) for name, why in reasons.items() if why)
    return Placement(activations=_in_order(graph, activations), weights=tuple(weights.values()), kept_float=floats)


def _is_unknown(node: onnx.NodeProto) -> bool:
    return node.op_type in UNKNOWN_LAYERS or node.domain not in STANDARD


def _tensors_at(graph: Graph, node: onnx.NodeProto, recipe: QuantizationRecipe) -> list[str]:
    """Return the tensors at an integer node that get a pair."""
    if node.op_type == "Concat" and not recipe.quantizes_branches:
        return []
    tensors = [str(tensor) for tensor in node.input if graph.is_activation(tensor)]
    if node.op_type == "Add" and recipe.fuses_add:
        fused = _fused_branch(graph, node)
        tensors = [tensor for tensor in tensors if tensor != fused]
    if node.op_type in COMPUTE and recipe.fuses_pad:
        tensors = [_before_pad(graph, tensor) for tensor in tensors]
    averaged = recipe.integer_means and node.op_type in COMPUTE and _is_averaged(graph, _fused_output(graph, node))
    if averaged or node.op_type in recipe.integer_results:
        tensors.append(_fused_output(graph, node))
    return tensors


def _is_averaged(graph: Graph, tensor: str) -> bool:
    """Return whether all readers of ``tensor`` are means."""
    readers = graph.consumers(tensor)
    return bool(readers) and all(reader.op_type in MEANS for reader in readers)


def _fused_branch(graph: Graph, add: onnx.NodeProto) -> str | None:
    """Return the branch of an add that a layer computes for it alone; the deeper of two, as the other is the shortcut."""
    inputs = [t for t in add.input if (p := graph.producer(t)) is not None and p.op_type in COMPUTE]
    return max(filter(graph.only_consumer, inputs), key=lambda tensor: _depth(graph, tensor), default=None)


def _depth(graph: Graph, tensor: str) -> int:
    """Count the layers on the longest path from an input to ``tensor``."""
    depths: dict[str, int] = {}
    for node in graph.nodes:
        depth = max((depths.get(t, 0) for t in node.input), default=0) + (node.op_type in COMPUTE)
        depths.update(dict.fromkeys(node.output, depth))
        if tensor in depths:
            break
    return depths[tensor]


def _before_pad(graph: Graph, tensor: str) -> str:
    """Return the input of the zero padding before ``tensor``; ``tensor`` itself without one."""
    while (node := graph.producer(tensor)) is not None and node.op_type == "Pad" and _pads_zeros(graph, node):
        tensor = str(node.input[0])
    return tensor


def _pads_zeros(graph: Graph, pad: onnx.NodeProto) -> bool:
    value = pad.input[2] if len(pad.input) > 2 else ""
    zero = not value or (graph.is_constant(value) and not graph.constant(value).any())
    return bool(attribute(pad, "mode", b"constant") == b"constant" and zero)


def program_node(node: onnx.NodeProto) -> str:
    """Return the name of the captured program's node behind an ONNX node; the ONNX node's own in a foreign file."""
    return next((p.value for p in node.metadata_props if p.key == FX_NODE), node.name)


def _concatenations(graph: Graph, integer: set[str], kinds: _Kinds) -> dict[str, Activation]:
    """Return the results of concatenations and the branches without another reader, all with the first branch's scale.

    A branch of another scale would be rounded, and then rounded again to the result's: its own finer grid buys nothing. ONNX
    Runtime and OpenVINO pass over it for that at every inference: 3.25 against 2.56 ms for SqueezeNet on OpenVINO.
    """
    activations: dict[str, Activation] = {}
    for node in graph.nodes:
        if node.op_type != "Concat" or node.name not in integer:
            continue
        branches = list(dict.fromkeys(map(str, node.input)))
        own = [t for t in branches if _has_free_scale(graph, t, integer, kinds)]
        if not own:
            continue
        result, others = str(node.output[0]), len(own) < len(branches)
        activations |= _with_shared_scale(own, counts=not others)
        activations[result] = Activation(tensor=result, like=own[0], counts=others)
    return activations


def _has_free_scale(graph: Graph, tensor: str, integer: set[str], kinds: _Kinds) -> bool:
    """Return whether a concatenation's branch has no other reader, and a scale of its own."""
    producer = graph.producer(tensor)
    if producer is None or graph.only_consumer(tensor) is None:
        return False
    return producer.op_type != "Concat" and not (producer.name in integer and kinds.carry(producer))


def _shuffle_activations(graph: Graph, integer: set[str]) -> dict[str, Activation]:
    """Return the tensors of shuffles: all with the scale of the first input, pairs only at the inputs."""
    activations: dict[str, Activation] = {}
    for shuffle in find_shuffles(graph, integer):
        activations |= _with_shared_scale(shuffle.inputs, counts=True)
        activations |= {t: Activation(tensor=t, like=shuffle.inputs[0], pair=False) for t in shuffle.results}
    return activations


def _with_shared_scale(tensors: Sequence[str], *, counts: bool) -> dict[str, Activation]:
    """Return ``tensors`` with the scale of the first; ``counts``: the others' values widen its range."""
    first, *others = tensors
    return {first: Activation(tensor=first)} | {t: Activation(tensor=t, like=first, counts=counts) for t in others}


def _integer_nodes(graph: Graph, layers: set[str], kinds: _Kinds) -> set[str]:
    """Return the names of nodes that run in integers: ``layers``, and those that rules 3 and 4 add."""
    integer = set(layers)
    grew = True
    while grew:
        grew = False
        for node in graph.nodes:
            if node.name not in integer and _joins(graph, node, integer, kinds):
                integer.add(node.name)
                grew = True
    return integer


def _read_by_logarithm(graph: Graph) -> set[str]:
    """Return the names of the nodes whose values reach a logarithm through sums and products alone."""
    waiting = [str(node.input[0]) for node in graph.nodes if node.op_type == "Log"]
    found: set[str] = set()
    while waiting:
        node = graph.producer(waiting.pop())
        if node is not None and node.op_type in LINEAR and node.name not in found:
            found.add(node.name)
            waiting += map(str, node.input)
    return found


def _float_reason(graph: Graph, node: onnx.NodeProto, recipe: QuantizationRecipe, logarithmic: set[str]) -> str:
    """Return why a compute node cannot run in integers; empty when it can."""
    if node.name in logarithmic:
        return "a logarithm reads it"
    if node.op_type not in recipe.integer_layers:
        return f"the runtime has no {node.op_type} in integers"
    if node.op_type == "MatMul" and not any(graph.is_constant(name) for name in node.input):
        return "a product of two activations"
    if not graph.is_activation(node.input[0]):
        return "its input is not a float activation"
    if not graph.is_constant(node.input[1]):
        return "its weight is computed"
    if is_expectation(graph, node):
        return "the mean of a distribution, part of a detector's decode"
    return ""


def is_expectation(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether a layer makes one number of a softmax, moved at most: the mean of a distribution over constants."""
    if node.op_type not in COMPUTE or not graph.is_constant(node.input[1]):
        return False
    shape = graph.constant(node.input[1]).shape
    if node.op_type == "Conv":
        outputs = shape[0] if all(size == 1 for size in shape[2:]) else 0
    elif node.op_type == "Gemm":
        outputs = shape[0 if attribute(node, "transB", 0) else 1]
    else:
        outputs = shape[-1] if len(shape) > 1 else 1
    tensor = str(node.input[0])
    while (maker := graph.producer(tensor)) is not None and maker.op_type in VIEWS:
        tensor = str(maker.input[0])
    return outputs == 1 and maker is not None and maker.op_type == "Softmax"


def _joins(graph: Graph, node: onnx.NodeProto, integer: set[str], kinds: _Kinds) -> bool:
    """Return whether a join or carry node can run in integers between nodes that do."""
    if node.op_type not in kinds.joins and not kinds.carry(node):
        return False
    data = node.input[:1] if kinds.carry(node) else node.input  # the rest steers: a shape, indices, a pad value
    feeds = [t for t in data if t and graph.rank(t) > 0]
    if any(graph.is_constant(t) for t in feeds) or not all(graph.is_activation(t) for t in feeds):
        return False
    outputs = [_fused_output(graph, node), *node.output[1:]]
    read_by_integer = any(reader.name in integer for tensor in outputs for reader in graph.consumers(tensor))
    return read_by_integer and all(_from_integer(graph, t, integer, kinds) for t in feeds)


def _from_integer(graph: Graph, tensor: str, integer: set[str], kinds: _Kinds) -> bool:
    """Return whether ``tensor`` comes from integer arithmetic, or will once rule 3 is applied throughout."""
    node = graph.producer(tensor)
    while node is not None and node.op_type in FUSED:
        node = graph.producer(node.input[0])
    if node is None:
        return tensor in graph.inputs
    if node.name in integer:
        return True
    if kinds.carry(node):
        return _from_integer(graph, node.input[0], integer, kinds)
    if node.op_type in kinds.joins:
        return all(_from_integer(graph, t, integer, kinds) for t in node.input if not graph.is_constant(t))
    return False


def _fused_output(graph: Graph, node: onnx.NodeProto) -> str:
    """Return a node's output behind the activation function that is fused into it."""
    output = str(node.output[0])
    reader = graph.only_consumer(output)
    fused = reader is not None and reader.op_type in FUSED and node.op_type not in MOVING
    return str(reader.output[0]) if reader is not None and fused else output


def _moved_activation(
    graph: Graph, tensor: str, integer: set[str], kinds: _Kinds, shared: Mapping[str, Activation]
) -> Activation:
    """Return the activation of ``tensor``, with the scale of the tensor from which its values were moved or selected."""
    source = tensor
    while (node := graph.producer(source)) is not None and kinds.carry(node) and node.name in integer:
        source = str(node.input[0])
    source = shared[source].source if source in shared else source
    return Activation(tensor=tensor, like=source if source != tensor else None)


def _in_order(graph: Graph, activations: dict[str, Activation]) -> tuple[Activation, ...]:
    """Return the activations in the graph's order, so that a scale is known before it is shared."""
    order = {name: index for index, name in enumerate([*graph.inputs, *(o for n in graph.nodes for o in n.output)])}
    return tuple(sorted(activations.values(), key=lambda a: order[a.tensor]))


def _layer_weight(graph: Graph, node: onnx.NodeProto) -> Weight | None:
    if not graph.is_constant(node.input[1]):
        return None
    axis = 0
    if node.op_type == "MatMul":
        axis = graph.rank(node.input[1]) - 1
    elif node.op_type == "Gemm":
        axis = 0 if attribute(node, "transB", 0) else 1
    return Weight(layer=program_node(node), tensor=str(node.input[1]), axis=axis)
