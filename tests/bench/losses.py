"""Every loss under one budget on CIFAR-10: ResNet-56's public checkpoint teaches a ResNet-20.

    make bench-losses ARGS="--only kd dkd"            # spread over sessions: each training is a cell, kept in a file
    make bench-losses ARGS="--table"                  # what is there, into docs/losses.md

A cell is a loss, a start (fresh weights, or those inherited from the teacher) and a seed. Nothing finished is done twice,
and a cell that was killed goes on in the epoch where it was. Weights are those of the papers; ``--scales 0.3 1 3`` tries
others, and the table takes the best on validation. Figures are of the test images that no choice saw.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.factories import factory
from compress.inherit import inherit
from compress.loss_specs import parse_losses, reads_layers, reads_of
from compress.losses import LOSSES
from compress.models.resnet import resnet
from compress.objective import Objective
from compress.progress import StreamProgress
from compress.schedule import Schedule
from compress.tasks.classification import Classification
from compress.tensors import load_foreign, load_into
from compress.training import Trainer
from deploy.files import write_atomically
from profiles.tables import load_object

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "losses.md"
EPOCHS, SEEDS, STARTS = 10, (0, 1), ("scratch", "inherited")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

LEFT_OUT = {
    "bce_kd": "scores of detection",
    "boxes": "detection",
    "aspects": "answers to questions about CIFAR's images are not there",
    "token_relations": "a batch's maps as tokens: for transformers",
    "visible_tokens": "for transformers",
    "ln_hidden": "for transformers",
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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training."""

    loss: str
    start: str
    seed: int
    scale: float
    epochs: int
    samples: int

    @property
    def name(self) -> str:
        return f"{self.loss}-{self.start}-{self.seed}-x{self.scale:g}-{self.epochs}e-{self.samples or 'all'}"


def main(arguments: Sequence[str]) -> int:
    asked = _parse(arguments)
    cells = [
        Cell(loss=loss, start=start, seed=seed, scale=scale, epochs=asked.epochs, samples=asked.samples)
        for loss in asked.only
        for scale in (asked.scales if loss != "task" else [1.0])
        for start in asked.starts
        for seed in asked.seeds
    ]
    for number, cell in enumerate(() if asked.table else cells):
        if not (asked.cells / f"{cell.name}.json").exists():
            print(f"{number + 1} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
            write_atomically(asked.cells / f"{cell.name}.json", json.dumps(_trained(cell, asked.cells), indent=1).encode())
    found = [json.loads(path.read_text()) for path in sorted(asked.cells.glob("*.json"))]
    text = _table([f for f in found if f["epochs"] == asked.epochs and f["samples"] == asked.samples], asked)
    print(text)
    if asked.table:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    names = [name for name in LOSSES if name not in LEFT_OUT]
    parser = argparse.ArgumentParser(prog="python -m tests.bench.losses", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="LOSS")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0], help="multiples of the weights of all but 'task'")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--samples", type=int, default=0, help="training images; 0 for all")
    parser.add_argument("--cells", type=Path, default=ROOT / "runs" / ".losses", help="where cells are kept")
    parser.add_argument("--table", action="store_true", help="train nothing; write what is there into docs/losses.md")
    return parser.parse_args(arguments)


@cache
def _data() -> tuple[Splits, Path]:
    root = Path(os.environ["EDGE_DATA"])
    read = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")
    splits: Splits = read(path=str(root / "data" / "cifar10"), held_out_of="test", validation=2000)
    return splits, root / "weights" / "resnet_cifar10" / "resnet56-4bfd9763.th"


def _trained(cell: Cell, cells: Path) -> dict[str, Any]:
    started = time.perf_counter()
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
    student: nn.Module = resnet(blocks=3, shortcut="pad")
    if cell.start == "inherited":
        inherit(student, teacher, None, example)
    specs = parse_losses(_recipe(cell))
    task, trainer = Classification(), Trainer(cell.seed, StreamProgress(sys.stderr))
    objective = Objective(specs, task, student, teacher, example, len(train))
    # the teacher's scores are small enough to be kept, and shared by all losses that read nothing else of it
    kept = not any(reads_layers(name) or name == "teacher_embedding" for name in objective.reads)
    schedule = Schedule(epochs=cell.epochs, learning_rate=0.1, realisations=cell.epochs if kept else 0)
    outputs = cells / f"teacher-{cell.seed}-{cell.samples}" / objective.teacher_key(schedule) if kept else None
    folder = cells / "unfinished" / cell.name
    fitted = trainer.fit(cell.name, student, objective, train, schedule, folder, outputs=outputs)
    judged = {name: task.evaluate(trainer.predictor(student), getattr(splits, name)) for name in ("validation", "test")}
    figures = {name: {"top1": m.value, "ece": m.others["ece"], "samples": m.samples} for name, m in judged.items()}
    return {**asdict(cell), **figures, "steps": fitted.steps, "seconds": time.perf_counter() - started}


def _recipe(cell: Cell) -> list[Any]:
    """The losses of a cell, all but 'task' scaled."""
    alone = {"task_loss", "targets"} & set(reads_of(load_object(LOSSES[cell.loss]))) and cell.loss not in ("diswot",)
    given = WITH.get(cell.loss, [cell.loss] if alone else [TASK, cell.loss])
    entries = [{"use": entry} if isinstance(entry, str) else dict(entry) for entry in given]
    for entry in entries:
        weight = entry.get("weight", 1.0)
        if entry["use"] != "task" and not isinstance(weight, dict):
            entry["weight"] = weight * cell.scale
    return entries


def _table(found: list[dict[str, Any]], asked: argparse.Namespace) -> str:
    whole = asked.epochs == EPOCHS and not asked.samples
    share = "all training images" if not asked.samples else f"{asked.samples} training images"
    about = f"{asked.epochs} epochs of {share}, {len(found)} trainings, {sum(f['seconds'] for f in found) / 60:.0f} minutes"
    lines = [
        f"{about}{'' if whole else '. **Not the whole budget: it says that the losses run, not which is better.**'}",
        "",
    ]
    lines += ["| loss | start | scale | top-1 % | ECE points | against kd |", "|---|---|---|---|---|---|"]
    best = {(loss, start): _best(found, loss, start) for start in STARTS for loss in LOSSES}
    for (loss, start), cells in best.items():
        if not cells:
            continue
        kd = best[("kd", start)]
        gap = _mean(cells) - _mean(kd) if kd and loss != "kd" else None
        verdict = "" if gap is None else f"{gap:+.2f}" + ("" if gap > 0 else ": does not beat it in this budget")
        figures = f"{_spread(cells, 'top1')} | {_spread(cells, 'ece')}"
        lines.append(f"| `{loss}` | {start} | {cells[0]['scale']:g} | {figures} | {verdict} |")
    return "\n".join(lines)


def _best(found: list[dict[str, Any]], loss: str, start: str) -> list[dict[str, Any]]:
    """The cells of the scale that is best on validation."""
    mine = [f for f in found if f["loss"] == loss and f["start"] == start]
    by_scale = [[f for f in mine if f["scale"] == scale] for scale in sorted({f["scale"] for f in mine})]
    return max(by_scale, key=lambda cells: statistics.mean(f["validation"]["top1"] for f in cells), default=[])


def _mean(cells: list[dict[str, Any]]) -> float:
    return statistics.mean(f["test"]["top1"] for f in cells)


def _spread(cells: list[dict[str, Any]], figure: str) -> str:
    """Mean and half the range over seeds."""
    values = [f["test"][figure] for f in cells]
    spread = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else " (one seed)"
    return f"{statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
