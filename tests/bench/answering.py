"""A teacher that answers from an engine against the module in PyTorch, on batches as they are trained on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.base import ArraySamples
from compress.methods.distillation.engine_teacher import EngineTeachers
from compress.models.features import ModuleLayers
from compress.models.resnet import resnet
from compress.training.trainer import fast_bf16
from tests.bench.figure import Figure, Table, at_least

ROUNDS, CALLS, BATCH = 7, 4, 128


def run() -> Table:
    inputs = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    module = resnet(blocks=9, shortcut="pad").eval()
    asked = {"module": module.to(memory_format=torch.channels_last), **_engines(module, inputs[:32])}
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(ROUNDS):
        for name, teacher in asked.items():
            times[name].append(_s(teacher, inputs))
    module_s = times.pop("module")
    ratios = {name: statistics.median(a / b for a, b in zip(module_s, t, strict=True)) for name, t in times.items()}
    what = f"ResNet-56, batches of {BATCH}: answers a second of OpenVINO int8 over the module's"
    figures: list[Figure] = [
        at_least(what, 2, ratios.pop("in int8")),
        *[Figure(what=f"the same {name}", asked="", measured=f"{ratios[name]:.2f}x", met=None) for name in ratios],
    ]
    threads = f"{torch.get_num_threads()} threads, the module in channels_last{', bf16' if fast_bf16() else ''}"
    return Table(figures=figures, remarks=[threads])


def _engines(module: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    samples = ArraySamples(images.numpy(), np.zeros(len(images), np.int64))
    whole, integer = (EngineTeachers(module, f"openvino/{precision}", images[:2], samples) for precision in ("fp32", "int8"))
    maps = [*ModuleLayers.of(module, images[:2]).maps().values()]
    shown = f"in int8 with its {len(maps)} last maps of a size"
    return {"in fp32": whole.teacher_for(), "in int8": integer.teacher_for(), shown: integer.teacher_for(maps)}


def _s(teacher: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """Median seconds of a batch, after one to warm up."""
    times = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
        for _ in range(1 + CALLS):
            started = time.perf_counter()
            teacher(inputs)
            times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
