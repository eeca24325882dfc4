"""What the exporter made of a program beside decomposing it: converting the same again would take as long once more."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram


@final
class Converted:
    """Models that the exporter made of programs when it decomposed them, while these live and are as they were."""

    def __init__(self) -> None:
        self._kept: weakref.WeakKeyDictionary[Any, tuple[Any, Any]] = weakref.WeakKeyDictionary()

    def keep(self, program: ExportedProgram, converted: Any) -> None:
        """Keep a conversion while its program lives."""
        self._kept[program] = (_state(program), converted.model)

    def take(self, program: ExportedProgram) -> onnx.ModelProto | None:
        """Return the ONNX model of a program whose graph and weights are those that were converted; once."""
        state, model = self._kept.pop(program, (None, None))
        if model is None or state != _state(program):
            return None
        import torch

        made: onnx.ModelProto = torch.onnx.ONNXProgram(model, None).model_proto
        return made


def _state(program: ExportedProgram) -> object:
    """Tell whether a program is as it was: its graph, and which tensors it holds in which version."""
    tensors = [(name, id(t), t._version) for name, t in program.state_dict.items()]
    return tensors, [(node.op, str(node.target), str(node.args)) for node in program.graph.nodes]


CONVERTED = Converted()
