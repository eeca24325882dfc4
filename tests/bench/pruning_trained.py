"""Pruning with recovery, as a user runs it: ResNet-56 on CIFAR-10 at 2x and 4x measured speed, and what it is compared with.

Hours on two cores as it stands; ``pruning_trained:2x`` runs one part, half an hour of two with bf16. $BENCH_EPOCHS (15)
and $BENCH_IMAGES (all 50,000) make it less. Steps are kept in $COMPRESS_STEPS, if it is set.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.running import MISSING, ROOT, report_of

RECIPE = """
[task]
kind = "classification"
[task.data]
use = "{root}/examples/cifar_sheets.py:splits"
path = "$EDGE_DATA/data/cifar10"
held_out_of = "test"
most = {images}
[teacher]
model = "compress.models:resnet"
arguments = {{ blocks = 9, shortcut = "pad" }}
weights = "$EDGE_DATA/weights/resnet_cifar10/resnet56-4bfd9763.th"
{teaching}
[student]
from = "teacher"
[budget]
accuracy_drop_points = 50.0
[[stage]]
use = "prune"
precision = "fp32"
epochs = {epochs}
{settings}
"""
TRAINED = """learning_rate = 0.05
cut_mix = 0.5
losses = ["kd", "attention", { use = "cwd", weight = 3.0 }]"""
SETTINGS = {
    "2x": (2.0, f"speed_up = 2.0\n{TRAINED}"),
    "4x": (4.0, f"speed_up = 4.0\n{TRAINED}"),
    "2x-uniform": (2.0, 'speed_up = 2.0\nby = "uniform"'),
    "2x-macs": (2.0, 'speed_up = 2.0\nby = "macs"'),
    "half-of-the-channels": (1.0, "ratio = 0.5"),
}
PARTS = tuple(SETTINGS)
ALONE = 'engine = "openvino/int8"'
ALSO = """
[[teacher.also]]
model = "compress.models:resnet"
arguments = {{ blocks = {blocks}, shortcut = "pad" }}
weights = "$EDGE_DATA/weights/resnet_cifar10/{file}"
"""
OTHERS = ((7, "resnet44-014dd654.th"), (5, "resnet32-d509ac18.th"))
TOGETHER = 'engine = "openvino/bf16"\nmirrored = true' + "".join(ALSO.format(blocks=b, file=f) for b, f in OTHERS)
TAUGHT = {"2x": TOGETHER, "4x": TOGETHER}
"""By three networks of its family, each looking at an image and its mirror image; the others by the network itself."""
MOST_DROP = {"2x": 0.3, "4x": 1.2}
EPOCHS, IMAGES = int(os.environ.get("BENCH_EPOCHS", "15")), int(os.environ.get("BENCH_IMAGES", "0"))


def run(name: str) -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    asked, settings = SETTINGS[name]
    faster, drop, remarks = outcome(_report(settings, TAUGHT.get(name, ALONE)))
    what = f"{name}: top-1 lost on test, {EPOCHS} epochs of {IMAGES or 'all'} images"
    shown = Figure(what=what, asked="for comparison", measured=f"{drop:+.2f} points", met=None)
    lost = at_most(what, MOST_DROP[name], drop, " points") if name in MOST_DROP else shown
    return Table(figures=[at_least(f"{name}: measured fp32 speed on OpenVINO", asked, faster), lost], remarks=remarks)


def outcome(report: dict[str, Any]) -> tuple[float, float, list[str]]:
    """How many times faster than the teacher the pruned one is in fp32 on OpenVINO, what it lost on test, and remarks."""
    rows = {row["name"]: row for row in report["rows"]}
    teacher = rows["teacher/openvino/fp32"]
    pruned = next(row for key, row in rows.items() if key.startswith("prune") and row["precision"] == "fp32")
    faster = teacher["latency_ms"]["p50"] / pruned["latency_ms"]["p50"]
    drop = teacher["metric"]["value"] - pruned["metric"]["value"]
    remarks = [
        f"{pruned['decision']}: {pruned['reason']} {pruned['about']}",
        f"{pruned['seconds']:.0f} s of pruning; lost on validation: {teacher['validation'] - pruned['validation']:.2f}",
    ]
    return faster, drop, remarks


def _report(settings: str, teaching: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "recipe.toml"
        recipe.write_text(RECIPE.format(root=ROOT, settings=settings, teaching=teaching, epochs=EPOCHS, images=IMAGES))
        return report_of(recipe)
