"""What the ways of asking a teacher buy on handwritten digits: each beside what one would do without it, three seeds.

Small on purpose (a ResNet-8 on 16x16 pixels, a minute a part): it shows that each does what it is for, not how much it is
worth elsewhere. ``python -m tests.bench catalogue:queries`` runs one part.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from compress.data.base import ArraySamples, Splits
from compress.data.digits import digits
from compress.execution.cache import StepCache
from compress.execution.progress import StreamProgress
from compress.methods.distillation.sample_weights import FamiliarityWeight
from compress.models.factory import factory
from compress.models.features import embeddings
from compress.models.plan import WEIGHTS
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import parse
from profiles.device import load
from tests.bench.figure import Figure, Table

PARTS = ("mixture", "labelled", "queries", "familiar", "learned")
SIZE, SEEDS, KNOWN, LABELS = 16, (0, 1, 2), 7, 60
SEGMENTATION = Path(__file__).parent.parent.parent / "examples" / "segmentation.py"
TEACHER, STUDENT = {"blocks": 2, "in_channels": 1}, {"blocks": 1, "in_channels": 1}
Given = Mapping[str, Any]


def run(part: str) -> Table:
    parts: dict[str, Callable[[Path], Table]] = {
        "mixture": _mixture,
        "labelled": _labelled,
        "queries": _queries,
        "familiar": _familiar,
        "learned": _learned,
    }
    with tempfile.TemporaryDirectory() as folder:
        return parts[part](Path(folder))


def noisy_masks() -> Splits:
    """The digits of the segmentation example under noise, so that a map of labels tells what the image hides."""
    splits: Splits = factory(f"{SEGMENTATION}:digit_masks")(size=SIZE)
    generator, found = np.random.default_rng(0), {}
    for name in ("train", "calibration", "validation", "test"):
        batch = getattr(splits, name).load(np.arange(len(getattr(splits, name))))
        noise = generator.normal(0, 1.5, batch.inputs.shape).astype(np.float32)
        found[name] = ArraySamples(batch.inputs + noise, batch.targets)
    return replace(splits, **found)


def whole() -> Splits:
    return digits(size=SIZE)


def few_labels() -> Splits:
    """Labels for the first few samples."""
    return _relabelled(digits(size=SIZE), lambda labels: np.where(np.arange(len(labels)) < LABELS, labels, -1))


def no_labels() -> Splits:
    return _relabelled(digits(size=SIZE), lambda labels: np.full_like(labels, -1))


def wrong_labels() -> Splits:
    """The label of every second digit of the classes 0 to 4 is the next class: for a teacher that is bad at these."""
    odd = np.arange(len(digits(size=SIZE).train)) % 2 == 1
    return _relabelled(digits(size=SIZE), lambda labels: np.where(odd & (labels < 5), labels + 1, labels))


def strangers(*, shown: bool = True) -> Splits:
    """Digits 0 to 6 are the classes; few have a label, and among the others are, if ``shown``, 7 to 9."""
    splits = digits(size=SIZE)

    def known(samples: Any) -> ArraySamples:
        return _taken(samples, samples.labels < KNOWN)

    train = splits.train if shown else known(splits.train)
    assert isinstance(train, ArraySamples)
    labelled = (np.cumsum(train.labels < KNOWN) <= LABELS) & (train.labels < KNOWN)
    labels = np.where(labelled, train.labels, -1)
    return replace(
        splits,
        train=ArraySamples(train.images, labels, shift=2),
        calibration=known(splits.calibration),
        validation=known(splits.validation),
        test=known(splits.test),
        classes=splits.classes[:KNOWN],
    )


def only_known() -> Splits:
    """Digits 0 to 6, all with their labels."""
    splits = strangers(shown=False)
    train = digits(size=SIZE).train
    assert isinstance(train, ArraySamples)
    return replace(splits, train=_taken(train, train.labels < KNOWN))


def _mixture(folder: Path) -> Table:
    teacher = _teacher(folder, "whole")
    data, losses = "tests.bench.catalogue:few_labels", [{"use": "dho"}]
    stage = {"use": "distill", "losses": losses, "epochs": 12}
    rows = {
        "labels alone": _student(folder, data, teacher, {**stage, "losses": ["task"]}),
        "`dho`, its own head ships": _student(folder, data, teacher, stage),
        "`dho`, the mixture ships": _student(folder, data, teacher, {**stage, "mixture": True}),
    }
    return _table(rows, f"{LABELS} of 988 samples have a label; share and temperature chosen on validation")


def _queries(folder: Path) -> Table:
    data, stage = "tests.bench.catalogue:no_labels", {"use": "distill", "losses": ["kd"], "epochs": 60, "batch_size": 32}
    rows = {
        "chosen at once by a fresh student": {"rounds": 1},
        "in 4 rounds, those of least margin": {"rounds": 4, "distrust": 0.0},
        "in 4 rounds, hedged against 10 % errors": {"rounds": 4, "distrust": 0.1},
        "in 4 rounds, hedged against 30 % errors": {"rounds": 4, "distrust": 0.3},
    }
    found: dict[str, list[float]] = {}
    for kind, labels in (("a good teacher", "whole"), ("a teacher that is bad at the digits 0 to 4", "wrong_labels")):
        teacher = _teacher(folder, labels)
        for name, more in rows.items():
            found[f"{kind}: {name}"] = _student(folder, data, teacher, {**stage, "queries": 120, **more})
    return _table(found, "120 questions about 988 samples without labels")


def _familiar(folder: Path) -> Table:
    here = "tests.bench.catalogue:strangers"
    teacher = _teacher(folder, "only_known", KNOWN)
    kd: dict[str, Any] = {"use": "kd", "temperature": 2.0}
    rows: dict[str, tuple[Any, list[Any]]] = {
        "`kd` on all": (here, ["task", kd]),
        "`kd` weighed by `familiar`": (here, ["task", {**kd, "weight": {"use": "familiar"}}]),
        "`open_set`": (here, ["task", {"use": "open_set", "temperature": 2.0}]),
        "`kd` without the strangers": ({"use": here, "shown": False}, ["task", kd]),
    }
    found = {
        name: _student(folder, data, teacher, {"use": "distill", "losses": losses, "epochs": 12}, KNOWN)
        for name, (data, losses) in rows.items()
    }
    return _table(
        found,
        f"classes 0 to 6, {LABELS} labels; among the samples without one are the digits 7 to 9",
        _apart(folder, teacher),
    )


def _apart(folder: Path, teacher: Given) -> str:
    """How well the weight tells unlabelled samples of the classes from strangers, beside the teacher's own confidence."""
    table = {"task": {"data": "tests.bench.catalogue:strangers"}, "teacher": teacher}
    builder, _ = _builder(folder, table, 0)
    module, train = builder.teacher().artifact.module, builder.data.train
    inputs, truth = train.load(np.arange(len(train))).inputs, digits(size=SIZE).train.load(np.arange(len(train))).targets
    labels = train.load(np.arange(len(train))).targets
    told = functional.normalize(torch.from_numpy(embeddings(module, torch.from_numpy(inputs), "teacher")), dim=1)
    with torch.no_grad():
        logits = module(torch.from_numpy(inputs))
    weight = FamiliarityWeight({"student_logits": logits, "teacher_embedding": told})
    weight(torch.zeros(len(told)), torch.ones(len(told), dtype=torch.bool), logits, told, torch.from_numpy(labels))
    found = weight.weights(told).numpy()[labels < 0]
    sure, stranger = logits.softmax(dim=1).amax(dim=1).numpy()[labels < 0], truth[labels < 0] >= KNOWN
    means = f"{found[~stranger].mean():.2f} for samples of the classes, {found[stranger].mean():.2f} for strangers"
    auroc = [100 * float(roc_auc_score(~stranger, values)) for values in (found, sure)]
    return f"mean weight {means}; AUROC of the weight {auroc[0]:.1f} %, of the teacher's confidence {auroc[1]:.1f} %"


