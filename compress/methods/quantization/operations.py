"""Structural operation of quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import nn

from compress.models.inputs import InputShapes, read_shapes, zeros
from deploy.export.to_onnx import capture
from deploy.qdq.insert import Scales
from deploy.qdq.placement import Activation, Placement, Weight
from profiles.quantization import QUANTIZATION

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from compress.methods.quantization.fake_quantize import QuantizedProgram


@final
@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Capture of the module as a program, batch norms folded, with fake quantisers.

    Attributes:
        recipe: a name of ``QUANTIZATION``.
        input_shape: of one sample; of several inputs, by name, with their types.
        activations: scale and zero point each tensor starts from.
    """

    name: ClassVar[str] = "quantize"
    recipe: str
    input_shape: InputShapes
    placement: Placement
    activations: Mapping[str, tuple[float, int]]

    def apply(self, module: nn.Module) -> nn.Module:
        """Capture ``module`` as a program with fake quantisers."""
        return self.apply_to_program(capture(module, zeros(self.input_shape)))

    def apply_to_program(self, program: ExportedProgram) -> QuantizedProgram:
        """Put fake quantisers into a captured program; it stays as it is."""
        from compress.methods.quantization.fake_quantize import QuantizedProgram

        scales = Scales(activations=self.activations, weights={})
        return QuantizedProgram(program, self.placement, scales, QUANTIZATION[self.recipe])

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Quantize:
        """Read the operation from ``surgery.json``."""
        return cls(
            recipe=entry["recipe"],
            input_shape=read_shapes(entry["input_shape"]),
            placement=_read_placement(entry["placement"]),
            activations={name: (float(scale), int(zero)) for name, (scale, zero) in entry["activations"].items()},
        )


def _read_placement(entry: Mapping[str, Any]) -> Placement:
    return Placement(
        activations=tuple(Activation(**a) for a in entry["activations"]),
        weights=tuple(Weight(**w) for w in entry["weights"]),
        kept_float=tuple((str(n), str(r)) for n, r in entry["kept_float"]),
    )
