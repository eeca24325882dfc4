"""torch -> ONNX: capture a module as a program, and export the program.

Quantisation-aware training trains the same captured program, so a tensor has one name in it and in the ONNX file. Batch
norms are folded into the convolutions and linear layers before them, since every engine does so.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import logging
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import onnx

from deploy.engines.inputs import numbered
from deploy.export.converted import CONVERTED
from deploy.export.node_names import keep_names, scopes_of
from deploy.export.tracing import check_batch, drop_assertions, free_lengths
from deploy.onnx_graph.graph import FX_NODE, drop_unused_constants, use_global_pools
from profiles.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import fx
    from torch.export import ExportedProgram

T = TypeVar("T")
OPSET = 18  # below it the exporter's version converter has no adapter for Pad
IR_VERSION = 10


def capture(
    module: torch.nn.Module, example: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]
) -> ExportedProgram:
    """Capture the module in evaluation mode as one program, batch norms folded, batch size free.

    Args:
        module: called as ``module(*example)``, or by name; left as it is.
        example: an input, several by place, or several by name, which then have their names in the program; with at least
            two samples on the first axis, so that the batch is not mistaken for 1.

    Raises:
        UserError: the module cannot be captured; names the module and the operator or reason.
    """
    import torch

    training = module.training
    module.eval()
    tracker = _ModuleTracker(module)
    program: ExportedProgram | None = None
    try:
        with tracker, silence_exporter(), torch.no_grad(), free_lengths(module):
            program = _exported(module, example)
            check_batch(program)
            drop_assertions(program)
            _fold_batch_norms(program)
            exported = _decompose(program)
    except UserError as error:
        raise UserError(*(f"{type(module).__name__} does not export: {fault}" for fault in error.faults)) from None
    except Exception as error:
        raise UserError(f"{type(module).__name__} does not export: {_explain(error, tracker, program)}") from error
    finally:
        module.train(training)
    return exported


def to_onnx(program: ExportedProgram) -> onnx.ModelProto:
    """Convert the program to a clean ONNX model, inputs by name or ``input``, ``input_1`` ..., outputs ``output`` ...

    Clean: no initializer among the inputs, constants folded, shapes inferred, checked, and of the metadata
    only the name of each node's module and of its node in the program.
    """
    with silence_exporter():
        model = CONVERTED.take(program)
        if model is None:
            converted = _convert(program)
            model = converted.model_proto
            keep_names(model, converted.exported_program, program)
    _clean(model)
    return model


def to_graph_module(program: ExportedProgram) -> fx.GraphModule:
    """Convert the program to a graph module with parameters of its own, which has train() and eval()."""
    from torch import fx

    module = program.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            module.graph.erase_node(node)
    return deep_copy(fx.GraphModule(module, module.graph))


def with_parameters(program: ExportedProgram, graph: torch.nn.Module) -> ExportedProgram:
    """Copy ``program`` with the parameters and buffers of ``graph``, its graph module, under the same names."""
    import torch

    updated = deep_copy(program)
    values = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    for name in updated.state_dict.keys() & values.keys():
        value = values[name].detach().clone()
        previous = updated.state_dict[name]
        updated.state_dict[name] = torch.nn.Parameter(value) if isinstance(previous, torch.nn.Parameter) else value
    return updated


def tensor_nodes(graph: fx.Graph) -> dict[str, fx.Node]:
    """Return a program's nodes by the names of their tensors in the ONNX file.

    Inputs and outputs have names of their own there, and so have the parts of a split (torch names them by ``getitem``, and
    onnxscript, which makes one Split of a sequence and its parts, by the split).
    """
    nodes = {node.name: node for node in graph.nodes}
    parts = [node for node in graph.nodes if node.op == "call_function" and node.target is operator.getitem]
    nodes |= {f"{node.args[0].name}_split_{node.args[1]}": node for node in parts}
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    results = next(node for node in graph.nodes if node.op == "output").all_input_nodes
    inputs = _input_names(_in_spec(graph), len(placeholders))
    named = [(inputs, placeholders), (_names("output", len(results)), results)]
    return nodes | {name: node for names, found in named for name, node in zip(names, found, strict=True)}


def deep_copy(original: T) -> T:
    """Make a deep copy, without torch's warning about its own tree specifications."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(original)


