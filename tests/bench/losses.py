"""Every loss under one budget on CIFAR-10: ResNet-56's public checkpoint teaches a ResNet-20.

    make bench-losses ARGS="--only kd dkd"            # spread over sessions: each training is a cell, kept in a file
    make bench-losses ARGS="--table"                  # what is there, into docs/losses.md
    make bench-losses ARGS="--small"                  # all of them in 60 to 90 minutes of one core; a table of its own

A cell is a loss, a start (fresh weights, or those inherited from the teacher) and a seed. Nothing finished is done twice:
its figures stand in ``tests/bench/cells``, under version control. A cell that was killed goes on in the epoch where it was.
Weights are those of the papers; ``--scales 0.3 1 3`` tries others, and the table takes the best on validation. Figures are
of the test images that no choice saw. In the small budget a ResNet-8 learns from a tenth of the images, and the teacher is
asked once for all trainings (``tests.bench.replay``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.execution.progress import StreamProgress
from compress.losses import LOSSES
from compress.methods.distillation.loss_specs import is_layer_input, loss_inputs, parse_losses
from compress.methods.distillation.objective import Objective
from compress.methods.distillation.weight_inheritance import inherit_weights
from compress.models.checkpoint import load_into
from compress.models.factory import factory
from compress.models.foreign import load_foreign
from compress.models.resnet import resnet
from compress.tasks.classification import Classification
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from deploy.files import write_atomically
from profiles.tables import load_object
from tests.bench import losses_table
from tests.bench.replay import Replayed

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "losses.md"
CELLS = Path(__file__).parent / "cells"
STARTS = ("scratch", "inherited")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every loss is given alike.

    Attributes:
        samples: training images; 0 for all.
        blocks: of each of the student's three stages: a ResNet of 6 ``blocks`` + 2 layers.
        mark: of its table in docs/losses.md.
    """

    epochs: int
    samples: int
    blocks: int
    batch_size: int
    starts: tuple[str, ...]
    seeds: tuple[int, ...]
    mark: str


FULL = Budget(epochs=10, samples=0, blocks=3, batch_size=128, starts=STARTS, seeds=(0, 1), mark="table")
SMALL = Budget(epochs=4, samples=5000, blocks=1, batch_size=64, starts=("scratch",), seeds=(0, 1), mark="small")

MOST_REPLAYED = 40_000
"""Images times epochs of which a teacher's maps are kept: 57 KB each."""

LEFT_OUT = {
    "bce_kd": "scores of detection",
    "boxes": "detection",
    "sides": "detection",
    "matched_queries": "detection",
    "aspects": "answers to questions about CIFAR's images are not there",
    "token_relations": "a batch's maps as tokens: for transformers",
    "visible_tokens": "for transformers",
    "ln_hidden": "for transformers",
    "two_passes": "for models that draw at random",
}

TASK = {"use": "task", "weight": 1.0}
WITH: dict[str, list[Any]] = {
    "task": [TASK],
    "kd": [{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}],
    "dkd": [TASK, {"use": "dkd", "weight": {"use": "scheduled", "ends": 0.1}}],
    "dist": [TASK, {"use": "dist", "weight": 1 / 16}],
    "sp": [TASK, {"use": "sp", "weight": 3000.0}],
    "attention": [TASK, {"use": "attention", "weight": 100.0}],
    "self_similarity": [TASK, {"use": "self_similarity", "weight": 100.0}],
    "mdcs": [TASK, {"use": "mdcs", "weight": {"use": "scheduled", "end": 0.6, "ends": 0.05}}],
    "nd": [TASK, "kd", {"use": "nd", "weight": 2.0}],
    "cwd": [TASK, {"use": "cwd", "weight": 3.0}],
    "dsi": [TASK, {"use": "dsi", "weight": {"use": "gradient_share", "start": 5.0, "share": 0.11}}],
    "sinkhorn": [{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}, {"use": "sinkhorn", "weight": 0.8}],
    "codebook": [TASK, "kd", "codebook"],
    "edges": [{"use": "task", "weight": 0.4}, {"use": "edges", "weight": 0.6}],
    "taid": [{"use": "task", "weight": 0.1}, {"use": "taid", "weight": 0.9}],
    "bd_kd": [TASK, "bd_kd"],
    "nkd": [TASK, "nkd"],
    "ofa": [TASK, "ofa"],
    "align": [TASK, "align"],
    "collaborative": [TASK, "collaborative"],
    "js": ["js"],
    "meal": ["meal"],
}
"""What a loss is trained with; those that are not here stand alone when they read labels, and beside 'task' when not."""


KD = WITH["kd"]
TOGETHER: dict[str, list[Any]] = {
    "kd+attention": [*KD, "attention"],
    "kd+cwd": [*KD, {"use": "cwd", "weight": 3.0}],
    "kd+attention+cwd": [*KD, "attention", {"use": "cwd", "weight": 3.0}],
    "cwd+tenth-of-kd": [TASK, {"use": "kd", "weight": 0.1}, {"use": "cwd", "weight": 3.0}],
    "cwd+hcl": [TASK, {"use": "cwd", "weight": 3.0}, "hcl"],
    "cwd+acam": [TASK, {"use": "cwd", "weight": 3.0}, "acam"],
}
"""What a stage could have as its default: logits and maps."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training."""

    loss: str
    start: str
    seed: int
    scale: float
    epochs: int
    samples: int
    blocks: int
    batch_size: int

    @property
    def name(self) -> str:
        budget = f"{self.epochs}e-{self.samples or 'all'}-r{6 * self.blocks + 2}-b{self.batch_size}"
        return f"{self.loss}-{self.start}-{self.seed}-x{self.scale:g}-{budget}"


