"""OpenVINO on CPUs, and on Intel's GPUs and NPUs: the ONNX file itself is the engine; batch and precision are fixed when it
is opened.

Its own format would keep the int8 weights too, but spends 20 times the weights of a small network on text.
"""

from __future__ import annotations

import shutil
import sys
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, final

import numpy.typing as npt

from deploy.engines.base import BuildPlan, Engine, EngineError, Feed, Session, TensorSpec, as_contiguous, check_feed
from profiles.device import DeviceProfile

# Without a hint OpenVINO takes bf16 on processors that have it: an "fp32" row would silently not be fp32.
HINT = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


class OpenVINOEngine(Engine):
    """OpenVINO on one kind of device, with the latency hint.

    Attributes:
        device: OpenVINO's name of it.
        files: of the driver of such a device on Linux, one of which is there where it is.
        driver: what brings the device, for a message.
    """

    package = "openvino"
    device: ClassVar[str]
    files: ClassVar[str] = ""
    driver: ClassVar[str] = ""

    @final
    def obstacle(self) -> str:
        if self.device == "CPU":
            return ""
        if sys.platform == "linux" and not any(Path("/dev").glob(self.files)):
            return f"no {self.device} that OpenVINO could use is here (/dev/{self.files}); {self.driver}"
        found = import_openvino().Core().available_devices
        if any(name.partition(".")[0] == self.device for name in found):
            return ""
        return f"OpenVINO finds no {self.device} here, but {', '.join(found) or 'nothing'}; {self.driver}"

    @abstractmethod
    def options(self, profile: DeviceProfile, precision: str) -> dict[str, str]:
        """Return the options of a build."""

    @final
    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        asked = next((runtime.options for runtime in profile.runtimes if runtime.engine == self.name), {})
        options = {**self.options(profile, precision), **asked}
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=profile.threads,
            version=version,
            options=options,
        )

    @final
    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        shutil.copyfile(model, folder / "model.onnx")
        compiled = _compiled(folder, plan, self.device)
        ran_on = {str(name).partition(".")[0] for name in compiled.get_property("EXECUTION_DEVICES")}
        if ran_on != {self.device}:
            raise EngineError(f"OpenVINO {plan.version} put the model on {', '.join(sorted(ran_on))}, not on {self.device}")

    @final
    def open(self, folder: Path, plan: BuildPlan) -> Session:
        return _OpenVINOSession(_compiled(folder, plan, self.device))


@final
class OpenVINO(OpenVINOEngine):
    """OpenVINO on CPUs, for one stream with the latency hint."""

    name = "openvino"
    precisions = ("fp32", "bf16", "int8")
    device = "CPU"

    def options(self, profile: DeviceProfile, precision: str) -> dict[str, str]:
        return {
            "INFERENCE_PRECISION_HINT": HINT[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(profile.threads),
            "NUM_STREAMS": "1",
        }


@final
class OpenVINOGPU(OpenVINOEngine):
    """OpenVINO on Intel's GPUs, for one stream with the latency hint."""

    name = "openvino-gpu"
    precisions = ("fp16", "fp32", "int8")
    device = "GPU"
    files = "dri/renderD*"
    driver = "its driver is intel-opencl-icd (Debian, Ubuntu)"

    def options(self, profile: DeviceProfile, precision: str) -> dict[str, str]:
        hint = "f16" if precision == "int8" else HINT[precision]  # of what stays float beside integers
        return {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}


@final
class OpenVINONPU(OpenVINOEngine):
    """OpenVINO on Intel's NPUs, which compute floats in halves."""

    name = "openvino-npu"
    precisions = ("fp16", "int8")
    device = "NPU"
    files = "accel/accel*"
    driver = "its driver is intel-driver-compiler-npu and intel-level-zero-npu, of github.com/intel/linux-npu-driver"

    def options(self, profile: DeviceProfile, precision: str) -> dict[str, str]:
        return {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY"}


def import_openvino() -> Any:
    """Import the package without its telemetry; where only the device side runs, without its model converter too.

    It would send a message from each process that imports it: out of a fork, beside what is being timed. Where
    ``openvino_telemetry`` is not installed it takes a stub, and so it does here. The converter is half of its import.
    Others may import both afterwards.
    """
    if "openvino" not in sys.modules:
        blocked = {"openvino_telemetry"}
        if "compress" not in sys.modules:
            blocked.add("openvino.tools.ovc")
        blocked -= sys.modules.keys()
        for name in blocked:
            sys.modules[name] = None  # type: ignore[assignment]  # an import of it then fails
        try:
            import openvino
        finally:
            for name in blocked:
                del sys.modules[name]
    import openvino

    return openvino


def _compiled(folder: Path, plan: BuildPlan, device: str) -> Any:
    core = import_openvino().Core()
    try:
        network = core.read_model(str(folder / "model.onnx"))
        network.reshape({port: _fixed(port.partial_shape, plan.batch) for port in network.inputs})
        compiled = core.compile_model(network, device, dict(plan.options))
        if plan.precision == "int8" and _fuses_integer_layers(compiled):
            compiled = core.compile_model(network, device, {**plan.options, "SNIPPETS_MODE": "DISABLE"})
        return compiled
    except RuntimeError as error:
        raise EngineError(f"OpenVINO {plan.version} refused the model: {_last_line(error)}") from error


def _fuses_integer_layers(compiled: Any) -> bool:
    """Return whether integer layers were fused into one kernel, which 2026.4 computes from memory that nobody wrote.

    Seen of fully connected layers of up to 256 channels in a row, for few samples a thread; one layer has one weight.
    """
    return any(
        sum(
            source.get_element_type().get_type_name() == "i8"
            and len(source.get_shape()) == 2
            and not source.get_node().get_input_size()
            for source in (port.get_source_output() for port in node.inputs() if not port.get_partial_shape().is_dynamic)
        )
        > 1
        for node in compiled.get_runtime_model().get_ops()
    )


@final
class _OpenVINOSession(Session):
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._bound: list[npt.NDArray[Any]] = []
        self.inputs = tuple(
            TensorSpec(name=port.any_name, shape=tuple(port.shape), dtype=port.element_type.to_dtype().name)
            for port in compiled.inputs
        )

    def bind(self, feed: Feed) -> None:
        ov = import_openvino()
        check_feed(self.inputs, feed)
        self._bound = [as_contiguous(feed[spec.name], spec.dtype) for spec in self.inputs]
        for index, array in enumerate(self._bound):
            self._request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))

    def run(self) -> None:
        # On this thread: start_async and wait hand over to another and back, 0.08 ms of a 0.15 ms network.
        self._request.infer(share_outputs=True)

    def own_ms(self) -> float | None:
        return float(self._request.latency)

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        return {
            port.any_name: self._request.get_output_tensor(index).data.copy()
            for index, port in enumerate(self._compiled.outputs)
        }


def _fixed(shape: Any, batch: int) -> list[int]:
    """Return ``shape`` with a dynamic first dimension set to ``batch``."""
    sizes = [-1 if dimension.is_dynamic else dimension.get_length() for dimension in shape]
    fixed = [batch if axis == 0 and size == -1 else size for axis, size in enumerate(sizes)]
    if -1 in fixed:
        raise EngineError(f"an input of shape {shape} has a free dimension besides its batch; export with fixed sizes")
    return fixed


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
