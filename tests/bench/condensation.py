"""Small sets against random pictures of the same bytes: what a cut ResNet-20 recovers on each, what they teach a fresh net.

    python -m tests.bench.condensation 40            # minutes in which cells are made; those that are there are kept
    python -m tests.bench condensation:recovery      # the table of tests/bench/cells/condensation

A cell is a method, a size and a seed. Every set of a size has the same bytes at most, and every recovery the same steps;
nothing is chosen on the test images, which no set, no recovery and no choice of the product saw. Options of methods are the
product's defaults, or stand in the row.
"""

from __future__ import annotations

import copy
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.data import Splits
from compress.data.base import ArraySamples, evenly_spaced
from compress.data.digits import digits
from compress.data.subset import Subset
from compress.execution.progress import StreamProgress
from compress.methods.condensation.base import RecoverySet, SetSource
from compress.methods.condensation.compensators import CompensatedSet
from compress.methods.condensation.making import make_set
from compress.methods.condensation.match import MatchSet
from compress.methods.condensation.random_subset import RandomSet
from compress.methods.condensation.stored_samples import StoredSamples
from compress.methods.condensation.subset import SubsetSet
from compress.methods.condensation.synthesised import SynthesisedSet
from compress.methods.distillation.objective import Objective, parse_losses
from compress.models.checkpoint import load_into
from compress.models.factory import factory
from compress.models.foreign import load_foreign
from compress.models.plan import Plan
from compress.stages.base import Artifact
from compress.stages.prune import Prune
from compress.tasks.classification import Classification
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from deploy.files import write_atomically
from tests.bench.figure import Figure, Table
from tests.bench.prunable import context_of
from tests.bench.running import MISSING, ROOT

PARTS = ("recovery", "digits", "scratch")
CELLS = Path(__file__).parent / "cells" / "condensation"
SIZES_MIB = {"1 %": 0.01 * 50_000 * 3073 / 2**20, "5 %": 0.05 * 50_000 * 3073 / 2**20}
STEPS, BATCH = 100, 64
JUDGED = 4000
"""Test images that a cell is judged on, the same for all."""

SHORT = 40
"""Steps of matching, and of synthesis: a fraction of what the papers take, for minutes of one core."""

SETS: dict[str, Callable[[float], RecoverySet]] = {
    "random": lambda mib: RandomSet(size_mib=mib),
    "subset": lambda mib: SubsetSet(size_mib=mib),
    "subset, the hard ones": lambda mib: SubsetSet(size_mib=mib, keep="hard"),
    "subset, four in one": lambda mib: SubsetSet(size_mib=mib, combine=2, candidates=2, crops=2),
    "match by cf": lambda mib: MatchSet(size_mib=mib, by="cf", steps=SHORT),
    "match by attention": lambda mib: MatchSet(size_mib=mib, by="attention", steps=SHORT),
    "match by targets": lambda mib: MatchSet(size_mib=mib, by="targets", steps=SHORT),
    "compensated": lambda mib: CompensatedSet(size_mib=mib, steps=SHORT),
    "synthesised, no data": lambda mib: SynthesisedSet(size_mib=mib, steps=SHORT),
}
PLAN: Sequence[tuple[str, str, tuple[int, ...]]] = (
    ("random", "1 %", (0, 1, 2, 3, 4)),
    ("subset", "1 %", (0, 1, 2, 3, 4)),
    ("synthesised, no data", "1 %", (0, 1)),
    ("subset, four in one", "1 %", (0, 1, 2)),
    ("match by cf", "1 %", (0, 1)),
    ("compensated", "1 %", (0, 1)),
    ("match by attention", "1 %", (0, 1)),
    ("match by targets", "1 %", (0, 1)),
    ("subset, the hard ones", "1 %", (0, 1, 2)),
    ("random", "5 %", (0, 1, 2)),
    ("subset", "5 %", (0, 1, 2)),
    ("subset, four in one", "5 %", (0, 1)),
)
FIRST = (("random", "1 %"), ("subset, the hard ones", "1 %"), ("subset", "1 %"))
"""Three seeds of these come before the others' first: all else is compared with them."""


def run(part: str) -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    return {"recovery": _recovery, "digits": _digits, "scratch": _scratch}[part]()


