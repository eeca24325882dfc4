"""Export formats: the files that engines are built from.

To add one: an ``ExportFormat`` (beside its engine is a good place), and a line in ``EXPORTS``. Installed packages add to
the table by the entry point group ``edge_compress.exports``. What is here runs on boards too: a format names its
exporter, which needs the host's packages, by a reference that only the host loads.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, final

from profiles.tables import load_object, look_up, with_entry_points

EXPORTS: dict[str, str] = {
    "onnx": "deploy.engines.exports:ONNX",
    "onnx-fp16": "deploy.engines.exports:ONNX_FP16",
    "pte": "deploy.engines.executorch:PTE",
    "pte-coreml": "deploy.engines.executorch:PTE_COREML",
    "pte-vulkan": "deploy.engines.executorch:PTE_VULKAN",
    "ncnn": "deploy.engines.ncnn:NCNN",
    "ncnn-fp16": "deploy.engines.ncnn:NCNN_FP16",
    "mnn": "deploy.engines.mnn:MNN_FORMAT",
    "mnn-fp16": "deploy.engines.mnn:MNN_FP16",
    "tflite": "deploy.engines.litert:TFLITE",
}


@final
@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """A format of model files.

    Attributes:
        file: name of the file in a bundle; its suffix tells ``compress bench`` what a file is.
        made_from: what the exporter takes: the model as ONNX, or the captured program, which a model that was given as
            an ONNX file does not have.
        exporter: reference of the function that makes the file's bytes, loaded on the host only. From ``onnx``:
            ``(model: onnx.ModelProto, batch: int) -> bytes``. From ``program``: ``(program: ExportedProgram, batch: int,
            integers: deploy.export.program_pairs.QuantizationSpec | None) -> bytes``. Empty: the file is the ONNX model.
        packages: pip names of the packages whose versions decide the bytes.
        example: for the bundle's README: how the file runs without this product. ``{batch}`` is the samples at once,
            ``{hint}`` OpenVINO's name of the precision; braces of its own are doubled.
        packer: reference of the function that makes a packed file of the bytes and packed weights
            (``deploy.export.to_packed:pack_model``), loaded on the host only. Empty: the format is not packed.
        decoder: reference of the function ``(packed: bytes) -> bytes`` that gives the file again; runs on the device.
    """

    file: str
    made_from: Literal["onnx", "program"] = "onnx"
    exporter: str = ""
    packages: tuple[str, ...] = ()
    example: str = ""
    packer: str = ""
    decoder: str = ""

    @property
    def suffix(self) -> str:
        """Suffix of the file, with its dot."""
        return PurePath(self.file).suffix

    def missing(self) -> tuple[str, ...]:
        """Return those of its packages that are not installed here, so that its files cannot be made."""
        return tuple(package for package in self.packages if not _is_installed(package))

    def export(self) -> Callable[..., bytes]:
        """Load the exporter; host only."""
        exporter: Callable[..., bytes] = load_object(self.exporter)
        return exporter

    def pack(self) -> Callable[..., Any]:
        """Load the packer; host only."""
        packer: Callable[..., Any] = load_object(self.packer)
        return packer

    def decode(self, packed: bytes) -> bytes:
        """Restore the model file from its packed form.

        Raises:
            ValueError: ``packed`` is no packed file of this version, or the format has none.
        """
        if not self.decoder:
            raise ValueError(f"{self.file} has no packed form")
        content: bytes = load_object(self.decoder)(packed)
        return content


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def exports() -> dict[str, str]:
    """Return the table of export formats, with those that installed packages add."""
    return with_entry_points(EXPORTS, "edge_compress.exports")


def export_format(name: str) -> ExportFormat:
    """Return the export format ``name``.

    Raises:
        UserError: there is none of that name.
    """
    result: ExportFormat = look_up("export format", name, exports())
    return result


ONNX_EXAMPLE = """
With onnxruntime alone:

```python
import numpy as np
import onnxruntime

golden = np.load("golden.npz")
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
names = [given.name for given in session.get_inputs()]
inputs = {{name: golden["input" if len(names) == 1 else f"input.{{name}}"][:{batch}] for name in names}}
outputs = session.run(None, inputs)
print("largest difference:", np.abs(outputs[0] - golden["output"][:{batch}]).max())
```

With OpenVINO alone:

```python
import numpy as np
import openvino

golden = np.load("golden.npz")
compiled = openvino.Core().compile_model("model.onnx", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})
names = [port.any_name for port in compiled.inputs]
inputs = {{name: golden["input" if len(names) == 1 else f"input.{{name}}"][:{batch}] for name in names}}
outputs = list(compiled(inputs).values())
print("largest difference:", np.abs(outputs[0] - golden["output"][:{batch}]).max())
```
"""
ONNX = ExportFormat(
    file="model.onnx",
    example=ONNX_EXAMPLE,
    packer="deploy.export.to_packed:pack_model",
    decoder="deploy.packing.packed_file:read",
)
ONNX_FP16 = ExportFormat(
    file="model.onnx",
    exporter="deploy.onnx_graph.half:half_bytes",
    packages=("onnxruntime", "onnx"),
    example=ONNX_EXAMPLE,
    packer="deploy.export.to_packed:pack_model",
    decoder="deploy.packing.packed_file:read",
)
