"""Latency estimates for an absent device: a roofline for each class of operator. Never a measurement.

    t = t0 + sum over kernels of ( max( FLOP / (efficiency of the class x peak), bytes / (0.7 x bandwidth) ) + o )

Peaks and bandwidth are the device's (``profiles/*.toml``); efficiencies, t0 and o are a calibration's
(``profiles/data/estimates.toml``), which also says on what it was fitted and how far off it was elsewhere. Host only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from deploy.onnx_graph.graph import Graph, attribute
from profiles.device import DeviceProfile, Runtime
from profiles.errors import UserError
from profiles.facts import DATA
from profiles.toml import read_toml

MATRIX = ("conv", "depthwise", "gemm")
"""Classes whose peak is the precision's; the others compute in fp32 whatever the file says."""
CLASSES = (*MATRIX, "elementwise", "transcendental", "pool", "move")
PEAKS = {"fp32": "fp32_tflops", "bf16": "bf16_tflops", "fp16": "fp16_tflops", "int8": "int8_tops"}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
REACHED = 0.7
"""Achieved share of a memory's nominal bandwidth."""

FREE = {"Constant", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Cast", "Shape"}
FREE |= {"QuantizeLinear", "DequantizeLinear"}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Relu", "Clip", "LeakyRelu", "PRelu", "Min", "Max", "Neg", "Abs", "HardSwish"}
ELEMENTWISE |= {"HardSigmoid", "BatchNormalization", "Where", "Sum"}
TRANSCENDENTAL = {
    "Sigmoid",
    "Tanh",
    "Exp",
    "Log",
    "Erf",
    "Gelu",
    "Softmax",
    "Softplus",
    "Elu",
    "Sqrt",
    "Pow",
    "Swish",
    "Mish",
}
TRANSCENDENTAL |= {"LayerNormalization", "GroupNormalization", "InstanceNormalization"}
POOL = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum"}


@dataclass
class Kernel:
    """A unit of work of a runtime: an operator and those fused to it.

    Attributes:
        flop: operations by class; a multiply-accumulate is two, an activation one whatever it computes.
        elements: number of activations read and written. weights: number of constants read.
    """

    kind: str
    flop: dict[str, float] = field(default_factory=dict)
    elements: int = 0
    weights: int = 0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A calibration in one precision: fixed time, time a kernel, and the part of the peak that each class reaches."""

    fixed_ms: float
    kernel_us: float
    efficiency: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Measured rates of a device, the basis of estimates.

    Attributes:
        devices: profiles on which it was compared with measurements.
        error_percent: largest error against the measurements named in ``compared_with``.
        least_gflop: size of the smallest model of the comparison; the error of smaller ones is not known.
    """

    name: str
    calibrated_on: str
    compared_with: str
    kind: str
    source: str
    devices: tuple[str, ...]
    error_percent: Mapping[str, float]
    rates: Mapping[str, Rates]
    least_gflop: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated milliseconds of one inference, never measured.

    Attributes:
        error: accuracy of the estimate, in words.
    """

    engine: str
    precision: str
    estimated_ms: float
    by_class_ms: Mapping[str, float]
    error_percent: float | None
    error: str
    calibrated_on: str


def kernels(model: onnx.ModelProto) -> list[Kernel]:
    """Return the kernels of one sample.

    Raises:
        UserError: the shapes of the model cannot be inferred.
    """
    graph = Graph(onnx.shape_inference.infer_shapes(model))
    fused: list[Kernel] = []
    owner: dict[str, Kernel] = {}
    unknown = sorted({o for node in graph.nodes for o in node.output if o and not _known(graph, o)})
    if unknown:
        raise UserError(f"the shape of tensor {unknown[0]!r} is not known: export with fixed sizes, all but the batch")
    for node in graph.nodes:
        mine = _kernel(graph, node, owner)
        for name in node.output:
            if mine is not None:
                owner[name] = mine
        if mine is not None and not any(mine is each for each in fused):
            fused.append(mine)
    return fused


def calibrations() -> dict[str, Calibration]:
    """Load all calibrations, by name."""
    return {name: _calibration(name, table) for name, table in read_toml(DATA / "estimates.toml").items()}


def estimate(work: Sequence[Kernel], profile: DeviceProfile, runtime: Runtime, precision: str) -> Estimate:
    """Estimate the time of ``work`` on a runtime of ``profile``.

    Raises:
        UserError: there is nothing to estimate from: no calibration for the runtime or precision, or no peak figure.
    """
    where = f"no estimate of {runtime.engine} {precision} on {profile.name}"
    if runtime.estimate is None:
        reason = "no public figures to calibrate on" if runtime.unit != "cpu" else "it was not calibrated"
        raise UserError(f"{where}: {reason}; measure it on the device (compress bench --device {profile.name}@ADDRESS)")
    calibration = calibrations()[runtime.estimate]
    if precision not in calibration.rates:
        raise UserError(f"{where}: calibration {calibration.name} has {', '.join(calibration.rates)}")
    peaks = _peaks(profile, runtime, precision, where)
    bandwidth = profile.units.get("memory", {}).get("bandwidth_gb_s")
    rates = calibration.rates[precision]
    by_class = dict.fromkeys(CLASSES, 0.0)
    for kernel in work:
        for kind, ms in _kernel_ms(kernel, rates, peaks, precision, bandwidth.value if bandwidth else math.inf).items():
            by_class[kind] += profile.batch * ms
    by_class["overhead"] = rates.fixed_ms + len(work) * rates.kernel_us / 1e3
    gflop = sum(sum(kernel.flop.values()) for kernel in work) / 1e9
    least_ms = sum(by_class.values()) - rates.fixed_ms
    error, words = _error(calibration, profile, precision, gflop, f"{least_ms:.3f} to {least_ms + rates.fixed_ms:.3f} ms")
    return Estimate(
        engine=runtime.engine,
        precision=precision,
        estimated_ms=sum(by_class.values()),
        by_class_ms=by_class,
        error_percent=error,
        error=words,
        calibrated_on=calibration.calibrated_on,
    )


def fit(gflops: Iterable[float], milliseconds: Iterable[float], peak_tflops: float) -> tuple[float, float]:
    """Fit fixed milliseconds and efficiency of ``t = t0 + GFLOP / (efficiency x peak)``, by least squares over models."""
    work = np.asarray(list(gflops))
    slope, fixed = np.polyfit(work, np.asarray(list(milliseconds)), 1)
    return float(fixed), float(1.0 / (slope * peak_tflops))


def _kernel_ms(
    kernel: Kernel, rates: Rates, peaks: Mapping[str, float], precision: str, bandwidth_gb_s: float
) -> dict[str, float]:
    """Return milliseconds by class: arithmetic, or all on the kernel's own class where memory bounds it."""
    spent = {
        kind: flop / (rates.efficiency[kind] * peaks["matrix" if kind in MATRIX else "other"] * 1e9)
        for kind, flop in kernel.flop.items()
        if flop and kind != "move"
    }
    moved = (kernel.elements + kernel.weights) * BYTES[precision] / (REACHED * bandwidth_gb_s * 1e6)
    if kernel.kind == "move":
        moved /= rates.efficiency.get("move", 1.0)
    return spent if sum(spent.values()) >= moved else {kernel.kind: moved}


def _peaks(profile: DeviceProfile, runtime: Runtime, precision: str, where: str) -> dict[str, float]:
    """Return TFLOP/s of matrix work and of the rest, for the threads that the profile uses."""
    figures = profile.units.get(runtime.unit, {})
    missing = [name for name in (PEAKS[precision], "fp32_tflops") if name not in figures]
    if missing:
        raise UserError(f"{where}: the profile states no {missing[0]} of its {runtime.unit}")
    share = 1.0
    if runtime.unit == "cpu" and "cores" in figures:
        share = min(1.0, profile.threads / figures["cores"].value)
    return {"matrix": share * figures[PEAKS[precision]].value, "other": share * figures["fp32_tflops"].value}


def _error(
    calibration: Calibration, profile: DeviceProfile, precision: str, gflop: float, span: str
) -> tuple[float | None, str]:
    if profile.name not in calibration.devices:
        others = ", ".join(calibration.devices)
        return None, f"not known: never compared with a measurement on this device, only on {others}"
    if gflop < calibration.least_gflop:
        words = f"not known: {gflop:.2f} GFLOP, and it was compared from {calibration.least_gflop:g} GFLOP upwards only"
        return None, f"{words}; {span}, without and with the fixed time, is all that can be said"
    error = calibration.error_percent[precision]
    return error, f"±{error:g} % over {calibration.compared_with}"


def _calibration(name: str, table: Mapping[str, Any]) -> Calibration:
    rates = {
        precision: Rates(
            fixed_ms=float(given["fixed_ms"]),
            kernel_us=float(given["kernel_us"]),
            efficiency={kind: float(given[kind]) for kind in CLASSES if kind in given},
        )
        for precision, given in table.items()
        if precision in PEAKS
    }
    words = {key: table[key] for key in ("calibrated_on", "compared_with", "kind", "source", "error_percent")}
    least = float(table.get("least_gflop", 0.0))
    return Calibration(name=name, **words, devices=tuple(table["devices"]), rates=rates, least_gflop=least)


def _known(graph: Graph, tensor: str) -> bool:
    try:
        return all(size > 0 for size in graph.shape(tensor)[1:])
    except KeyError:
        return False


def _kernel(graph: Graph, node: onnx.NodeProto, owner: Mapping[str, Kernel]) -> Kernel | None:
    """Return the kernel that runs ``node``: a new one, or the one that it is fused to."""
    size = math.prod(graph.sample_shape(node.output[0]))
    inputs = [name for name in node.input if name and not graph.is_constant(name)]
    read = [owner[name] for name in inputs if name in owner]
    if node.op_type in FREE:
        return read[0] if read else None
    kind = "elementwise" if node.op_type in ELEMENTWISE else "transcendental" if node.op_type in TRANSCENDENTAL else ""
    if kind:
        for name in inputs:
            if name in owner and owner[name].kind in MATRIX and _only_here(graph, name, node):
                return _fused(graph, node, owner[name], kind, size, [other for other in inputs if other != name])
    elements = size + sum(math.prod(graph.sample_shape(name)) for name in inputs)
    weights = sum(math.prod(graph.shape(name)) for name in node.input if name and graph.is_constant(name))
    kind = kind or _kind(graph, node)
    return Kernel(kind=kind, flop={kind: float(_flop(graph, node, kind, size))}, elements=elements, weights=weights)


def _fused(graph: Graph, node: onnx.NodeProto, into: Kernel, kind: str, size: int, others: list[str]) -> Kernel:
    """Fuse ``node`` to ``into``: no pass over memory but for a second operand; only costly arithmetic counts."""
    if kind == "transcendental":
        into.flop[kind] = into.flop.get(kind, 0.0) + size
    if not _gate(graph, node):
        into.elements += sum(math.prod(graph.sample_shape(other)) for other in others)
    return into


def _only_here(graph: Graph, tensor: str, node: onnx.NodeProto) -> bool:
    """Return whether ``node`` alone reads ``tensor``, or the two halves of ``x * sigmoid(x)`` do."""
    if tensor in graph.outputs:
        return False
    readers = graph.consumers(tensor)
    return len(readers) == 1 or (len(readers) == 2 and any(_gate(graph, reader) for reader in readers))


def _gate(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether ``node`` is the product of ``x * sigmoid(x)``."""
    if node.op_type != "Mul" or len(node.input) != 2:
        return False
    producers = [(graph.producer(name), other) for name, other in (node.input, reversed(node.input))]
    return any(p is not None and p.op_type in ("Sigmoid", "HardSigmoid") and other in p.input for p, other in producers)


def _kind(graph: Graph, node: onnx.NodeProto) -> str:
    if node.op_type in ("Gemm", "MatMul"):
        return "gemm"
    if node.op_type in ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"):
        depthwise = attribute(node, "group", 1) > 1 and graph.shape(node.input[1])[1] == 1
        return "depthwise" if depthwise else "conv"
    return "pool" if node.op_type in POOL else "move"


def _flop(graph: Graph, node: onnx.NodeProto, kind: str, size: int) -> int:
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(graph.sample_shape(node.input[0])) * math.prod(graph.shape(node.input[1])[1:])
    if kind in ("conv", "depthwise"):
        return 2 * size * math.prod(graph.shape(node.input[1])[1:])
    if kind == "gemm":
        return 2 * size * graph.shape(node.input[0])[0 if attribute(node, "transA", 0) else -1]
    if kind == "pool":
        window = attribute(node, "kernel_shape")
        return size * math.prod(window) if window else math.prod(graph.sample_shape(node.input[0]))
    return 0 if kind == "move" else size
