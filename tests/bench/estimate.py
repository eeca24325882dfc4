"""The estimate: per-class efficiencies of this machine's runtimes, fitted on small stacks of one operator each, and how far
the estimate then is from ResNet-20 and ResNet-56, which the fit has not seen. Prints the tables of
``profiles/data/estimates.toml``, which are kept there by hand.

The least time of many is taken, on both sides: the machine is shared, and a median would measure its neighbours.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from compress.models import resnet, resnet20
from deploy.devices import device
from deploy.engines import engine
from deploy.export.to_onnx import capture, to_onnx
from deploy.latency.roofline import MATRIX, PEAKS, Kernel, kernels
from deploy.measure.timing import interleave
from deploy.qdq.placement import place
from deploy.worker.client import RemoteWorker
from profiles.device import load
from profiles.quantization import QUANTIZATION
from tests.bench.figure import Figure, Table

PROFILE = "x86-avx2"
SECONDS = 1.5
GROUPS = {
    "conv": ("conv",),
    "depthwise": ("depthwise",),
    "gemm": ("gemm",),
    "elementwise": ("elementwise", "move"),
    "transcendental": ("transcendental",),
    "pool": ("pool",),
}


def run() -> Table:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(Path(scratch))
        for runtime in load(PROFILE).runtimes:
            for precision in runtime.precisions:
                figures += _calibrated(runtime.engine, precision, files[precision])
    return Table(figures=figures, remarks=["stacks are what was fitted, ResNets what was predicted; least times, in ms"])


def stacks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Stacks of one class of operator each, and their inputs of shape (channels, height, width)."""

    def conv(channels: int, kernel: int, depth: int, groups: int = 1) -> nn.Module:
        layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups)
        return nn.Sequential(*[nn.Sequential(layer, nn.ReLU()) for _ in range(depth)])

    return {
        "conv 16 x 32x32": (conv(16, 3, 6), (16, 32, 32)),
        "conv 32 x 16x16": (conv(32, 3, 6), (32, 16, 16)),
        "conv 64 x 8x8": (conv(64, 3, 12), (64, 8, 8)),
        "conv 128 x 28x28": (conv(128, 3, 2), (128, 28, 28)),
        "conv 1x1 128 x 28x28": (conv(128, 1, 8), (128, 28, 28)),
        "depthwise 64 x 28x28": (conv(64, 3, 10, 64), (64, 28, 28)),
        "depthwise 256 x 14x14": (conv(256, 3, 10, 256), (256, 14, 14)),
        "gemm 512": (nn.Sequential(nn.Flatten(), *[nn.Linear(512, 512) for _ in range(4)]), (512, 1, 1)),
        "gemm 1024": (nn.Sequential(nn.Flatten(), *[nn.Linear(1024, 1024) for _ in range(2)]), (1024, 1, 1)),
        "sums 64 x 32x32": (Sums(6), (64, 32, 32)),
        "tanh 64 x 32x32": (nn.Sequential(*[nn.Tanh() for _ in range(4)]), (64, 32, 32)),
        "pool 64 x 32x32": (nn.Sequential(*[nn.MaxPool2d(3, 1, 1) for _ in range(4)]), (64, 32, 32)),
    }