def main(arguments: Sequence[str]) -> int:
    asked = _parse(arguments)
    budget = _budget(asked)
    asked.cells.mkdir(parents=True, exist_ok=True)
    cells = [] if asked.table else _cells(asked, budget)
    for number, cell in enumerate(cells):
        if not (asked.cells / f"{cell.name}.json").exists():
            print(f"{number + 1} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
            write_atomically(asked.cells / f"{cell.name}.json", json.dumps(_trained(cell, asked.scratch), indent=1).encode())
    text = losses_table.table([json.loads(path.read_text()) for path in sorted(asked.cells.glob("*.json"))], budget, FULL)
    print(text)
    if asked.table:
        losses_table.keep(DOCUMENT, budget.mark, text)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    names = [*(name for name in LOSSES if name not in LEFT_OUT), *TOGETHER]
    parser = argparse.ArgumentParser(prog="python -m tests.bench.losses", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="LOSS")
    parser.add_argument("--small", action="store_true", help="the small budget instead of the full one")
    parser.add_argument("--starts", nargs="+", choices=STARTS, help="instead of the budget's")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the budget's")
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0], help="multiples of the weights of all but 'task'")
    parser.add_argument("--epochs", type=int, help="instead of the budget's")
    parser.add_argument("--samples", type=int, help="training images, 0 for all; instead of the budget's")
    parser.add_argument("--cells", type=Path, default=CELLS, help="where the figures of finished trainings are kept")
    parser.add_argument(
        "--scratch", type=Path, default=ROOT / "runs" / ".losses", help="of trainings, and a teacher's answers"
    )
    parser.add_argument("--table", action="store_true", help="train nothing; write what is there into docs/losses.md")
    return parser.parse_args(arguments)


def _budget(asked: argparse.Namespace) -> Budget:
    given = {name: getattr(asked, name) for name in ("starts", "seeds", "epochs", "samples")}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return replace(SMALL if asked.small else FULL, **{k: v for k, v in {**given, **lists}.items() if v is not None})


def _cells(asked: argparse.Namespace, budget: Budget) -> list[Cell]:
    """All trainings, one seed of every loss before the next seed."""
    return [
        Cell(
            loss=loss,
            start=start,
            seed=seed,
            scale=scale,
            epochs=budget.epochs,
            samples=budget.samples,
            blocks=budget.blocks,
            batch_size=budget.batch_size,
        )
        for seed in budget.seeds
        for start in budget.starts
        for loss in asked.only
        for scale in (asked.scales if loss != "task" else [1.0])
    ]


@cache
def _data() -> tuple[Splits, Path]:
    root = Path(os.environ["EDGE_DATA"])
    read = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")
    splits: Splits = read(path=str(root / "data" / "cifar10"), held_out_of="test", validation=2000)
    return splits, root / "weights" / "resnet_cifar10" / "resnet56-4bfd9763.th"


def _trained(cell: Cell, scratch: Path) -> dict[str, Any]:
    started = time.process_time()
    splits, checkpoint = _data()
    train = splits.train
    assert isinstance(train, ArraySamples)
    if cell.samples:
        chosen = np.random.default_rng(0).permutation(len(train))[: cell.samples]
        train = ArraySamples(train.images[chosen], train.labels[chosen], shift=4, mirror=True, normalise=train._normalise)
    example = torch.from_numpy(splits.validation.load(np.arange(2)).inputs)
    teacher = resnet(blocks=9, shortcut="pad").requires_grad_(False)
    load_into(teacher, load_foreign(checkpoint), checkpoint.name)
    torch.manual_seed(cell.seed)
    student: nn.Module = resnet(blocks=cell.blocks, shortcut="pad")
    if cell.start == "inherited":
        inherit_weights(student, teacher, None, example)
    specs = parse_losses(_recipe(cell))
    task, trainer = Classification(), Trainer(cell.seed, StreamProgress(sys.stderr))
    replayed = bool(cell.samples) and cell.samples * cell.epochs <= MOST_REPLAYED
    asked = Replayed(teacher, example, scratch / "teacher") if replayed else teacher
    objective = Objective(specs, task, student, asked, example, len(train))
    # the teacher's scores are small enough to be kept, and shared by all losses that read nothing else of it
    kept = not replayed and not any(is_layer_input(name) or name == "teacher_embedding" for name in objective.reads)
    schedule = Schedule(
        epochs=cell.epochs, batch_size=cell.batch_size, learning_rate=0.1, realisations=cell.epochs if kept else 0
    )
    outputs = (
        scratch / f"teacher-{cell.seed}-{cell.samples}" / objective.teacher_key(schedule.teacher_inputs) if kept else None
    )
    folder = scratch / "unfinished" / cell.name
    fitted = trainer.fit(cell.name, student, objective, train, schedule, folder, outputs=outputs)
    judged = {name: task.evaluate(trainer.predictor(student), getattr(splits, name)) for name in ("validation", "test")}
    figures = {name: {"top1": m.value, "ece": m.others["ece"], "samples": m.samples} for name, m in judged.items()}
    return {**asdict(cell), **figures, "steps": fitted.steps, "seconds": time.process_time() - started}


def _recipe(cell: Cell) -> list[Any]:
    """The losses of a cell, all but 'task' scaled."""
    given = WITH.get(cell.loss) or TOGETHER.get(cell.loss)
    if given is None:
        alone = {"task_loss", "targets"} & set(loss_inputs(load_object(LOSSES[cell.loss]))) and cell.loss != "diswot"
        given = [cell.loss] if alone else [TASK, cell.loss]
    entries = [{"use": entry} if isinstance(entry, str) else dict(entry) for entry in given]
    for entry in entries:
        weight = entry.get("weight", 1.0)
        if entry["use"] != "task" and not isinstance(weight, dict):
            entry["weight"] = weight * cell.scale
    return entries


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
