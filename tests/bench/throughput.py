"""Steps a second of distillation in our loop, over those of the same loop written by hand."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from compress.data.base import ArraySamples
from compress.data.transforms import IMAGENET, Normalise
from compress.methods.distillation.objective import Objective, parse_losses
from compress.models.resnet import resnet
from compress.tasks.classification import Classification
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer, fast_bf16
from tests.bench.figure import Figure, Table, at_least
from tests.bench.turns import alternate

ROUNDS, STEPS, BATCH, SLICE_S = 3, 40, 128, 4.0
WARM = 4


def run() -> Table:
    rounds = [_round() for _ in range(ROUNDS)]
    ratio = statistics.median(by_hand / ours for by_hand, ours in rounds)
    told = ", ".join(f"{1000 * by_hand:.0f} and {1000 * ours:.0f}" for by_hand, ours in rounds)
    figures: list[Figure] = [
        at_least("distillation, ResNet-56 to ResNet-20: steps a second against the same loop written by hand", 0.95, ratio)
    ]
    remarks = [
        f"median milliseconds of a step by hand and of ours: {told}",
        f"{ROUNDS} rounds of two processes that run by turns, {SLICE_S:.0f} seconds each; {STEPS} steps of {BATCH} images, "
        f"{torch.get_num_threads()} threads, bf16: {'yes' if fast_bf16() else 'no'}",
    ]
    return Table(figures=figures, remarks=remarks)


def _round() -> tuple[float, float]:
    """Median seconds of a step by hand and in our loop."""
    with _started("by_hand") as by_hand, _started("ours") as ours:
        alternate(by_hand, ours, SLICE_S)
        return float(by_hand.communicate()[0]), float(ours.communicate()[0])


@contextmanager
def _started(side: str) -> Iterator[subprocess.Popen[str]]:
    program = f"from tests.bench import throughput; throughput.{side}()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def by_hand() -> None:
    """Prints the median seconds of a step."""
    samples = _samples()
    teacher, student = (module.to(memory_format=torch.channels_last) for module in _networks())
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(STEPS):
        batch = samples.load(rng.integers(0, len(samples), BATCH), rng)
        inputs = torch.from_numpy(batch.inputs).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
            with torch.no_grad():
                taught = teacher(inputs)
            logits = student(inputs)
            told = functional.cross_entropy(logits.float(), torch.from_numpy(batch.targets))
            soft = [functional.log_softmax(z.float() / 4, dim=1) for z in (logits, taught)]
            loss = 0.1 * told + 0.9 * 16 * functional.kl_div(*soft, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        ends.append(time.perf_counter())
    _tell(ends)


def ours() -> None:
    """Prints the median seconds of a step."""
    samples, marks = _samples(), Marks()
    teacher, student = _networks()
    losses = parse_losses([{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}])
    objective = Objective(losses, Classification(), student, teacher, torch.from_numpy(samples.load(np.arange(2)).inputs))
    with tempfile.TemporaryDirectory() as folder:
        schedule = Schedule(epochs=1, batch_size=BATCH)
        Trainer(0, marks).fit("bench", student, objective, samples, schedule, Path(folder))
    _tell(marks.ends)


class Marks:
    """A progress that keeps the time at which each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def say(self, line: str) -> None:
        """Nothing: nobody looks."""

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Marks]:
        yield self

    def advance(self, count: int, about: str = "") -> None:
        self.ends.append(time.perf_counter())


def _samples() -> ArraySamples:
    held = np.random.default_rng(0).integers(0, 256, (STEPS * BATCH, 3, 32, 32), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 10, len(held))
    normalise = Normalise(mean=IMAGENET[0], deviation=IMAGENET[1])
    return ArraySamples(held, labels, shift=4, mirror=True, normalise=normalise)


def _networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return resnet(blocks=9, shortcut="pad").eval().requires_grad_(False), resnet(blocks=3, shortcut="pad").train()


def _tell(ends: list[float]) -> None:
    print(statistics.median(after - before for before, after in zip(ends[WARM:], ends[WARM + 1 :], strict=False)))