def cells(until: float, parts: Sequence[str] = PARTS) -> None:
    """Make the cells that are not there, seed by seed, until that moment of the clock."""
    jobs: list[tuple[str, Callable[[], Mapping[str, Any]]]] = []
    if "recovery" in parts:
        jobs += [("cut", lambda: recover(None, "1 %", 0))]
        planned = [(seed, name, size) for name, size, seeds in PLAN for seed in seeds]
        planned.sort(key=lambda each: each[0] / 2 if each[1:] in FIRST else 1 + each[0])
        jobs += [
            (_cell(n, size, seed), lambda n=n, size=size, seed=seed: recover(n, size, seed)) for seed, n, size in planned
        ]
    if "digits" in parts:
        order = sorted(((seed, name) for name, seeds in DIGITS.items() for seed in range(seeds)), key=lambda each: each[0])
        jobs += [(f"digits {n} {s}", lambda n=n, s=s: recover_digits(n, s)) for s, n in order]
    if "scratch" in parts:
        jobs += [(f"scratch {n} {s}", lambda n=n, s=s: from_scratch(n, s)) for s in (0, 1) for n in SCRATCH]
    for name, make in jobs:
        path = CELLS / f"{_file(name)}.json"
        if path.exists() or time.time() > until:
            continue
        started = time.process_time()
        found = {**make(), "processor_s": round(time.process_time() - started, 1)}
        CELLS.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found, indent=1, sort_keys=True).encode())
        print(name, found, flush=True)