def _learned(folder: Path) -> Table:
    teacher = _teacher(folder, "wrong_labels")
    data = "tests.bench.catalogue:whole"
    rows: dict[str, list[Any]] = {
        "labels alone": ["task"],
        "`task` and `kd`": ["task", "kd"],
        "`task` and `kd` with a learned weight": ["task", {"use": "kd", "weight": {"use": "learned"}}],
        "`tgeo`": ["tgeo"],
    }
    found = {
        name: _student(folder, data, teacher, {"use": "distill", "losses": ls, "epochs": 8}) for name, ls in rows.items()
    }
    return _table(
        found,
        "the teacher learned from labels of which every second is wrong in the classes 0 to 4; the student's are right",
    )


def _labelled(folder: Path) -> Table:
    task = {"kind": f"{SEGMENTATION}:Segmentation", "data": "tests.bench.catalogue:noisy_masks"}
    teacher = {"model": f"{SEGMENTATION}:encoder_decoder", "epochs": 12, "batch_size": 32}
    told = {**teacher, "labelled": {"epochs": 12}}
    pull = ["task", {"use": "cwd", "weight": 3.0}]
    rows = {
        "labels alone": (teacher, ["task"]),
        "`cwd` to the teacher": (teacher, pull),
        "`cwd` to the one that reads labels": (told, pull),
    }
    found: dict[str, list[float]] = {}
    notes: list[str] = []
    for name, (by, losses) in rows.items():
        stage = {"use": "distill", "losses": losses, "epochs": 12, "batch_size": 32}
        student = {"from": "teacher", "width": 0.5, "inherit": False}
        table = {"task": task, "teacher": by, "student": student, "stage": [stage]}
        found[name] = [_judged(folder, table, seed, notes) for seed in SEEDS]
    told_of = dict.fromkeys(note for note in notes if "reads labels" in note)
    return _table(found, "digits of which each pixel is named, under noise of deviation 1.5", *told_of, unit="mIoU")


