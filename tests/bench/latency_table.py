"""The latency table against whole models: random prunings of two networks, predicted, then measured.

Prunings are measured in turns with the model as it is, and compared as fractions of it: on a machine whose clock or
neighbours change from one minute to the next, milliseconds of two minutes cannot be compared. What that shift was is told.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.execution.progress import StreamProgress
from compress.methods.pruning.blocks import removable_blocks
from compress.methods.pruning.channels import find_couplings, rank_groups
from compress.methods.pruning.cutting import separable_groups
from compress.models import resnet
from compress.pipeline.device_costs import DeviceCostModel
from deploy.devices import device
from deploy.engines import engine
from deploy.export.to_onnx import capture, to_onnx
from deploy.latency import measure_table
from deploy.latency.stopwatch import Stopwatch
from deploy.latency.template import Axis, Template
from profiles.device import load
from tests.bench.figure import Figure, Table, at_most

PRUNINGS, MOST_ERROR, MOST_SECONDS = 20, 10.0, 180.0


class Plain(nn.Module):
    """A VGG-like stack without shortcuts: every layer's cost depends on two groups, none can be chained."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 64, 128, 128, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if index % 2 else []
        self.features, self.linear = nn.Sequential(*layers), nn.Linear(widths[-1], 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(samples, 3, height, width) to (samples, 10)."""
        logits: torch.Tensor = self.linear(self.features(inputs).mean((2, 3)))
        return logits


MODELS: dict[str, tuple[str, Callable[[], nn.Module], int]] = {
    "resnet56": ("ResNet-56, 32x32", partial(resnet, blocks=9, shortcut="pad"), 32),
    "plain": ("plain stack, 64x64", Plain, 64),
}
PARTS = tuple(MODELS)


def run(part: str) -> Table:
    torch.manual_seed(0)
    name, make, size = MODELS[part]
    figures, remarks = _compared(name, make().eval(), size)
    return Table(figures=figures, remarks=remarks)


def _compared(name: str, model: nn.Module, size: int) -> tuple[list[Figure], list[str]]:
    template = _template(model, size)
    figures, remarks = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for precision in ("fp32", "int8"):
            clock, fresh = (_stopwatch(precision, Path(scratch) / part) for part in ("table", "wholes"))
            started = time.monotonic()
            table = measure_table.measure_table(template, clock, load("cpu").channel_multiple)
            seconds = time.monotonic() - started
            random = np.random.default_rng(1)
            chosen = [measure_table.random_pruning(template, load("cpu").channel_multiple, random) for _ in range(PRUNINGS)]
            times = measure_table.time_whole_models(template, fresh, [({}, []), *chosen])
            shift = times[0].p50_ms / table.predict_ms({})
            ratios = np.array([times[0].p50_ms / t.p50_ms for t in times[1:]])
            predicted = np.array([table.predict_ms({}) / table.predict_ms(*each) for each in chosen])
            errors = 100 * np.abs(predicted / ratios - 1)
            least = np.array([times[0].least_ms / t.least_ms for t in times[1:]])
            of_least = float(np.median(100 * np.abs(predicted / least - 1)))
            what = f"{name}, {precision} on openvino: speed-up of {PRUNINGS} random prunings, median error"
            figures.append(at_most(what, MOST_ERROR, float(np.median(errors)), " %"))
            spread = ", ".join(f"{q} %: {np.percentile(errors, q):.1f}" for q in (25, 50, 75, 90, 100))
            remarks.append(
                f"{name}, {precision}: errors by quantile {spread}; speed-ups {ratios.min():.1f}x to {ratios.max():.1f}x; "
                f"median error of least times {of_least:.1f}; "
                f"sum x {table.factor:.2f} + {table.offset_ms:.3f} ms; from then on the machine shifted {shift:.2f}x"
            )
            if name.startswith("ResNet-56"):
                figures.append(at_most(f"building the table of {name}, {precision}", MOST_SECONDS, seconds, " s"))
    return figures, remarks


def _template(model: nn.Module, size: int) -> Template:
    """The model's template with everything that pruning may change."""
    example = torch.randn(2, 3, size, size)
    groups, _ = rank_groups(model, example)
    able, _ = separable_groups(model, example, groups, load("cpu").channel_multiple)
    axes = {n: Axis(width=c.width, sizes=c.sizes) for n, c in find_couplings(able).items()}
    return Template(to_onnx(capture(model, [example])), axes, removable_blocks(model, example))


def _stopwatch(precision: str, folder: Path) -> Stopwatch:
    profile = replace(load("cpu"), threads=1)
    versions = {r.engine: engine(r.engine).affinity().version for r in profile.runtimes}
    silent = StreamProgress(io.StringIO())
    target = DeviceCostModel(lambda: folder, device("local"), {"url": "local"}, profile, versions, folder, silent)
    return target.stopwatch(profile.runtimes[0], precision)
