"""A teacher that answers from an engine against the module in PyTorch, on batches as they are trained on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.base import ArraySamples
from compress.models.resnet import resnet
from compress.quantization import post_training
from compress.teaching.teacher_engine import EngineTeacher
from compress.training import fast_bf16
from deploy.export import capture, to_onnx
from profiles.device import load
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
    ratios = {n: statistics.median(a / b for a, b in zip(times["module"], t, strict=True)) for n, t in times.items()}
    figures: list[Figure] = [
        at_least(f"ResNet-56, batches of {BATCH}: answers a second of OpenVINO int8 over the module's", 2, ratios["int8"]),
        Figure(what="the same in fp32", asked="", measured=f"{ratios['fp32']:.2f}x", met=None),
    ]
    threads = f"{torch.get_num_threads()} threads, the module in channels_last{', bf16' if fast_bf16() else ''}"
    return Table(figures=figures, remarks=[threads])


def _engines(module: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    model = to_onnx(capture(module, [images[:2]]))
    recipe = load("cpu").runtime("openvino").quantization
    assert recipe is not None, "the profile gives OpenVINO's int8 a recipe"
    samples = ArraySamples(images.numpy(), np.zeros(len(images), np.int64))
    quantised = post_training.apply(model, post_training.calibrate(model, samples, recipe, "minmax"))
    files = {"fp32": model, "int8": quantised}
    return {precision: EngineTeacher(module, file, images[:2], "openvino", precision) for precision, file in files.items()}


def _s(teacher: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """Median seconds of a batch, after one to warm up."""
    times = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
        for _ in range(1 + CALLS):
            started = time.perf_counter()
            teacher(inputs)
            times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
