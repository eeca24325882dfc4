"""A module as ExecuTorch's file: in float, with post-training ranges, or with those it was trained to."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from compress.quantization.quantizers import QuantizedProgram
from compress.surgery import Quantize
from deploy.export import capture
from deploy.export_pte import Integers, to_pte
from deploy.qdq import Scales
from profiles.quantization import QUANTIZATION


def pte(module: nn.Module, example: Tensor, batch: int, calibrated: Callable[[], Quantize] | None) -> bytes:
    """The bytes of a ``.pte`` file for ``batch`` samples.

    Args:
        example: inputs of the module, two samples or more.
        calibrated: gives post-training ranges; None for a float file. A module trained in int8 has its own.

    Raises:
        EngineError: ExecuTorch cannot lower the model.
    """
    if isinstance(module, QuantizedProgram):
        trained = Integers(placement=module.placement, scales=module.scales(), recipe=module.recipe)
        return to_pte(module.float_program(), batch, trained)
    program = capture(module, [example])
    if calibrated is None:
        return to_pte(program, batch)
    found = calibrated()
    scales = Scales(activations=found.activations, weights={})
    return to_pte(program, batch, Integers(placement=found.placement, scales=scales, recipe=QUANTIZATION[found.recipe]))