def _convert(program: ExportedProgram) -> Any:
    import torch

    inputs = len(program.graph_signature.user_inputs)
    outputs = len(program.graph_signature.user_outputs)
    with _cached_registry():
        converted = torch.onnx.export(
            program,
            (),
            input_names=_input_names(program.call_spec.in_spec, inputs),
            output_names=_names("output", outputs),
            opset_version=OPSET,
            verbose=False,
            optimize=True,
        )
    assert converted is not None
    return converted


@contextlib.contextmanager
def _cached_registry() -> Iterator[None]:
    """Cache the exporter's table of operators while the context is open: building it takes a third of each export.

    Nothing is registered here, so that no export changes what the next one reads. The table has no public name: where a
    release of torch moves it, exports are as slow as torch makes them.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        original = ONNXRegistry.__dict__["from_torchlib"]
    except (ImportError, KeyError):
        yield
        return
    ONNXRegistry.from_torchlib = classmethod(_cached(original.__func__))  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


@functools.cache
def _cached(make: Callable[..., Any]) -> Callable[..., Any]:
    return functools.cache(make)


def _decompose(program: ExportedProgram) -> ExportedProgram:
    """Decompose the program by the exporter: then it has the names of the ONNX file.

    Converting that one again gives other numbers, which ``keep_names`` takes back.
    """
    converted = _convert(program)
    decomposed: ExportedProgram = converted.exported_program
    CONVERTED.keep(decomposed, converted)
    return decomposed


def _exported(
    module: torch.nn.Module, example: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]
) -> ExportedProgram:
    """Export the module, the batch of each input free."""
    import torch

    auto = {0: torch.export.Dim.AUTO}
    if isinstance(example, Mapping):
        known = [name for name in inspect.signature(module.forward).parameters if name in example]
        ordered = {name: example[name] for name in [*known, *(n for n in example if n not in known)]}
        shapes: Any = _kwargs_shapes(module, dict.fromkeys(ordered, auto), known)
        return torch.export.export(module, (), ordered, dynamic_shapes=shapes)
    given = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    free = tuple(auto for _ in given)
    return torch.export.export(module, given, dynamic_shapes=(free,) if _takes_args(module) else free)


def _kwargs_shapes(module: torch.nn.Module, free: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Put the shapes of names that ``forward`` does not list under its ``**`` parameter, as export wants them."""
    rest = {name: shape for name, shape in free.items() if name not in known}
    if not rest:
        return free
    parameters = inspect.signature(module.forward).parameters.values()
    variable = next(p.name for p in parameters if p.kind is p.VAR_KEYWORD)
    return {**{name: free[name] for name in known}, variable: rest}


def input_names(program: ExportedProgram) -> list[str]:
    """Return the names by which a program is called; empty where it is called by place."""
    count = len(program.graph_signature.user_inputs)
    names = _input_names(program.call_spec.in_spec, count)
    return [] if names == _names("input", count) else names


def _in_spec(graph: fx.Graph) -> Any:
    """Return how a captured program takes its inputs."""
    return graph._codegen.pytree_info.in_spec  # type: ignore[attr-defined]  # of what torch.export has written


def _input_names(in_spec: Any, count: int) -> list[str]:
    """Return the inputs' names in the ONNX file: as the program is called by name, else ``input``, ``input_1`` ..."""
    kwargs = in_spec.children()[1] if hasattr(in_spec, "children") else in_spec.children_specs[1]
    named = [str(name) for name in kwargs.context or ()]
    return named if len(named) == count else _names("input", count)


def _names(stem: str, count: int) -> list[str]:
    return [numbered(stem, index) for index in range(count)]


