"""Quantised training on CIFAR-10: a step's time, int8 and 4-bit quantised distillation, 2-bit points learned by gradient.

``python -m tests.bench quantised:step`` takes a minute; the others train on two slow cores for hours together.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.data.base import Splits
from compress.factories import factory
from compress.models.resnet import resnet
from compress.objective import Objective, parse_losses
from compress.points import bits_by_gradient, learn_points
from compress.post_training import PostTraining, quantise
from compress.progress import StreamProgress
from compress.quantizers import QuantizedProgram
from compress.schedule import Schedule
from compress.tasks.classification import Classification
from compress.tensors import load_foreign, load_into
from compress.training import Trainer
from deploy.export import capture, to_onnx
from deploy.packing import Size, pack, size
from deploy.qdq import insert
from profiles.device import load
from profiles.quantization import QUANTIZATION
from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.int8 import _judged
from tests.bench.int8_subjects import ROOT, Subject
from tests.bench.running import MISSING

PARTS = ("step", "int8", "four", "two")
BATCH, STEPS, ROUNDS = 128, 6, 3
LOSSES = [{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}]
CHECKPOINTS = {3: "resnet20-12fca82f.th", 9: "resnet56-4bfd9763.th"}
FOUR_BITS = "bench-four-bits"


def run(part: str) -> Table:
    if part != "step" and "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    parts: dict[str, Callable[[], list[Figure]]] = {"step": _step, "int8": _int8, "four": _four, "two": _two}
    return Table(figures=parts[part]())


def _step() -> list[Figure]:
    """A step of ResNet-20 through fake quantisers against the float one, in turns, same batch and optimizer."""
    torch.manual_seed(0)
    plain = resnet(blocks=3, shortcut="pad")
    inputs, targets = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    program = _program(plain, inputs[:64].numpy(), "x86-vnni")
    ratios = []
    for _ in range(ROUNDS):
        ours, theirs = (_seconds(module, inputs, targets) for module in (program, plain))
        ratios.append(ours / theirs)
    ratio = statistics.median(ratios)
    return [at_most("a quantised training step against the float step, ResNet-20, batch 128", 2.0, ratio)]


def _seconds(module: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    module.to(memory_format=torch.channels_last)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.train().parameters(), lr=1e-3, momentum=0.9)
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        loss = functional.cross_entropy(module(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _program(module: nn.Module, inputs: Any, recipe: str) -> QuantizedProgram:
    from compress.data.base import ArraySamples

    model = to_onnx(capture(module, [torch.from_numpy(inputs[:2])]))
    samples = ArraySamples(inputs, np.zeros(len(inputs), np.int64))
    found = quantise(model, samples, recipe, PostTraining(weights="largest", biases=False))
    return found.quantize.apply(module)  # type: ignore[return-value]


def _data() -> Splits:
    path = str(Path(os.environ["EDGE_DATA"]) / "data" / "cifar10")
    return factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")(path=path)


def _teacher(blocks: int) -> nn.Module:
    module = resnet(blocks=blocks, shortcut="pad")
    file = Path(os.environ["EDGE_DATA"]) / "weights" / "resnet_cifar10" / CHECKPOINTS[blocks]
    load_into(module, load_foreign(file), file.name)
    return module.eval()


def _distilled(blocks: int, recipe: str, epochs: int, rate: float) -> tuple[QuantizedProgram, nn.Module, Splits]:
    """The checkpoint through fake quantisers under its own float outputs."""
    data, teacher = _data(), _teacher(blocks)
    program = _program(_teacher(blocks), data.calibration.load(np.arange(len(data.calibration))).inputs, recipe)
    example = torch.from_numpy(data.train.load(np.arange(2)).inputs)
    objective = Objective(parse_losses(LOSSES), Classification(), program, teacher.requires_grad_(False), example)
    with tempfile.TemporaryDirectory() as folder:
        schedule = Schedule(epochs=epochs, batch_size=BATCH, learning_rate=rate, weight_decay=1e-4)
        _trainer().fit("quantised", program, objective, data.train, schedule, Path(folder))
    return program, teacher, data


def _trainer() -> Trainer:
    return Trainer(0, StreamProgress(io.StringIO()))


def _top1(module: nn.Module, data: Splits) -> float:
    return Classification().evaluate(_trainer().predictor(module), data.test).value


def _int8() -> list[Figure]:
    recipe = load("cpu").runtime("openvino").quantization
    program, teacher, data = _distilled(9, recipe, 3, 0.002)
    plain = to_onnx(program.float_program())
    subject = Subject(model=plain, calibration=data.calibration, test=data.test, task=Classification())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        onnx.save(insert(plain, program.placement, program.scales(), QUANTIZATION[recipe]), str(file))
        engine, _ = _judged(subject, file, "openvino", "int8")
    what = "ResNet-56, int8 on OpenVINO after 3 epochs of quantised distillation: top-1 above fp32's"
    return [at_least(what, 0.0, engine - _top1(teacher, data), " points")]


def _four() -> list[Figure]:
    QUANTIZATION[FOUR_BITS] = replace(QUANTIZATION["x86-vnni"], weight_bits=4)
    program, teacher, data = _distilled(3, FOUR_BITS, 15, 0.01)
    drop = _top1(teacher, data) - _top1(program.eval(), data)
    return [at_most("ResNet-20, 4-bit weights, quantised distillation: points below fp32", 0.5, drop, " points")]


def _two() -> list[Figure]:
    """2 bits of ResNet-20's convolutions: even points, quantiles, points by gradient, bits by gradient too."""
    data, teacher = _data(), _teacher(3).requires_grad_(False)
    rng = np.random.default_rng(0)
    figures = [_told("fp32", _top1(teacher, data), None, sum(p.numel() * 4 for p in teacher.parameters()))]
    layers = [name for name, layer in teacher.named_modules() if isinstance(layer, nn.Conv2d)]
    for name, steps, shared in (("even", 0, False), ("points by gradient", 4000, False), ("and bits", 4000, True)):
        module = _teacher(3)

        def loss(module: nn.Module = module) -> Tensor:
            batch = data.train.load(rng.integers(0, len(data.train), BATCH), rng)
            inputs = torch.from_numpy(batch.inputs)
            logits, taught = module(inputs), teacher(inputs)
            soft = [functional.log_softmax(z / 2, dim=1) for z in (logits, taught)]
            told = functional.cross_entropy(logits, torch.from_numpy(batch.targets))
            return 0.7 * 4 * functional.kl_div(*soft, log_target=True, reduction="batchmean") + 0.3 * told

        bits = bits_by_gradient(_norms(module, layers, loss), 2) if shared else dict.fromkeys(layers, 2)
        if steps:
            packed = learn_points(module, bits, loss, steps=steps, learning_rate=1e-4)
        else:
            packed = {path: pack(module.get_submodule(path).weight.detach().numpy(), 2) for path in layers}
            for path, each in packed.items():
                module.get_submodule(path).weight.data.copy_(torch.from_numpy(each.unpacked()))
        sizes = [size(each) for each in packed.values()]
        rest = sum(p.numel() * 4 for n, p in module.named_parameters() if n.removesuffix(".weight") not in packed)
        figures.append(_told(f"2 bits, {name}", _top1(module, data), sizes, rest))
    return figures


def _norms(module: nn.Module, layers: list[str], loss: Callable[[], Tensor], batches: int = 5) -> dict[str, float]:
    found = dict.fromkeys(layers, 0.0)
    for _ in range(batches):
        module.zero_grad()
        loss().backward()
        for path in layers:
            found[path] += float(module.get_submodule(path).weight.grad.norm()) / batches
    return found


def _told(what: str, top1: float, sizes: list[Size] | None, rest: int) -> Figure:
    fixed = rest + sum(each.total for each in sizes or [])
    huffman = rest + sum(each.total_huffman for each in sizes or [])
    measured = f"{top1:.2f} %; {fixed / 1024:.0f} KiB, with Huffman {huffman / 1024:.0f} KiB"
    return Figure(what=f"ResNet-20, {what}", asked="", measured=measured, met=None)