def recover(name: str | None, size: str, seed: int) -> dict[str, Any]:
    """Cut ResNet-20 to half its multiplications, and let it recover on a set; None only cuts it."""
    with tempfile.TemporaryDirectory() as scratch:
        artifact, data = _resnet20(), _cifar()
        context = replace(context_of(artifact.module, data, Path(scratch)), trainer=Trainer(seed, _silent()))
        stage = Prune(speed_up=2.0, by="macs", worth="importance", depth=False, batch_size=BATCH, epochs=0)
        notes: tuple[str, ...] = ()
        size_bytes = 0
        if name is None:
            stage = replace(stage, compensate=False, reconstruct=False)
        else:
            source = _source(artifact.module, data, seed)
            torch.manual_seed(seed)
            stored, notes = make_set(SETS[name](SIZES_MIB[size]), source, "classification")
            size_bytes = sum(stored.size_by_part().values())
            samples = StoredSamples(stored, data.classes)
            drawn = Subset(samples, evenly_spaced(len(samples), 256))
            context = replace(context, data=replace(data, train=samples, calibration=drawn))
            stage = replace(stage, epochs=max(1, round(STEPS / max(1, len(samples) // BATCH))))
        made = stage.run(artifact, context)
        predict = context.trainer.predictor(made.artifact.module)
        judged = {p: context.task.evaluate(predict, getattr(data, p)).value for p in ("validation", "test")}
    return {**judged, "bytes": size_bytes, "notes": [*notes, *made.notes][:4], "epochs": stage.epochs}


def _recovery() -> Table:
    held = _held()
    cut = held["cut"]["test"]
    figures = [Figure(what="cut, not recovered: top-1 on test", asked="", measured=f"{cut:.2f} %", met=None)]
    chance: dict[str, list[float]] = {}
    for name, size, seeds in PLAN:
        values = [held[_cell(name, size, s)]["test"] for s in seeds if _cell(name, size, s) in held]
        if not values:
            continue
        mean = statistics.mean(values)
        told, asked, met = _told(values, None if name == "random" else chance.get(size)), "", None
        if name == "random":
            chance[size] = values
        if name.startswith("synthesised") and size in chance:
            asked, met = "half of what random 1 % recovers", mean - cut >= (statistics.mean(chance[size]) - cut) / 2
        elif name != "random" and size == "1 %":
            asked, met = "the best 1.0 point above random", mean - statistics.mean(chance[size]) >= 1.0
        figures.append(Figure(what=f"{size} of the bytes, {name}", asked=asked, measured=told, met=met))
    seconds = sum(cell["processor_s"] for key, cell in held.items() if not key.startswith(("scratch", "digits")))
    about = [
        f"ResNet-20 cut to half its multiplications by the norms of its channels, {STEPS} steps of {BATCH}, layers fitted "
        "anew on 256 samples of the set; the whole network has 91.73 %",
        f"judged on {JUDGED:,} test images, a standard error of 0.5 points; seeds of set and training together",
        f"matching and synthesis take {SHORT} steps here, the papers' up to 20,000; {seconds / 60:.0f} minutes of one core",
    ]
    planned = [_cell(name, size, seed) for name, size, seeds in PLAN for seed in seeds]
    if missing := [cell for cell in planned if cell not in held]:
        about.append(f"not the whole plan yet: {len(missing)} of {len(planned)} cells are not there")
    return Table(figures=figures, remarks=about, seeds=max(len(seeds) for _, _, seeds in PLAN))


DIGITS = {name: 3 if name.startswith("match") else 5 for name in SETS}
"""Seeds of each method."""

DIGITS_MIB, DIGITS_EPOCHS, DIGITS_BATCH = (50 * (256 + 15) + 4096 + 15) / 2**20, 30, 25


def recover_digits(name: str, seed: int) -> dict[str, Any]:
    """Cut a ResNet-8 that knows digits to half of its channels, and let it recover on a set of fifty images' bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        data, artifact = digits(size=16), _resnet8()
        context = replace(context_of(artifact.module, data, Path(scratch)), trainer=Trainer(seed, _silent()))
        torch.manual_seed(seed)
        spec = replace(SETS[name](DIGITS_MIB), size_mib=DIGITS_MIB)
        stored, notes = make_set(spec, _source(artifact.module, data, seed), "classification")
        samples = StoredSamples(stored, data.classes)
        context = replace(context, data=replace(data, train=samples, calibration=samples))
        epochs = max(1, round(DIGITS_EPOCHS * 50 / len(samples)))
        made = Prune(ratio=0.5, batch_size=DIGITS_BATCH, epochs=epochs).run(artifact, context)
        predict = context.trainer.predictor(made.artifact.module)
        judged = {p: context.task.evaluate(predict, getattr(data, p)).value for p in ("validation", "test")}
        cut = Prune(ratio=0.5, epochs=0, compensate=False, reconstruct=False).run(artifact, context).artifact.module
        bare = context.task.evaluate(context.trainer.predictor(cut), data.test).value
    return {**judged, "cut": bare, "bytes": sum(stored.size_by_part().values()), "notes": [*notes], "epochs": epochs}


@cache
def _resnet8() -> Artifact:
    """A ResNet-8 trained on all digits."""
    plan = Plan(factory="compress.models:resnet", arguments={"blocks": 1, "in_channels": 1})
    torch.manual_seed(0)
    module, data = plan.build(), digits(size=16)
    objective = Objective(parse_losses(["task"]), Classification(), module, None, torch.zeros(2, 1, 16, 16))
    with tempfile.TemporaryDirectory() as scratch:
        Trainer(0, _silent()).fit("digits", module, objective, data.train, Schedule(epochs=12, batch_size=64), Path(scratch))
    return Artifact(plan=plan, module=module)


def _digits() -> Table:
    held, figures = _held(), []
    found = {n: [held[f"digits {n} {s}"] for s in range(c) if f"digits {n} {s}" in held] for n, c in DIGITS.items()}
    values = {name: [cell["test"] for cell in cells_] for name, cells_ in found.items() if cells_}
    chance, cut = values["random"], found["random"][0]["cut"]
    figures.append(Figure(what="cut, not recovered: top-1 on test", asked="", measured=f"{cut:.2f} %", met=None))
    for name, each in values.items():
        asked, met = "", None
        if name.startswith("synthesised"):
            asked = "half of what random recovers"
            met = statistics.mean(each) - cut >= (statistics.mean(chance) - cut) / 2
        told = _told(each, None if name == "random" else chance)
        figures.append(Figure(what=f"fifty images' bytes, {name}", asked=asked, measured=told, met=met))
    about = "ResNet-8 on digits of 16x16, half of its channels cut, 60 steps of 25; 450 test images"
    return Table(figures=figures, remarks=[about], seeds=5)


PAPER = {"match by attention": 54.2, "match by cf": 71.8}
"""Top-1 of the papers' ConvNet-3 of width 128 with 10 images a class, after 20,000 steps."""

WIDTH, EPOCHS, PER_CLASS = 64, 150, 10
SCRATCH: dict[str, RecoverySet] = {
    "random": RandomSet(per_class=PER_CLASS),
    "match by attention": MatchSet(per_class=PER_CLASS, by="attention", networks="random", steps=60, learning_rate=0.02),
    "match by cf": MatchSet(per_class=PER_CLASS, by="cf", networks="random", steps=60, learning_rate=0.02),
    "match by attention, flip": MatchSet(
        per_class=PER_CLASS, by="attention", networks="random", steps=60, learning_rate=0.02, flip=True
    ),
    "match by cf, four in one": MatchSet(
        per_class=PER_CLASS, by="cf", networks="random", steps=60, learning_rate=0.02, combine=2
    ),
}


class ConvNet(nn.Module):
    """ConvNet-3 of the papers: three times a convolution, instance norm, relu and mean pool; then a linear layer."""

    def __init__(self, width: int = WIDTH, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (3, width, width):
            block = [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
            layers.append(nn.Sequential(*block))
        self.blocks, self.head = nn.Sequential(*layers), nn.Linear(16 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(x).flatten(1))
        return logits


def from_scratch(name: str, seed: int) -> dict[str, Any]:
    """Train a ConvNet on a set's labels alone, as the papers judge sets."""
    data = _cifar()
    torch.manual_seed(seed)
    stored, notes = make_set(SCRATCH[name], _source(ConvNet(), data, seed), "classification")
    samples = StoredSamples(stored, data.classes)
    torch.manual_seed(seed)
    module, generator = ConvNet(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, weight_decay=5e-4)
    for _ in range(EPOCHS * 100 // len(samples)):
        batch = samples.load(generator.permutation(len(samples)), generator)
        for start in range(0, len(samples), 100):
            rows = slice(start, start + 100)
            logits = module(torch.from_numpy(batch.inputs[rows]))
            loss = functional.cross_entropy(logits, torch.from_numpy(batch.targets[rows]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    predict = Trainer(seed, _silent()).predictor(module)
    found = {p: Classification().evaluate(predict, getattr(data, p)).value for p in ("validation", "test")}
    return {**found, "bytes": sum(stored.size_by_part().values()), "notes": [*notes]}


def _scratch() -> Table:
    held, figures = _held(), list[Figure]()
    chance: list[float] | None = None
    for name in SCRATCH:
        values = [held[f"scratch {name} {seed}"]["test"] for seed in (0, 1) if f"scratch {name} {seed}" in held]
        if not values:
            continue
        mean = statistics.mean(values)
        chance = values if name == "random" else chance
        told = _told(values, None if name == "random" else chance)
        asked, met = "", None
        if name in PAPER:
            asked, met = f"within 5 points of the paper's {PAPER[name]} %", mean >= PAPER[name] - 5
        figures.append(Figure(what=f"{PER_CLASS} images a class, {name}", asked=asked, measured=told, met=met))
    about = (
        f"ConvNet-3 of width {WIDTH} (the papers: 128) from fresh weights, {EPOCHS} epochs of 100 samples on labels alone"
    )
    return Table(figures=figures, remarks=[about, "60 steps of matching; a tenth of the papers' are 2,000"], seeds=2)


def _told(values: Sequence[float], chance: Sequence[float] | None) -> str:
    """Word the mean over seeds, and its distance to random, with twice that distance's standard error."""
    mean, count = statistics.mean(values), len(values)
    told = f"{mean:.2f} % ({count} seed{'s' * (count > 1)}, {min(values):.2f} to {max(values):.2f})"
    if chance is None:
        return told
    over = mean - statistics.mean(chance)
    if count < 2 or len(chance) < 2:
        return f"{told}; {over:+.2f} points to random, too few seeds to tell"
    noise = 2 * (statistics.variance(values) / count + statistics.variance(chance) / len(chance)) ** 0.5
    judged = "" if over > noise else ": within the noise of seeds" if over > 0 else ": does not beat random here"
    return f"{told}; {over:+.2f} ± {noise:.2f} points to random{judged}"


def _held() -> dict[str, Any]:
    return {path.stem.replace("_", " "): json.loads(path.read_text()) for path in CELLS.glob("*.json")}


def _cell(name: str, size: str, seed: int) -> str:
    return f"{name} {size.replace(' %', 'pc')} {seed}"


def _file(name: str) -> str:
    return name.replace(" ", "_")


def _silent() -> StreamProgress:
    return StreamProgress(io.StringIO())


@cache
def _cifar() -> Splits:
    source: Callable[..., Splits] = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")
    where = Path(os.environ["EDGE_DATA"]) / "data" / "cifar10"
    data = source(path=str(where), held_out_of="test", validation=1000)
    assert isinstance(data.test, ArraySamples)
    test = Subset(data.test, evenly_spaced(len(data.test), JUDGED))
    return replace(data, test=test)


def _resnet20() -> Artifact:
    plan = Plan(factory="compress.models:resnet", arguments={"blocks": 3, "shortcut": "pad"})
    module = plan.build()
    checkpoint = Path(os.environ["EDGE_DATA"]) / "weights" / "resnet_cifar10" / "resnet20-12fca82f.th"
    load_into(module, load_foreign(checkpoint), checkpoint.name)
    return Artifact(plan=plan, module=module.eval())


def _source(given: nn.Module, data: Splits, seed: int) -> SetSource:
    module = copy.deepcopy(given).eval().requires_grad_(False)
    return SetSource(
        samples=data.train,
        classes=data.classes,
        preprocessing=data.preprocessing,
        task=Classification(),
        teacher=module,
        teachers=[(module, 1.0)],
        example=torch.from_numpy(data.train.load(np.arange(2)).inputs),
        seed=seed,
        progress=_silent(),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    cells(time.time() + 60 * float(sys.argv[1]), sys.argv[2:] or PARTS)
