"""Names of a program in the file that is made of it: those of its nodes, however often it is converted. Host only.

The exporter traces a program anew each time, and numbers what it finds on the way: what ``out += x`` or the sizes of windows
made ``add_42`` may be ``add_20`` the next time. Pairs are placed in one file and written into another, and fake quantisers
stand at the nodes of the program, so a tensor has to have one name in all three.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SCOPES = "pkg.torch.onnx.name_scopes"


def scopes_of(node: onnx.NodeProto) -> list[str]:
    """Return the exporter's names of the modules around an ONNX node, the outermost first, and last that of its node."""
    return list(ast.literal_eval(next((p.value for p in node.metadata_props if p.key == SCOPES), "[]")))


def keep_names(model: onnx.ModelProto, traced: ExportedProgram, program: ExportedProgram) -> None:
    """Give a file the names of ``program``, in place.

    Args:
        model: made of ``traced``, not cleaned yet.
        traced: what the exporter made of ``program``: the same nodes under names of its own. Where they are others, all
            names stay, and writing pairs at names that a file does not have is refused (``deploy.qdq.insert``).
    """
    pairs = list(zip(traced.graph.nodes, program.graph.nodes, strict=False))
    if len(traced.graph.nodes) != len(program.graph.nodes) or any(
        one.target != two.target for one, two in pairs if _acts(one)
    ):
        return
    names = {one.name: two.name for one, two in pairs if _acts(one) and one.name != two.name}
    if names:
        values = names | dict(_parts(model.graph, names))
        _rename(model.graph, names, values)


def _acts(node: object) -> bool:
    return getattr(node, "op", "") == "call_function"


def _parts(graph: onnx.GraphProto, names: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """List the values of nodes that make several, with their new names: ``split_1_split_0`` is the first of ``split_1``."""
    for node in graph.node:
        own = next(iter(scopes_of(node)[-1:]), "")
        for value in node.output:
            if own in names and value.startswith(f"{own}_"):
                yield value, names[own] + value.removeprefix(own)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str], values: Mapping[str, str]) -> None:
    for value in [*graph.value_info, *graph.initializer]:
        value.name = values.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [values.get(name, name) for name in node.input]
        node.output[:] = [values.get(name, name) for name in node.output]
        scopes = scopes_of(node)
        for entry in node.metadata_props:
            if entry.key == SCOPES and scopes:
                entry.value = repr([*scopes[:-1], names.get(scopes[-1], scopes[-1])])
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names, values)
