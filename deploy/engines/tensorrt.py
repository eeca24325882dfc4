"""TensorRT on NVIDIA GPUs, through its own Python API: 8.5 and 8.6, 10, 11.

int8 comes from Q/DQ pairs in the file, never from a calibrator. Three generations of the builder (``plan`` decides):

- 8.5, 8.6: explicit batch; fp16 and int8 are flags.
- 10.0 to 10.11: the same flags, on a network whose batch is explicit anyway. Strong typing is there and not complete.
- 10.12 on, and 11, which has nothing else: strongly typed. The file's own types are the precision, no flags.

A plan file runs on the very TensorRT version, GPU and power mode it was built for; ``built_for`` keeps which.
Unproven: no line of ``build`` or of the session has run on a GPU. Names, flags and signatures are tested against
the vendor's own bindings of each generation.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import Any, final

import numpy.typing as npt

from deploy.engines import build_record, cuda
from deploy.engines.base import BuildPlan, Engine, EngineError, Feed, Session, TensorSpec, check_feed
from profiles.device import DeviceProfile
from profiles.facts import facts

MODEL = "model.plan"
FIRST_SUPPORTED, FIRST_TYPED = (8, 5), (10, 12)
WORKSPACE_BYTES = 1 << 30
"""Scratch memory that a layer may take: enough for every tactic of convolutional networks, safe on a 4 GB board."""
FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
MOST_MESSAGES = 5


@final
class TensorRT(Engine):
    """TensorRT engines, built on the device that runs them; one inference includes the copies to and from the GPU."""

    name = package = "tensorrt"
    precisions = ("fp32", "fp16", "int8")
    install_hint = (
        "on a Jetson JetPack's python3-libnvinfer, seen by a venv made with --system-site-packages (PyPI's aarch64 wheel is "
        "for servers); on x86 pip install tensorrt"
    )

    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        generation = parse_generation(version)
        typed = generation >= FIRST_TYPED
        options = {
            "network": "STRONGLY_TYPED" if typed else "EXPLICIT_BATCH" if generation < (10, 0) else "",
            "flags": "" if typed else " ".join(FLAGS[precision]),
            # TF32 is on by default: an "fp32" row would silently not be fp32.
            "cleared": "TF32" if precision == "fp32" else "",
            "workspace_bytes": str(WORKSPACE_BYTES),
        }
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=1,
            version=version,
            options=options,
            source="onnx-fp16" if typed and precision != "fp32" else "onnx",
        )

    def obstacle(self) -> str:
        release = facts().l4t
        if release and int(release.split(".")[0]) < 38 and importlib.util.find_spec("tensorrt_libs") is not None:
            return (
                f"this is PyPI's tensorrt, whose aarch64 build is for servers and knows no GPU of L4T {release}; "
                "pip uninstall it and use JetPack's (apt install python3-libnvinfer, venv with --system-site-packages)"
            )
        try:
            cuda.compute_capability()
        except cuda.CudaError as error:
            return f"tensorrt is installed, and no GPU can be used: {error}"
        return ""

    def machine(self) -> dict[str, str]:
        here = facts()
        return {
            "l4t": here.l4t,
            "compute_capability": cuda.compute_capability(),
            "multiprocessors": str(cuda.multiprocessors()),
            "power_mode": here.power_mode,
        }

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        import tensorrt as trt

        log, machine = _error_log(trt), self.machine()
        builder = trt.Builder(log)
        network = _parse(trt, builder, model, plan, log)
        config = _configure(trt, builder, network, plan)
        timings = _timing_cache(plan, machine)
        cache = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
        config.set_timing_cache(cache, False)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise _refusal(plan, log)
        (folder / MODEL).write_bytes(bytes(serialized))
        _write_cache(timings, bytes(config.get_timing_cache().serialize()))
        build_record.save(folder, build_record.record(model, plan, machine))

    def open(self, folder: Path, plan: BuildPlan) -> Session:
        import tensorrt as trt

        built = build_record.load(folder) or {}
        changed = build_record.mismatches(built.get("machine", {}), self.machine())
        if changed:
            raise EngineError(
                f"the TensorRT engine in {folder} is for another machine ({'; '.join(changed)}); build it again"
            )
        log = _error_log(trt)
        _load_plugins(trt)
        runtime = trt.Runtime(log)
        opened = runtime.deserialize_cuda_engine((folder / MODEL).read_bytes())
        if opened is None:
            raise _refusal(plan, log)
        return _TensorRTSession(trt, runtime, opened, plan.batch)


def parse_generation(version: str) -> tuple[int, int]:
    """Parse major and minor number of a TensorRT version.

    Raises:
        EngineError: it is older than 8.5, whose sessions have other calls.
    """
    numbers = re.findall(r"\d+", version)[:2]
    generation = (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (0, 0)
    if generation < FIRST_SUPPORTED:
        raise EngineError(f"TensorRT {version or '(no version)'}: 8.5 (JetPack 5.1) or newer is needed")
    return generation


def _error_log(trt: Any) -> Any:
    """Make a logger that keeps TensorRT's error messages."""

    class ErrorLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.messages.append(message)

    return ErrorLog()


