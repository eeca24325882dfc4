"""ONNX Runtime on CPUs: the ONNX file itself is the engine; the batch is fixed when it is opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.engines.base import BuildPlan, Engine, EngineError, Feed, Session, TensorSpec, as_contiguous, check_feed
from profiles.device import DeviceProfile

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
CPU = "CPUExecutionProvider"
FOR_INT8 = {"disabled_optimizers": "MatMulAddFusion"}
"""Once the batch is known, ONNX Runtime makes a float Gemm of a product of tokens and the bias behind it, Q/DQ pairs or not,
and converts its weights at each inference: 2.8 against 0.9 ms for three layers of a BERT of width 192 (least of forty)."""


@final
class ONNXRuntime(Engine):
    """ONNX Runtime on CPUs, its batch and threads fixed when it is opened."""

    name = "onnxruntime"
    package = "onnxruntime"
    precisions = ("fp32", "int8")

    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=profile.threads,
            version=version,
            options=FOR_INT8 if precision == "int8" else {},
        )

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        shutil.copyfile(model, folder / "model.onnx")
        open_session(folder / "model.onnx", plan)

    def open(self, folder: Path, plan: BuildPlan) -> Session:
        return ONNXRuntimeSession(open_session(folder / "model.onnx", plan))


def on_cpu(runtime: Any, options: Any) -> list[Any]:
    """Return the providers of a session on the CPU."""
    return [CPU]


def open_session(model: Path, plan: BuildPlan, providers: Callable[[Any, Any], list[Any] | None] = on_cpu) -> Any:
    """Open ``model`` as an ``InferenceSession``, its batch fixed.

    Args:
        providers: given the runtime and the session's options, returns the execution providers in order of preference, or
            adds them to the options and returns None.

    Raises:
        EngineError: the runtime refused the model.
    """
    return _create_session(model, plan, None, providers)


def save_optimized(model: Path, plan: BuildPlan, target: Path) -> None:
    """Optimise ``model`` by the plan's options and write it to ``target``.

    Raises:
        EngineError: the runtime refused the model.
    """
    _create_session(model, plan, target, on_cpu)


def _create_session(
    model: Path, plan: BuildPlan, target: Path | None, providers: Callable[[Any, Any], list[Any] | None]
) -> Any:
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    try:
        probe = ort.InferenceSession(str(model), _options(ort, 1), [CPU])
        options = _options(ort, plan.threads)
        for source in probe.get_inputs():
            if source.shape and isinstance(source.shape[0], str):
                options.add_free_dimension_override_by_name(source.shape[0], plan.batch)
        if target is not None:
            options.optimized_model_filepath = str(target)
            for key in sorted(k for k in plan.options if k.startswith("session.")):
                options.add_session_config_entry(key, plan.options[key])
        disabled = plan.options.get("disabled_optimizers", "").split()
        return ort.InferenceSession(str(model), options, providers(ort, options), disabled_optimizers=disabled or None)
    except EngineError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise EngineError(f"ONNX Runtime {plan.version} refused the model: {error}") from error


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options


@final
class ONNXRuntimeSession(Session):
    """An opened ``InferenceSession``, its inputs bound without a copy."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._bound: list[npt.NDArray[Any]] = []
        self._names = [output.name for output in session.get_outputs()]
        self.inputs = tuple(_spec(node) for node in session.get_inputs())

    def bind(self, feed: Feed) -> None:
        check_feed(self.inputs, feed)
        self._bound = [as_contiguous(feed[spec.name], spec.dtype) for spec in self.inputs]
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
