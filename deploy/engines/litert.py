"""LiteRT (TensorFlow Lite) with XNNPACK on CPUs: a ``.tflite`` file, which Android and microcontrollers run too.

The file is made on the host from the captured program (``deploy.export.to_litert``). In int8 its inputs and outputs may be
integers; the session takes and gives floats all the same, and converting them is part of what is timed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.engines.base import BuildPlan, Engine, EngineError, Feed, Session, TensorSpec, as_contiguous, check_feed
from deploy.engines.exports import ExportFormat
from deploy.engines.inputs import numbered
from profiles.device import DeviceProfile

LITERT_EXAMPLE = """
With LiteRT alone:

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter

golden = np.load("golden.npz")
interpreter = Interpreter("model.tflite", num_threads=1)
interpreter.allocate_tensors()
given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
values = golden["input"][:{batch}]
if given["dtype"] == np.int8:
    scale, zero = given["quantization"]
    values = np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8)
interpreter.set_tensor(given["index"], values)
interpreter.invoke()
outputs = interpreter.get_tensor(made["index"])
if made["dtype"] == np.int8:
    scale, zero = made["quantization"]
    outputs = (outputs.astype(np.float32) - zero) * scale
print("largest difference:", np.abs(outputs - golden["output"][:{batch}]).max())
```
"""
TFLITE = ExportFormat(
    file="model.tflite",
    made_from="program",
    exporter="deploy.export.to_litert:to_litert",
    packages=("torch", "litert-torch"),
    example=LITERT_EXAMPLE,
)


@final
class LiteRT(Engine):
    """LiteRT with XNNPACK kernels, built from the program rather than from ONNX."""

    name, package = "litert", "ai_edge_litert"
    precisions = ("fp32", "int8")
    install_hint = "pip install ai-edge-litert (and litert-torch on the host that makes its files)"

    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=profile.threads,
            version=version,
            options={"delegate": "XNNPACK"},
            source="tflite",
        )

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        shutil.copyfile(model, folder / TFLITE.file)
        self.open(folder, plan)

    def open(self, folder: Path, plan: BuildPlan) -> Session:
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(str(folder / TFLITE.file), num_threads=plan.threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"LiteRT {plan.version} refused the model: {error}") from error
        return _LiteRTSession(interpreter)


@final
class _LiteRTSession(Session):
    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._sources = sorted(interpreter.get_input_details(), key=lambda each: _number(each["name"]))
        self._results = interpreter.get_output_details()
        self.inputs = tuple(
            TensorSpec(
                name=numbered("input", index),
                shape=tuple(int(size) for size in source["shape"]),
                dtype="float32" if _grid(source) else np.dtype(source["dtype"]).name,
            )
            for index, source in enumerate(self._sources)
        )
        self._bound: list[npt.NDArray[Any]] = []
        self._floats: list[npt.NDArray[Any]] = []

    def bind(self, feed: Feed) -> None:
        check_feed(self.inputs, feed)
        self._bound = [as_contiguous(feed[spec.name], spec.dtype) for spec in self.inputs]

    def run(self) -> None:
        for source, array in zip(self._sources, self._bound, strict=True):
            self._interpreter.set_tensor(source["index"], _quantized(array, source))
        self._interpreter.invoke()
        self._floats = [_dequantized(self._interpreter.get_tensor(each["index"]), each) for each in self._results]

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        return {numbered("output", index): np.array(value) for index, value in enumerate(self._floats)}


def _grid(tensor: dict[str, Any]) -> tuple[float, int] | None:
    """Return scale and zero point of an input or output that is integers in the file; None for others."""
    scale, zero_point = tensor["quantization"]
    return (float(scale), int(zero_point)) if scale else None


def _quantized(array: npt.NDArray[Any], tensor: dict[str, Any]) -> npt.NDArray[Any]:
    if (grid := _grid(tensor)) is None:
        return array
    limits = np.iinfo(tensor["dtype"])
    integers = np.rint(array * np.float32(1 / grid[0]))
    integers += grid[1]
    clipped: npt.NDArray[Any] = np.clip(integers, limits.min, limits.max, out=integers).astype(tensor["dtype"])
    return clipped


def _dequantized(array: npt.NDArray[Any], tensor: dict[str, Any]) -> npt.NDArray[Any]:
    if (grid := _grid(tensor)) is None:
        return array
    floats: npt.NDArray[Any] = (array.astype(np.float32) - np.float32(grid[1])) * np.float32(grid[0])
    return floats


def _number(name: str) -> int:
    """Return the number at the end of an input's name, ``serving_default_args_1``."""
    digits = name.partition(":")[0].rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0