def _load_plugins(trt: Any) -> None:
    """Load TensorRT's plugin layers, to which the parser maps some ONNX operators."""
    trt.init_libnvinfer_plugins(trt.Logger(trt.Logger.ERROR), "")


def _parse(trt: Any, builder: Any, model: Path, plan: BuildPlan, log: Any) -> Any:
    _load_plugins(trt)
    kind = plan.options["network"]
    flags = 1 << int(getattr(trt.NetworkDefinitionCreationFlag, kind)) if kind else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.read_bytes()):
        log.messages += [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise _refusal(plan, log)
    return network


def _configure(trt: Any, builder: Any, network: Any, plan: BuildPlan) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(plan.options["workspace_bytes"]))
    for name in plan.options["flags"].split():
        config.set_flag(getattr(trt.BuilderFlag, name))
    for name in plan.options["cleared"].split():
        config.clear_flag(getattr(trt.BuilderFlag, name))
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    free = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    if free:
        shapes = builder.create_optimization_profile()
        for tensor in free:
            fixed = _fixed(tensor.name, tuple(tensor.shape), plan.batch)
            shapes.set_shape(tensor.name, fixed, fixed, fixed)
        config.add_optimization_profile(shapes)
    return config


def _fixed(name: str, shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """Return ``shape`` with a free first dimension set to ``batch``."""
    if -1 in shape[1:]:
        raise EngineError(f"input {name!r} of shape {shape} has a free dimension besides its batch; export with fixed sizes")
    return (batch, *shape[1:]) if -1 in shape else shape


def _timing_cache(plan: BuildPlan, machine: dict[str, str]) -> Path:
    """Return the file of tactic timings for all builds of this version, GPU and power mode."""
    root = Path(os.environ.get("EDGE_CACHE") or Path.home() / ".cache" / "edge-compress")
    facts = [plan.version, *(machine[key] for key in ("compute_capability", "multiprocessors", "power_mode"))]
    return root / ("tensorrt-" + "-".join(re.sub(r"\W", "_", fact) for fact in facts) + f"-{platform.machine()}.timing")


def _write_cache(path: Path, content: bytes) -> None:
    """Write ``path`` whole or not at all; a cache that cannot be written is no fault."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)


def _refusal(plan: BuildPlan, log: Any) -> EngineError:
    reason = " | ".join(" ".join(message.split()) for message in log.messages[:MOST_MESSAGES]) or "it did not say why"
    return EngineError(f"TensorRT {plan.version} refused the model: {reason}")


@final
class _TensorRTSession(Session):
    def __init__(self, trt: Any, runtime: Any, opened: Any, batch: int) -> None:
        self._runtime, self._engine = runtime, opened  # the context reads both, and keeps neither
        self._context = opened.create_execution_context()
        self._stream = cuda.Stream()
        names = [opened.get_tensor_name(index) for index in range(opened.num_io_tensors)]
        sources = [name for name in names if opened.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = tuple(self._spec(name, _fixed(name, tuple(opened.get_tensor_shape(name)), batch)) for name in sources)
        for spec in self.inputs:
            self._context.set_input_shape(spec.name, spec.shape)
        results = [self._spec(name, self._context.get_tensor_shape(name)) for name in names if name not in sources]
        self._tensors = {spec.name: cuda.Tensor(spec.shape, spec.dtype) for spec in (*self.inputs, *results)}
        self._sources = [self._tensors[spec.name] for spec in self.inputs]
        self._results = {spec.name: self._tensors[spec.name] for spec in results}
        for name, tensor in self._tensors.items():
            self._context.set_tensor_address(name, tensor.address)

    def bind(self, feed: Feed) -> None:
        check_feed(self.inputs, feed)
        for spec in self.inputs:
            self._tensors[spec.name].host[...] = feed[spec.name]

    def run(self) -> None:
        for tensor in self._sources:
            tensor.upload(self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT could not start an inference")
        for tensor in self._results.values():
            tensor.download(self._stream)
        self._stream.wait()

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        return {name: tensor.host.copy() for name, tensor in self._results.items()}

    def _spec(self, name: str, shape: Any) -> TensorSpec:
        return TensorSpec(name=name, shape=tuple(shape), dtype=DTYPES[self._engine.get_tensor_dtype(name).name])
