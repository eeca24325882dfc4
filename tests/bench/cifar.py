"""CIFAR-10 from a public checkpoint: its published accuracy, what the example's recipe makes of it, and the loop's speed."""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from compress import processes
from compress.data.base import ArraySamples
from compress.data.transforms import IMAGENET, Normalise
from compress.factories import factory
from compress.models.resnet import resnet
from compress.objective import Objective, parse_losses
from compress.progress import StreamProgress
from compress.schedule import Schedule
from compress.tasks.classification import Classification
from compress.tensors import load_foreign, load_into
from compress.training import Trainer, fast_bf16
from profiles.device import facts
from tests.bench.figure import Figure, Table, at_least, at_most

ROOT = Path(__file__).parent.parent.parent
STEPS, ROUNDS, BATCH = 12, 5, 128
VNNI = {"avx512_vnni", "avx_vnni"}


def run() -> Table:
    figures = [_throughput()]
    if "EDGE_DATA" not in os.environ:
        return Table(figures=figures, remarks=["the rest was left out: EDGE_DATA does not say where the data sets are"])
    figures = [_published(Path(os.environ["EDGE_DATA"])), *figures]
    report, minutes = _compressed()
    figures += list(_verdict(report))
    able = f"bf16 arithmetic: {'yes' if fast_bf16() else 'no'}, VNNI: {'yes' if facts().flags & VNNI else 'no'}"
    remarks = [
        f"the recipe's steps took {minutes:.0f} minutes of two cores that other work shared ({able})",
        *_stages(report),
    ]
    return Table(figures=figures, remarks=remarks)


def _published(data: Path) -> Figure:
    splits = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")(path=str(data / "data" / "cifar10"))
    teacher = resnet(blocks=9, shortcut="pad")
    checkpoint = data / "weights" / "resnet_cifar10" / "resnet56-4bfd9763.th"
    load_into(teacher, load_foreign(checkpoint), checkpoint.name)
    predict = Trainer(0, StreamProgress(io.StringIO())).predictor(teacher)
    found = Classification().evaluate(predict, splits.test)
    return Figure(
        what=f"ResNet-56's public checkpoint on the {found.samples:,} test images, top-1 of the module in fp32",
        asked="93.39 %, exactly",
        measured=f"{found.value:.2f} %",
        met=round(found.value, 2) == 93.39,
    )


def _compressed() -> tuple[dict[str, Any], float]:
    """The report of the example's recipe, and the minutes that its steps took; they are kept in $COMPRESS_STEPS."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe = str(ROOT / "examples" / "cifar10.toml")
        command = [sys.executable, "-m", "compress", "run", recipe, "--out", scratch, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 3):
            raise RuntimeError(f"compress run ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    seconds = sum({row["stage"]: row["seconds"] for row in report["rows"] if row["stage"]}.values())
    return report, seconds / 60


def _verdict(report: dict[str, Any]) -> Iterator[Figure]:
    verdict, best = report["verdict"], {row["name"]: row for row in report["rows"]}[report["verdict"]["best"]]
    samples = best["metric"]["samples"]
    yield at_least("student of ResNet-56 against teacher fp32 on OpenVINO, p50", 6, verdict["speedup_vs_teacher_fp32"])
    yield at_least("the same against the best free baseline", 1.5, verdict["speedup_vs_best_free"])
    drop = verdict["accuracy_drop_points"]
    yield at_most(f"its drop of top-1 on the {samples:,} test images that no choice saw", 0.5, drop, " points")


def _stages(report: dict[str, Any]) -> Iterator[str]:
    for row in report["rows"]:
        if row["stage"] and row["engine"] == "openvino":
            told = f"{row['metric']['value']:.2f} % on test, {row['latency_ms']['p50']:.3f} ms"
            yield f"{row['name']}: {told}; {row['decision']}: {row['reason']}"


def _throughput() -> Figure:
    """Steps a second of distillation in our loop over those of a plain one: median of alternating rounds."""
    held = np.random.default_rng(0).integers(0, 256, (20_000, 3, 32, 32), dtype=np.uint8)
    normalise = Normalise(mean=IMAGENET[0], deviation=IMAGENET[1])
    labels = np.random.default_rng(1).integers(0, 10, len(held))
    samples = ArraySamples(held, labels, shift=4, mirror=True, normalise=normalise)
    ratios = []
    for _ in range(ROUNDS):
        by_hand, ours = _by_hand_s(samples), _ours_s(samples)
        ratios.append(by_hand / ours)
    what = "distillation, ResNet-56 to ResNet-20: steps a second against the same loop written by hand"
    return at_least(what, 0.95, statistics.median(ratios))


def _networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return resnet(blocks=9, shortcut="pad").eval().requires_grad_(False), resnet(blocks=3, shortcut="pad").train()


def _by_hand_s(samples: ArraySamples) -> float:
    teacher, student = (module.to(memory_format=torch.channels_last) for module in _networks())
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    rng = np.random.default_rng(0)
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
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
        times.append(time.perf_counter() - started)
    return statistics.mean(times[2:])


def _ours_s(samples: ArraySamples) -> float:
    """Wall time of ``Trainer.fit`` over its steps, everything in it counted but its beginning and end."""
    times = [_fit_s(samples, steps) for steps in (2, 2 + STEPS)]
    return (times[1] - times[0]) / STEPS


def _fit_s(samples: ArraySamples, steps: int) -> float:
    teacher, student = _networks()
    losses = parse_losses([{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}])
    part = ArraySamples(
        *(array[: steps * BATCH] for array in (samples.images, samples.labels)),
        shift=4,
        mirror=True,
        normalise=Normalise(mean=IMAGENET[0], deviation=IMAGENET[1]),
    )
    example = torch.from_numpy(part.load(np.arange(2)).inputs)
    objective = Objective(losses, Classification(), student, teacher, example)
    schedule = Schedule(epochs=1, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        fitted = Trainer(0, StreamProgress(io.StringIO())).fit("bench", student, objective, part, schedule, Path(folder))
    assert fitted.steps == steps and processes.count() == 1
    return fitted.seconds
