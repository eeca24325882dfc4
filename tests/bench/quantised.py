"""Quantised training on CIFAR-10: a step's time, int8 and 4-bit quantised distillation, 2-bit points learned by gradient.

``python -m tests.bench quantised:step`` takes a minute; the others train, one after the other, for two to three hours of two
slow cores. ``$BENCH_EPOCHS`` changes how long each training is.
"""

from __future__ import annotations

import os
import statistics
import sys
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
from compress.execution.progress import StreamProgress
from compress.methods.distillation.objective import Objective, parse_losses
from compress.methods.packing.packed_program import PackedProgram
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.methods.quantization.post_training import PostTraining, QuantizedModel, quantize_model
from compress.models.checkpoint import load_into
from compress.models.factory import factory
from compress.models.foreign import load_foreign
from compress.models.plan import Plan
from compress.models.resnet import resnet
from compress.stages.base import Artifact, Context
from compress.stages.pack import PackStage
from compress.stages.runner import run_stage
from compress.tasks.classification import Classification
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from deploy.export.to_onnx import capture, to_onnx
from deploy.export.to_packed import pack_model
from deploy.packing.packed_file import SizeBreakdown, size_breakdown
from deploy.qdq.insert import insert
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
EPOCHS = {"int8": 1, "four": 3, "two": 2}
TWO: dict[str, dict[str, Any]] = {
    "even points, untrained": {"points": "uniform"},
    "points by gradient": {"training": "points"},
    "points by gradient, bits too": {"training": "points", "allocation": "gradient"},
    "points and weights by gradient": {},
}
REMARKS = {
    "two": [
        "the paper, 2 bits, a network of 1 M parameters with 88.8 % distilled: 10.5 % uniform, 80.4 % points, 82.4 % weights"
    ]
}
RESNET20 = Plan(factory="compress.models:resnet", arguments={"blocks": 3, "shortcut": "pad"})


def run(part: str) -> Table:
    if part != "step" and "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    parts: dict[str, Callable[[], list[Figure]]] = {"step": _step, "int8": _int8, "four": _four, "two": _two}
    return Table(figures=parts[part](), remarks=REMARKS.get(part, ()))


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
    found = quantize_model(model, samples, recipe, PostTraining())
    program = found.quantize.apply(module)
    assert isinstance(program, QuantizedProgram)
    program.adopt(found.tensors(), found.scales)
    return program


def _data() -> Splits:
    path = str(Path(os.environ["EDGE_DATA"]) / "data" / "cifar10")
    return factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")(path=path)


def _teacher(blocks: int) -> nn.Module:
    module = resnet(blocks=blocks, shortcut="pad")
    file = Path(os.environ["EDGE_DATA"]) / "weights" / "resnet_cifar10" / CHECKPOINTS[blocks]
    load_into(module, load_foreign(file), file.name)
    return module.eval()


def _epochs(part: str) -> int:
    return int(os.environ.get("BENCH_EPOCHS", EPOCHS[part]))


def _distilled(blocks: int, recipe: str, epochs: int, rate: float) -> tuple[QuantizedProgram, nn.Module, Splits]:
    """The checkpoint through fake quantisers under its own float outputs."""
    data, teacher = _data(), _teacher(blocks)
    program = _program(_teacher(blocks), data.calibration.load(np.arange(len(data.calibration))).inputs, recipe)
    example = torch.from_numpy(data.train.load(np.arange(2)).inputs)
    objective = Objective(parse_losses(LOSSES), Classification(), program, teacher.requires_grad_(False), example)
    with tempfile.TemporaryDirectory() as folder:
        schedule = Schedule(epochs=epochs, batch_size=BATCH, learning_rate=rate, weight_decay=1e-4, ema=0.99)
        _trainer().fit("quantised", program, objective, data.train, schedule, Path(folder))
    return program, teacher, data


def _trainer() -> Trainer:
    return Trainer(0, StreamProgress(sys.stderr))


def _top1(module: nn.Module, data: Splits) -> float:
    return Classification().evaluate(_trainer().predictor(module), data.test).value


def _told(part: str) -> str:
    return f"{_epochs(part)} epoch{'s' if _epochs(part) > 1 else ''}"


def _int8() -> list[Figure]:
    recipe = load("cpu").runtime("openvino").quantization
    program, teacher, data = _distilled(9, recipe, _epochs("int8"), 0.0002)
    plain = to_onnx(program.float_program())
    splits = {"calibration": data.calibration, "validation": data.validation, "test": data.test}
    subject = Subject(model=plain, task=Classification(), **splits)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        onnx.save(insert(plain, program.placement, program.scales(), QUANTIZATION[recipe]), str(file))
        engine, _ = _judged(subject, file, "openvino", "int8")
    what = f"ResNet-56, int8 on OpenVINO, {_told('int8')} of quantised distillation: top-1 above fp32's"
    return [at_least(what, 0.0, engine - _top1(teacher, data), " points")]


def _four() -> list[Figure]:
    QUANTIZATION[FOUR_BITS] = replace(QUANTIZATION["x86-vnni"], weight_bits=4)
    program, teacher, data = _distilled(3, FOUR_BITS, _epochs("four"), 0.001)
    drop = _top1(teacher, data) - _top1(program.eval(), data)
    what = f"ResNet-20, 4-bit weights, {_told('four')} of quantised distillation: points below fp32"
    return [at_most(what, 0.5, drop, " points")]


def _two() -> list[Figure]:
    """2 bits of ResNet-20's weights, folded, as they lie in a bundle; 8 for what reads the image and makes the classes."""
    data, teacher = _data(), _teacher(3).requires_grad_(False)
    whole = sum(p.numel() * 4 for p in teacher.parameters())
    figures = [Figure(what="ResNet-20, fp32", asked="", measured=f"{_top1(teacher, data):.2f} %; {_kib(whole)}", met=None)]
    for what, settings in TWO.items():
        stage = PackStage(bits=2, batch_size=BATCH, epochs=_epochs("two"), **settings)
        given = Artifact(plan=RESNET20, module=_teacher(3))
        with tempfile.TemporaryDirectory() as folder:
            result, _ = run_stage(stage, given, _context(data, teacher, Path(folder)), 0)
        program = result.artifact.module
        assert isinstance(program, PackedProgram)
        content, _ = pack_model(to_onnx(program.float_program()).SerializeToString(), program.packed())
        found = size_breakdown(content)
        sizes = (
            f"{_kib(found.file_bytes)}, its weights {found.factor:.1f}x smaller, without Huffman codes {_plain(found):.1f}x"
        )
        told = f"{_top1(program, data):.2f} %; {sizes}"
        figures.append(Figure(what=f"ResNet-20, 2 bits, {what}", asked="", measured=told, met=None))
    return figures


def _context(data: Splits, teacher: nn.Module, folder: Path) -> Context:
    def none(module: nn.Module, options: PostTraining) -> QuantizedModel:
        raise AssertionError("the stage quantises nothing")

    return Context(
        task=Classification(),
        data=data,
        teacher=teacher,
        profile=load("cpu"),
        trainer=_trainer(),
        progress=StreamProgress(sys.stderr),
        example=torch.from_numpy(data.train.load(np.arange(2)).inputs),
        folder=folder / "unfinished",
        outputs=folder / "outputs",
        quantization=none,
    )


def _plain(found: SizeBreakdown) -> float:
    return found.float_bytes / (found.stored_bytes - found.indices - found.codes + found.fixed_bytes)


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.0f} KiB"
