"""Modules quantised without training, for one recipe on one set of samples."""

from __future__ import annotations

from typing import final

import onnx
from torch import Tensor, nn

from compress.data import Samples
from compress.quantization.post_training import PostTraining, Price, Quantised, quantise
from compress.quantization.watcher import Watcher
from deploy.export import capture, to_onnx


@final
class ModuleQuantiser:
    """Quantises a float module as options say; exports it once, however many ways are asked of it in a row.

    Args:
        recipe: of ``QUANTIZATION``; None where no runtime of the device runs int8, and then it is not asked.
        example: inputs of shape (samples, ...).
        samples: to calibrate on.
        watcher, price: as ``quantise`` takes them.
    """

    def __init__(
        self,
        recipe: str | None,
        example: Tensor,
        samples: Samples,
        watcher: Watcher | None = None,
        price: Price | None = None,
    ) -> None:
        self._recipe, self._example, self._samples = recipe, example, samples
        self._watcher, self._price = watcher, price
        self._last: tuple[nn.Module, onnx.ModelProto] | None = None

    def __call__(self, module: nn.Module, options: PostTraining) -> Quantised:
        """``module`` must stay as it is between calls."""
        assert self._recipe is not None, "the quantize stage has asked for a runtime with int8"
        if self._last is None or self._last[0] is not module:
            self._last = module, to_onnx(capture(module, [self._example]))
        return quantise(self._last[1], self._samples, self._recipe, options, self._watcher, self._price)
