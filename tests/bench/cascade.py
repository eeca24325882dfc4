"""compress cascade on CIFAR-10: the public ResNet-20 and ResNet-56 as one, each in the form that its run finds best."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.figure import Figure, Table, at_most
from tests.bench.running import MISSING, ROOT

MODELS = {"small": (3, "resnet20-12fca82f.th"), "large": (9, "resnet56-4bfd9763.th")}
RECIPE = """
[task]
data = {{ use = "{sheets}:splits", path = "{data}/data/cifar10", held_out_of = "test", validation = 2000 }}
[teacher]
model = "compress.models:resnet"
arguments = {{ blocks = {blocks}, shortcut = "pad" }}
weights = "{data}/weights/resnet_cifar10/{weights}"
"""


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, (blocks, weights) in MODELS.items():
            sheets, data = ROOT / "examples" / "cifar_sheets.py", os.environ["EDGE_DATA"]
            (folder / f"{name}.toml").write_text(RECIPE.format(sheets=sheets, data=data, blocks=blocks, weights=weights))
            _compress(folder, "run", f"{name}.toml")
        found = _compress(folder, "cascade", "runs/small-cpu", "runs/large-cpu", "--recipe", "large.toml")
    accuracy, (low, middle, high) = found["accuracy"], found["drop"]
    figures = [
        at_most("mean time of ResNet-20 and ResNet-56 as one, over ResNet-56's", 0.6, found["mean_share"]),
        at_most("its drop of top-1 below ResNet-56 on test", 0.0, middle, " points"),
        Figure(what="between", asked="", measured=f"{low:.2f} and {high:.2f} points", met=None),
        Figure(what="share that ResNet-56 answered", asked="", measured=f"{100 * found['went_on']:.1f} %", met=None),
    ]
    figures += [
        Figure(
            what=f"{name}: top-1, p50, p90, worst ms",
            asked="",
            measured=_row(accuracy[name], found["times"][name]),
            met=None,
        )
        for name in ("small", "large", "cascade")
    ]
    return Table(figures=figures, remarks=[f"not a clean measurement: {doubt}" for doubt in found["doubts"]])


def _row(accuracy: float, times: dict[str, float]) -> str:
    return f"{accuracy:.2f} %, {times['p50']:.3f}, {times['p90']:.3f}, {times['worst']:.3f}"


def _compress(folder: Path, *words: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "compress", *words, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
