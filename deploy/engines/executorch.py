"""ExecuTorch with XNNPACK, Core ML or Vulkan: a ``.pte`` file. Phones run it without Python; here its Python runtime does.

The file is made on the host from the captured program (``deploy.export.to_executorch``), since ExecuTorch does not read
ONNX; building is checking that it loads. Its Python runtime takes torch's tensors, so torch is there where this
engine opens anything; on a phone neither is.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from deploy.engines.base import BuildPlan, Engine, EngineError, Feed, Session, TensorSpec, as_contiguous, check_feed
from deploy.engines.exports import ExportFormat
from deploy.engines.inputs import numbered
from profiles.device import DeviceProfile

PTE_EXAMPLE = """
With ExecuTorch alone:

```python
import numpy as np
import torch
from executorch.runtime import Runtime

golden = np.load("golden.npz")
program = Runtime.get().load_program("model.pte")
inputs = [torch.from_numpy(golden[name][:{batch}]) for name in golden.files if name.startswith("input")]
outputs = program.load_method("forward").execute(inputs)
print("largest difference:", np.abs(outputs[0].numpy() - golden["output"][:{batch}]).max())
```
"""
PTE = ExportFormat(
    file="model.pte",
    made_from="program",
    exporter="deploy.export.to_executorch:to_pte",
    packages=("torch", "executorch"),
    example=PTE_EXAMPLE,
)
PTE_COREML = ExportFormat(
    file="model-coreml.pte",
    made_from="program",
    exporter="deploy.export.to_executorch:to_coreml_pte",
    packages=("torch", "executorch", "coremltools"),
    example=PTE_EXAMPLE.replace("model.pte", "model-coreml.pte"),
)
PTE_VULKAN = ExportFormat(
    file="model-vulkan.pte",
    made_from="program",
    exporter="deploy.export.to_executorch:to_vulkan_pte",
    packages=("torch", "executorch"),
    example=PTE_EXAMPLE.replace("model.pte", "model-vulkan.pte"),
)
NAMES = "input_names"
"""Method of a program that gives the names of its inputs, JSON as bytes; only where it has names."""
# torch's numbers of scalar types, as the program's metadata has them.
DTYPES = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 11: "bool"}


class ExecuTorchEngine(Engine):
    """ExecuTorch with one backend, built from the program rather than from ONNX.

    Attributes:
        backend: its name in ExecuTorch's registry.
        source: the format of its files.
    """

    package = "executorch"
    backend: ClassVar[str]
    source: ClassVar[str]

    @final
    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=profile.threads,
            version=version,
            options={"backend": self.backend},
            source=self.source,
        )

    @final
    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        shutil.copyfile(model, folder / PTE.file)
        self.open(folder, plan)

    @final
    def open(self, folder: Path, plan: BuildPlan) -> Session:
        with _silence_stderr():
            from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
            from executorch.runtime import Runtime

            _unsafe_reset_threadpool(plan.threads)
            try:
                program = Runtime.get().load_program(folder / PTE.file)
                return _ExecuTorchSession(program, program.load_method("forward"), _input_names(program))
            except (RuntimeError, KeyError) as error:
                raise EngineError(f"ExecuTorch {plan.version} refused the model: {error}") from error


@final
class ExecuTorch(ExecuTorchEngine):
    """ExecuTorch with XNNPACK kernels."""

    name = "executorch"
    precisions = ("fp32", "int8")
    backend, source = "XnnpackBackend", "pte"


@final
class ExecuTorchCoreML(ExecuTorchEngine):
    """ExecuTorch with Core ML, in halves on an Apple device's CPU, GPU and Neural Engine."""

    name = "executorch-coreml"
    precisions = ("fp16",)
    backend, source = "CoreMLBackend", "pte-coreml"

    def obstacle(self) -> str:
        return "" if platform.system() == "Darwin" else f"Core ML is Apple's; this is {platform.system()}"


@final
class ExecuTorchVulkan(ExecuTorchEngine):
    """ExecuTorch with Vulkan, in halves on the GPU of a phone or board."""

    name = "executorch-vulkan"
    precisions = ("fp16",)
    backend, source = "VulkanBackend", "pte-vulkan"

    def obstacle(self) -> str:
        if ctypes.util.find_library("vulkan") is None:
            return "no Vulkan here (libvulkan of a GPU's driver)"
        with _silence_stderr():
            from executorch.runtime import Runtime

            registered = Runtime.get().backend_registry.registered_backend_names
        return (
            "" if self.backend in registered else f"this ExecuTorch has no {self.backend} (it has {', '.join(registered)})"
        )


@final
class _ExecuTorchSession(Session):
    def __init__(self, program: Any, method: Any, names: Sequence[str]) -> None:
        self._program = program  # the method reads its memory, and does not keep it
        self._method = method
        self._bound: list[Any] = []
        self._results: list[Any] = []
        metadata = method.metadata
        tensors = [metadata.input_tensor_meta(index) for index in range(metadata.num_inputs())]
        self.inputs = tuple(
            TensorSpec(
                name=names[index] if names else numbered("input", index),
                shape=tuple(tensor.sizes()),
                dtype=DTYPES[tensor.dtype()],
            )
            for index, tensor in enumerate(tensors)
        )

    def bind(self, feed: Feed) -> None:
        import torch

        check_feed(self.inputs, feed)
        self._bound = [torch.from_numpy(as_contiguous(feed[spec.name], spec.dtype).copy()) for spec in self.inputs]

    def run(self) -> None:
        self._results = list(self._method.execute(self._bound))

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        return {numbered("output", index): np.array(result.numpy()) for index, result in enumerate(self._results)}


def _input_names(program: Any) -> list[str]:
    """Return the names of several inputs, which the export writes beside the program; empty where there are none."""
    if NAMES not in program.method_names:
        return []
    (letters,) = program.load_method(NAMES).execute([])
    return [str(name) for name in json.loads(bytes(letters.tolist()))]


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """Suppress the runtime's messages on standard error, from C++, about missing processor files of phones."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
