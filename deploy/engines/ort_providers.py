"""ONNX Runtime on accelerators, by its execution providers: the ONNX file is the engine, compiled when it is opened.

ONNX Runtime gives the CPU what a provider does not take, all of it where the provider fails to start, and says nothing. Here
its own profile is read when an engine is built: nothing on the provider is an error, a part on the CPU is a remark in the
report. ``options`` of a profile's ``[[runtime]]`` are the provider's own. XNNPACK, NNAPI and CoreML are in builds for phones
and Macs; QNN and OpenVINO come as libraries of packages of their own (``register_execution_provider_library``).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from deploy.engines import placement
from deploy.engines.base import BuildPlan, Engine, EngineError, Session, package_version
from deploy.engines.onnxruntime import CPU, FOR_INT8, ONNXRuntimeSession, open_session
from profiles.device import DeviceProfile

OPTION = "provider."
"""What stands before the provider's own options among those of a plan."""
FOLDER, THREADS = "{folder}", "{threads}"
"""Stand for the engine's folder and its threads in an option's value."""


class ProviderEngine(Engine):
    """ONNX Runtime with one execution provider, and the CPU for what that leaves.

    Attributes:
        provider: the provider's name in ONNX Runtime.
        plugin: package whose library brings it, where a build of ONNX Runtime has it not.
        hardware: kinds of hardware (``NPU``, ``GPU``, ``CPU``) of which a plug-in is given the first that it offers.
        systems: operating systems that it is on; all when empty.
        options: its own options by precision.
        sources: format of the file by precision, where not ``onnx``.
    """

    package = "onnxruntime"
    provider: ClassVar[str]
    plugin: ClassVar[str] = ""
    hardware: ClassVar[tuple[str, ...]] = ("NPU", "GPU", "CPU")
    systems: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    sources: ClassVar[Mapping[str, str]] = {}

    @final
    def obstacle(self) -> str:
        if self.systems and platform.system() not in self.systems:
            return f"{self.provider} is for {' and '.join(self.systems)}; this is {platform.system()}"
        import onnxruntime as ort

        has = ort.get_available_providers()
        if self.provider in has:
            return ""
        if not self.plugin:
            return f"this build of ONNX Runtime has no {self.provider} (it has {', '.join(has)})"
        if importlib.util.find_spec(self.plugin) is None:
            return f"{self.provider} comes with the package {self.plugin.replace('_', '-')}, which is not installed"
        try:
            found = _devices(ort, self.plugin, self.provider)
        except Exception as error:  # onnxruntime's exceptions share no base class
            return f"{self.plugin} does not load: {error}"
        return "" if found else f"{self.provider} of {self.plugin} finds no device of its own here"

    @final
    def machine(self) -> dict[str, str]:
        return {self.plugin: version} if self.plugin and (version := package_version(self.plugin)) else {}

    @final
    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        asked = next((runtime.options for runtime in profile.runtimes if runtime.engine == self.name), {})
        own = {**self.options.get(precision, {}), **asked}
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=profile.threads,
            version=version,
            options={**(FOR_INT8 if precision == "int8" else {}), **{f"{OPTION}{key}": own[key] for key in sorted(own)}},
            source=self.sources.get(precision, "onnx"),
        )

    @final
    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        shutil.copyfile(model, folder / "model.onnx")
        ran = self._placement(folder, plan)
        placement.save(folder, ran)
        if self.provider not in ran:
            left = placement.left_to(ran, CPU) or "its profile names no node"
            raise EngineError(f"{self.provider} ran nothing of the model: {left}; as engine onnxruntime it runs there too")

    @final
    def open(self, folder: Path, plan: BuildPlan) -> Session:
        return ONNXRuntimeSession(self._session(folder, plan))

    @final
    def remark(self, folder: Path, plan: BuildPlan) -> str:
        return placement.left_to(placement.load(folder), CPU)

    def _placement(self, folder: Path, plan: BuildPlan) -> dict[str, dict[str, int]]:
        """Run the model once on zeros, and return where its nodes ran."""
        with tempfile.TemporaryDirectory() as scratch:
            raw = self._session(folder, plan, profile=Path(scratch) / "profile")
            session = ONNXRuntimeSession(raw)
            session.infer({spec.name: np.zeros(spec.shape, spec.dtype) for spec in session.inputs})
            return placement.placement_of(json.loads(Path(raw.end_profiling()).read_text()))

    def _session(self, folder: Path, plan: BuildPlan, profile: Path | None = None) -> Any:
        own = {
            key.removeprefix(OPTION): value.replace(FOLDER, str(folder)).replace(THREADS, str(plan.threads))
            for key, value in plan.options.items()
            if key.startswith(OPTION)
        }

        def providers(ort: Any, options: Any) -> list[Any] | None:
            if profile is not None:
                options.enable_profiling, options.profile_file_prefix = True, str(profile)
            self.prepare(ort, options)
            if not self.plugin or self.provider in ort.get_available_providers():
                return [(self.provider, own), CPU]
            found = _devices(ort, self.plugin, self.provider)
            kinds = [kind for kind in self.hardware if any(_kind(device) == kind for device in found)]
            if not kinds:
                raise EngineError(f"{self.provider} of {self.plugin} finds no device of its own here")
            options.add_provider_for_devices([device for device in found if _kind(device) == kinds[0]][:1], own)
            return None

        session = open_session(folder / "model.onnx", plan, providers)
        if self.provider not in session.get_providers():
            raise EngineError(f"{self.provider} did not start, and ONNX Runtime {plan.version} took the CPU in its place")
        return session

    def prepare(self, ort: Any, options: Any) -> None:
        """Set what the provider needs of a session's options."""


