"""Pruning with recovery, as a user runs it: ResNet-56 on CIFAR-10 at 2x and 4x measured speed, and what allocation is worth.

Hours on two cores. Steps are kept in $COMPRESS_STEPS, if it is set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.running import MISSING

ROOT = Path(__file__).parent.parent.parent
RECIPE = """
[task]
kind = "classification"
data = {{ use = "{root}/examples/cifar_sheets.py:splits", path = "$EDGE_DATA/data/cifar10", held_out_of = "test" }}
[teacher]
model = "compress.models:resnet"
arguments = {{ blocks = 9, shortcut = "pad" }}
weights = "$EDGE_DATA/weights/resnet_cifar10/resnet56-4bfd9763.th"
[student]
from = "teacher"
[budget]
accuracy_drop_points = 5.0
[[stage]]
use = "prune"
precision = "fp32"
epochs = 15
realisations = 15
{settings}
"""
SETTINGS = {
    "2x by latency": (2.0, 'speed_up = 2.0\nimportance = "taylor"'),
    "4x by latency": (4.0, 'speed_up = 4.0\nimportance = "taylor"\nrounds = 2'),
    "2x uniform": (2.0, 'speed_up = 2.0\nby = "uniform"\nimportance = "taylor"'),
    "2x by MACs": (2.0, 'speed_up = 2.0\nby = "macs"\nimportance = "taylor"'),
    "global magnitude, half": (1.0, 'ratio = 0.5\nimportance = "l2"'),
}
MOST_DROP = {"2x by latency": 0.3, "4x by latency": 1.2}


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    figures: list[Figure] = []
    remarks: list[str] = []
    for name, (asked, settings) in SETTINGS.items():
        rows = {row["name"]: row for row in _report(settings)["rows"]}
        teacher = rows["teacher/openvino/fp32"]
        pruned = next(row for key, row in rows.items() if key.startswith("prune") and row["precision"] == "fp32")
        faster = teacher["latency_ms"]["p50"] / pruned["latency_ms"]["p50"]
        drop = teacher["metric"]["value"] - pruned["metric"]["value"]
        figures.append(at_least(f"{name}: measured fp32 speed on OpenVINO", asked, faster))
        if name in MOST_DROP:
            figures.append(at_most(f"{name}: top-1 lost on test, 15 epochs of recovery", MOST_DROP[name], drop, " points"))
        else:
            told = f"{drop:+.2f} points lost"
            figures.append(Figure(what=f"{name}: top-1 on test", asked="for comparison", measured=told, met=None))
        remarks.append(f"{name}: {pruned['decision']}: {pruned['reason']} {pruned['about']}")
    return Table(figures=figures, remarks=remarks)


def _report(settings: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "recipe.toml"
        recipe.write_text(RECIPE.format(root=ROOT, settings=settings))
        environment = {"COMPRESS_STEPS": str(Path(scratch) / "steps"), **os.environ}
        command = [sys.executable, "-m", "compress", "run", str(recipe), "--out", str(Path(scratch) / "out"), "--json"]
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"compress run ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report