class Sums(nn.Module):
    """Additions that nothing fuses: each result is read twice."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        before, now = inputs, inputs + 1.0
        for _ in range(self.depth):
            before, now = now, before + now
        return now


def _files(folder: Path) -> dict[str, dict[str, Path]]:
    """Each model as float and as int8, by precision and name."""
    torch.manual_seed(0)
    models = {**stacks(), "resnet20": (resnet20(), (3, 32, 32)), "resnet56": (resnet(blocks=9), (3, 32, 32))}
    files: dict[str, dict[str, Path]] = {"fp32": {}, "int8": {}}
    recipe = load(PROFILE).runtimes[0].quantization or ""
    for number, (name, (model, shape)) in enumerate(models.items()):
        plain = to_onnx(capture(model.eval(), [torch.randn(2, *shape)]))
        for precision, made in (("fp32", plain), ("int8", _quantized(plain, shape, recipe))):
            files[precision][name] = folder / f"{number}-{precision}.onnx"
            onnx.save(made, str(files[precision][name]))
    return files


def _quantized(plain: onnx.ModelProto, shape: tuple[int, ...], recipe: str) -> onnx.ModelProto:
    """``plain`` in integers; as it is when nothing of it can be."""
    if not place(plain, QUANTIZATION[recipe]).weights:
        return plain
    images = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    samples = ArraySamples(images, np.zeros(8, np.int64))
    return post_training.apply(plain, post_training.calibrate(plain, samples, recipe, "minmax"))


def _calibrated(name: str, precision: str, files: Mapping[str, Path]) -> list[Figure]:
    measured = least_ms(name, precision, files)
    work = {model: kernels(onnx.load(str(path))) for model, path in files.items()}
    fitted = [model for model in files if not model.startswith("resnet")]
    rates = fit_rates([work[m] for m in fitted], [measured[m] for m in fitted])
    print(_toml(name, precision, rates), flush=True)
    figures = []
    for model in files:
        predicted = predict(work[model], rates)
        words = f"{measured[model]:.4f} ms measured, {predicted:.4f} estimated"
        off = f"{100 * (predicted / measured[model] - 1):+.0f} %"
        figures.append(Figure(what=f"{name} {precision}: {model}", asked="", measured=f"{words} ({off})", met=None))
    return figures


def fit_rates(work: Sequence[Sequence[Kernel]], measured_ms: Sequence[float]) -> dict[str, float]:
    """ms a GFLOP of each class, ms a kernel and fixed ms: least squares of relative errors, none negative."""
    from scipy.optimize import nnls

    rows = np.array([_row(each) for each in work])
    measured = np.asarray(measured_ms)
    found, _ = nnls(rows / measured[:, None], np.ones(len(measured)))
    return dict(zip((*GROUPS, "kernel", "fixed"), found.tolist(), strict=True))


def predict(work: Sequence[Kernel], rates: Mapping[str, float]) -> float:
    return float(np.dot(_row(work), list(rates.values())))


def _row(work: Sequence[Kernel]) -> list[float]:
    gflop = [sum(k.flop.get(kind, 0.0) for k in work for kind in kinds) / 1e9 for kinds in GROUPS.values()]
    return [*gflop, float(len(work)), 1.0]


def _toml(name: str, precision: str, rates: Mapping[str, float]) -> str:
    units = load(PROFILE).units["cpu"]
    lines = [f"[{name}-avx2.{precision}]", f"fixed_ms = {rates['fixed']:.4f}", f"kernel_us = {1e3 * rates['kernel']:.2f}"]
    for kind in GROUPS:
        peak = units[PEAKS[precision] if kind in MATRIX else "fp32_tflops"].value
        lines.append(f"{kind} = {1 / (rates[kind] * peak) if rates[kind] else math.inf:.4f}")
    return "\n".join(lines)


def least_ms(name: str, precision: str, files: Mapping[str, Path]) -> dict[str, float]:
    """The least milliseconds of each file in an engine, timed in alternating blocks."""
    runtime, profile = engine(name), load(PROFILE)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        timers = {}
        for number, (model, path) in enumerate(files.items()):
            worker = stack.enter_context(RemoteWorker(device("local")))
            folder = Path(scratch) / str(number)
            worker.build(path, runtime.plan(profile, precision, runtime.affinity().version), folder)
            given = worker.open(folder)["inputs"][0]
            worker.warm({given["name"]: np.random.default_rng(0).normal(size=given["shape"]).astype(np.float32)})
            timers[model] = worker.time
        return {model: min(times.called) for model, times in interleave(timers, SECONDS).items()}