def _devices(ort: Any, plugin: str, provider: str) -> list[Any]:
    """Return the devices that a plug-in's provider offers."""
    _register(plugin)
    return [device for device in ort.get_ep_devices() if device.ep_name == provider]


@functools.cache
def _register(plugin: str) -> None:
    """Register a plug-in's library; ONNX Runtime takes it once a process."""
    import onnxruntime as ort

    ort.register_execution_provider_library(plugin, importlib.import_module(plugin).get_library_path())


def _kind(device: Any) -> str:
    return str(device.device.type).rpartition(".")[2]


@final
class OrtCuda(ProviderEngine):
    """ONNX Runtime on NVIDIA GPUs by CUDA; int8 is TensorRT's."""

    name, provider = "onnxruntime-cuda", "CUDAExecutionProvider"
    precisions = ("fp32", "fp16")
    options: ClassVar = {"fp32": {"use_tf32": "0"}}
    sources: ClassVar = {"fp16": "onnx-fp16"}


@final
class OrtTensorRT(ProviderEngine):
    """ONNX Runtime on NVIDIA GPUs by TensorRT, which keeps what it built beside the model."""

    name, provider = "onnxruntime-tensorrt", "TensorrtExecutionProvider"
    precisions = ("fp32", "fp16", "int8")
    _cache: ClassVar = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": FOLDER}
    options: ClassVar = {
        "fp32": _cache,
        "fp16": {**_cache, "trt_fp16_enable": "1"},
        "int8": {**_cache, "trt_int8_enable": "1", "trt_fp16_enable": "1"},
    }


@final
class OrtQnn(ProviderEngine):
    """ONNX Runtime on Qualcomm's NPUs, by the package onnxruntime-qnn."""

    name, provider, plugin = "onnxruntime-qnn", "QNNExecutionProvider", "onnxruntime_qnn"
    precisions = ("fp16", "int8")
    hardware = ("NPU", "GPU")
    _burst: ClassVar = {"htp_performance_mode": "burst"}
    options: ClassVar = {"fp16": {**_burst, "enable_htp_fp16_precision": "1"}, "int8": _burst}


@final
class OrtCoreML(ProviderEngine):
    """ONNX Runtime on Apple's CPUs, GPUs and Neural Engine; fp32 is the CPU's, as the others compute in halves."""

    name, provider = "onnxruntime-coreml", "CoreMLExecutionProvider"
    precisions = ("fp32", "fp16", "int8")
    systems = ("Darwin", "iOS")
    _program: ClassVar = {"ModelFormat": "MLProgram", "RequireStaticInputShapes": "1"}
    options: ClassVar = {
        "fp32": {**_program, "MLComputeUnits": "CPUOnly"},
        "fp16": {**_program, "MLComputeUnits": "ALL"},
        "int8": {**_program, "MLComputeUnits": "ALL"},
    }


@final
class OrtNnapi(ProviderEngine):
    """ONNX Runtime on Android's accelerators by NNAPI."""

    name, provider = "onnxruntime-nnapi", "NnapiExecutionProvider"
    precisions = ("fp32", "int8")
    systems = ("Android", "Linux")


@final
class OrtXnnpack(ProviderEngine):
    """ONNX Runtime with XNNPACK's kernels, which have threads of their own."""

    name, provider = "onnxruntime-xnnpack", "XnnpackExecutionProvider"
    precisions = ("fp32", "int8")
    _threads: ClassVar = {"intra_op_num_threads": THREADS}
    options: ClassVar = {"fp32": _threads, "int8": _threads}

    def prepare(self, ort: Any, options: Any) -> None:
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")


@final
class OrtDirectML(ProviderEngine):
    """ONNX Runtime on Windows' GPUs by DirectML, which takes no memory patterns and one node at a time."""

    name, provider = "onnxruntime-directml", "DmlExecutionProvider"
    precisions = ("fp32", "fp16", "int8")
    systems = ("Windows",)
    sources: ClassVar = {"fp16": "onnx-fp16"}

    def prepare(self, ort: Any, options: Any) -> None:
        options.enable_mem_pattern, options.execution_mode = False, ort.ExecutionMode.ORT_SEQUENTIAL


@final
class OrtOpenVINO(ProviderEngine):
    """ONNX Runtime on Intel's hardware, by its own build onnxruntime-openvino or the package onnxruntime-ep-openvino."""

    name, provider, plugin = "onnxruntime-openvino", "OpenVINOExecutionProvider", "onnxruntime_ep_openvino"
    precisions = ("fp32", "int8")
    hardware = ("CPU",)
    _options: ClassVar = {"device_type": "CPU", "precision": "FP32", "num_streams": "1", "num_of_threads": THREADS}
    options: ClassVar = {"fp32": _options, "int8": _options}