def _takes_args(module: torch.nn.Module) -> bool:
    """Return whether ``forward`` takes ``*args``, which export sees as one tuple."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    return bool(parameters) and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL


def _fold_batch_norms(program: ExportedProgram) -> None:
    """Fold each batch norm into the convolution or linear layer before it, where that has no other reader.

    The batch norm's bias becomes the layer's, so that no parameter has to be added to the program.
    A batch norm without a bias of its own, or behind anything else, stays.
    """
    import torch

    names = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    state = program.state_dict
    aten = torch.ops.aten
    foldable = {aten.conv1d.default: 0, aten.conv2d.default: 0, aten.conv3d.default: 0, aten.linear.default: 0}
    for node in list(program.graph.nodes):
        if node.target is not aten.batch_norm.default:
            continue
        layer, weight, bias, mean, variance = node.args[:5]
        if layer.target not in foldable or len(layer.users) > 1 or weight is None or bias is None:
            continue
        own_bias = layer.args[2] if len(layer.args) > 2 else None
        if _shared(layer.args[1]) or _shared(bias) or (own_bias is not None and _shared(own_bias)):
            continue
        gamma, beta = state[names[weight.name]], state[names[bias.name]]
        mu, var = state[names[mean.name]], state[names[variance.name]]
        kernel = state[names[layer.args[1].name]]
        scale = gamma / torch.sqrt(var + node.args[7])
        shift = beta - mu * scale
        if own_bias is not None:
            shift = shift + state[names[own_bias.name]] * scale
        folded = kernel * scale.reshape(-1, *[1] * (kernel.dim() - 1))
        state[names[layer.args[1].name]] = torch.nn.Parameter(folded)
        state[names[bias.name]] = torch.nn.Parameter(shift)
        layer.args = (layer.args[0], layer.args[1], bias, *layer.args[3:])
        node.replace_all_uses_with(layer)
        program.graph.erase_node(node)
    program.graph_module.recompile()


def _shared(placeholder: Any) -> bool:
    return len(placeholder.users) > 1


def _clean(model: onnx.ModelProto) -> None:
    initializers = {tensor.name for tensor in model.graph.initializer}
    assert not initializers & {i.name for i in model.graph.input}, "the exporter keeps initializers out of the inputs"
    for node in model.graph.node:
        _name_node(node)
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        del value.metadata_props[:]
    del model.metadata_props[:], model.graph.metadata_props[:]
    use_global_pools(model)
    drop_unused_constants(model)
    for value in [*model.graph.input, *model.graph.output]:
        first = value.type.tensor_type.shape.dim[:1]
        if first and first[0].dim_param:
            first[0].dim_param = "batch"
    model.graph.name, model.ir_version = "model", IR_VERSION
    model.producer_name, model.producer_version = "edge-compress", ""
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    model.CopyFrom(inferred)
    onnx.checker.check_model(model, full_check=True)


def _name_node(node: onnx.NodeProto) -> None:
    """Name a node by its module and operator, e.g. ``layer1.0.conv1/Conv:conv2d_1``, and keep the program's name."""
    scopes = scopes_of(node)
    del node.metadata_props[:]
    module = next((scope for scope in reversed(scopes[:-1]) if scope), "")
    if scopes:
        node.metadata_props.add(key=FX_NODE, value=scopes[-1])
    node.name = f"{module}/{node.op_type}:{node.output[0]}"
    node.doc_string = ""


class _ModuleTracker:
    """Context manager that tracks the innermost module in its forward pass, for error messages."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._path: list[str] = []
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, child in self._module.named_modules():
            self._handles.append(child.register_forward_pre_hook(functools.partial(self._enter, name)))
            self._handles.append(child.register_forward_hook(self._leave))

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, name: str, *call: object) -> None:
        self._path.append(name)

    def _leave(self, *call: object) -> None:
        self._path.pop()

    def __str__(self) -> str:
        return next((name for name in reversed(self._path) if name), "")


def _explain(error: Exception, tracker: _ModuleTracker, program: ExportedProgram | None) -> str:
    """Explain an export error: the operator and its module, or the module and torch's first line."""
    text = " ".join(str(error).split())
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    if operator:
        module = _calling_module(operator.group(1), program)
        return f"operator {operator.group(1)} in module {module} has no ONNX form; write it with other operators"
    where = f"in module {tracker}: " if str(tracker) else ""
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return f"{where}its forward pass branches on the values of a tensor; use torch.where or torch.cond there"
    summary = re.search(r"Exception summary <class '[\w.]*?(\w+)'>: (.{1,200})", text)
    first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    return where + (f"{summary.group(1)}: {summary.group(2)}" if summary else first)


def _calling_module(operator: str, program: ExportedProgram | None) -> str:
    """Return the path of the first module that calls an operator; ``unknown`` where the program has no such call."""
    for node in program.graph.nodes if program else []:
        if str(node.target).startswith(operator + "."):
            stack = node.meta.get("nn_module_stack") or {}
            paths = [str(path) for path, _ in stack.values() if path]
            return repr(paths[-1]) if paths else "the model itself"
    return "unknown"


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Suppress the exporter's progress prints and registration warnings; errors still raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
