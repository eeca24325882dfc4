"""ONNX Runtime on CPUs: the ONNX file itself is the engine; the batch is fixed when it is opened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.engines.base import BuildPlan, Engine, EngineError, Feed, Session, TensorSpec, check_feed, contiguous
from profiles.device import DeviceProfile

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


@final
class ONNXRuntime(Engine):
    name = "onnxruntime"
    package = "onnxruntime"
    precisions = ("fp32", "int8")

    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        return BuildPlan(
            engine=self.name, precision=precision, batch=profile.batch, threads=profile.threads, version=version
        )

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        shutil.copyfile(model, folder / "model.onnx")
        _session(folder, plan)

    def open(self, folder: Path, plan: BuildPlan) -> Session:
        return _ONNXRuntimeSession(_session(folder, plan))


def _session(folder: Path, plan: BuildPlan) -> Any:
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    try:
        probe = ort.InferenceSession(str(folder / "model.onnx"), _options(ort, 1, {}), ["CPUExecutionProvider"])
        free = {i.shape[0]: plan.batch for i in probe.get_inputs() if i.shape and isinstance(i.shape[0], str)}
        options = _options(ort, plan.threads, free)
        return ort.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise EngineError(f"ONNX Runtime {plan.version} refused the model: {error}") from error


def _options(ort: Any, threads: int, free: dict[str, int]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for name, size in free.items():
        options.add_free_dimension_override_by_name(name, size)
    return options


@final
class _ONNXRuntimeSession(Session):
    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._bound: list[npt.NDArray[Any]] = []
        self._names = [output.name for output in session.get_outputs()]
        self.inputs = tuple(_spec(node) for node in session.get_inputs())

    def bind(self, feed: Feed) -> None:
        check_feed(self.inputs, feed)
        self._bound = [contiguous(feed[spec.name], spec.dtype) for spec in self.inputs]
        for spec, array in zip(self.inputs, self._bound, strict=True):
            self._binding.bind_input(spec.name, "cpu", 0, np.dtype(spec.dtype), array.shape, array.ctypes.data)
        for name in self._names:
            self._binding.bind_output(name)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))


def _spec(node: Any) -> TensorSpec:
    if any(not isinstance(size, int) for size in node.shape):
        raise EngineError(f"input {node.name!r} of shape {node.shape} has a free dimension besides its batch")
    if node.type not in DTYPES:
        raise EngineError(f"input {node.name!r} is a {node.type}; known: {', '.join(DTYPES)}")
    return TensorSpec(name=node.name, shape=tuple(node.shape), dtype=DTYPES[node.type])
