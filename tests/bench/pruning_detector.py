"""Our detector on blood cells at 1.5x measured speed, channels and blocks taken out by latency, as a user runs it.

An hour of a core where the teacher has still to be trained. Steps are kept in $COMPRESS_STEPS, if it is set.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.bench.detection import shown
from tests.bench.figure import Table, at_least, at_most
from tests.bench.running import MISSING, ROOT, report_of

SPEED_UP, MOST_DROP = 1.5, 1.0
TOLD = 1.6
"""What the stage is told, so that the clock's noise does not decide about 1.5."""
PRUNE = """
[student]
from = "teacher"
[budget]
accuracy_drop_points = {most_drop}
[[stage]]
use = "prune"
precision = "fp32"
speed_up = {speed_up}
epochs = 70
batch_size = 8
optimizer = "adamw"
learning_rate = 0.003
weight_decay = 0.05
ema = 0.99
losses = [
    "task",
    {{ use = "bce_kd", weight = 4.0 }},
    {{ use = "boxes", weight = 2.0 }},
    {{ use = "attention", weight = 0.5 }},
]
"""


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    example = (ROOT / "examples" / "blood_cells.toml").read_text()
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "recipe.toml"
        stage = PRUNE.format(most_drop=MOST_DROP, speed_up=TOLD)
        recipe.write_text(example.partition("[student]")[0] + stage)
        rows = {row["name"]: row for row in report_of(recipe)["rows"]}
    teacher = rows["teacher/openvino/fp32"]
    pruned = next(row for key, row in rows.items() if key.startswith("prune") and row["precision"] == "fp32")
    faster = teacher["latency_ms"]["p50"] / pruned["latency_ms"]["p50"]
    drop = teacher["metric"]["value"] - pruned["metric"]["value"]
    figures = [
        at_least("measured fp32 speed on OpenVINO", SPEED_UP, faster),
        at_most("mAP@.5 lost on test", MOST_DROP, drop, " points"),
        *(shown(row) for row in rows.values()),
    ]
    remarks = [f"{pruned['decision']}: {pruned['reason']} {pruned['about']}", f"{pruned['seconds']:.0f} s of pruning"]
    return Table(figures=figures, remarks=remarks)