def _teacher(folder: Path, data: str, classes: int = 10) -> dict[str, Any]:
    """A teacher that was trained on one of the data here, as the teacher of a recipe."""
    teacher = {"model": "compress.models:resnet", "arguments": {**TEACHER, "classes": classes}}
    builder, _ = _builder(
        folder, {"task": {"data": f"tests.bench.catalogue:{data}"}, "teacher": {**teacher, "epochs": 12}}, 0
    )
    return {**teacher, "weights": str(builder.teacher().step.folder / WEIGHTS)}


def _student(folder: Path, data: Any, teacher: Given, stage: Given, classes: int = 10) -> list[float]:
    """Accuracy on test of students with fresh weights after one stage, for each seed."""
    student = {"model": "compress.models:resnet", "arguments": {**STUDENT, "classes": classes}}
    table = {"task": {"data": data}, "teacher": teacher, "student": student, "stage": [{"batch_size": 64, **stage}]}
    return [_judged(folder, table, seed, []) for seed in SEEDS]


def _judged(folder: Path, table: Given, seed: int, notes: list[str]) -> float:
    builder, told = _builder(folder, table, seed)
    teacher = builder.teacher()
    made = builder.attempt(builder.recipe.stages[0], builder.student(teacher, builder.recipe.student), teacher)
    notes += [line.strip() for line in told.getvalue().splitlines()]
    return builder.task.evaluate(builder.predictor(made.artifact.module), builder.data.test).value


def _builder(folder: Path, table: Given, seed: int) -> tuple[ModelBuilder, io.StringIO]:
    told = io.StringIO()
    progress = StreamProgress(told)
    recipe = parse({**table, "seed": seed}, name="catalogue", source=str(folder / "catalogue.toml"))
    return ModelBuilder(recipe, load("cpu"), StepCache(folder / "steps", progress), progress), told


def _table(rows: Mapping[str, list[float]], *remarks: str, unit: str = "top-1") -> Table:
    figures = [Figure(what=name, asked="", measured=_spread(values, unit), met=None) for name, values in rows.items()]
    return Table(figures=figures, remarks=[*remarks, f"on test; mean and half the range of {len(SEEDS)} seeds"])


def _spread(values: list[float], unit: str) -> str:
    return f"{statistics.mean(values):.2f} ± {(max(values) - min(values)) / 2:.2f} % {unit}"


def _relabelled(splits: Splits, how: Callable[[Any], Any]) -> Splits:
    train = splits.train
    assert isinstance(train, ArraySamples)
    return replace(splits, train=ArraySamples(train.images, how(train.labels), shift=2))


def _taken(samples: Any, chosen: Any) -> ArraySamples:
    return ArraySamples(samples.images[chosen], samples.labels[chosen], shift=samples._shift)
