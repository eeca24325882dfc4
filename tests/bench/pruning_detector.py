"""Our detector on blood cells at 1.5x measured speed, channels and blocks taken out by latency, as a user runs it.

A quarter of an hour of a core. Steps are kept in $COMPRESS_STEPS, if it is set.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.bench.detection import shown
from tests.bench.figure import Table, at_least, at_most
from tests.bench.pruning_trained import outcome
from tests.bench.running import MISSING, ROOT, report_of

SPEED_UP, MOST_DROP = 1.5, 1.0
TOLD = 1.6
"""What the stage is told, so that the clock's noise does not decide about 1.5."""
STUDENT = """
[student]
from = "teacher"
[budget]
accuracy_drop_points = 1.0
[[stage]]"""
DISTILL, PRUNE = 'use = "distill"', f'use = "prune"\nprecision = "fp32"\nspeed_up = {TOLD}'


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "recipe.toml"
        recipe.write_text(_recipe((ROOT / "examples" / "blood_cells.toml").read_text()))
        report = report_of(recipe)
    faster, drop, remarks = outcome(report)
    figures = [
        at_least("measured fp32 speed on OpenVINO", SPEED_UP, faster),
        at_most("mAP@.5 lost on test", MOST_DROP, drop, " points"),
        *map(shown, report["rows"]),
    ]
    return Table(figures=figures, remarks=remarks)


def _recipe(example: str) -> str:
    """The example's data and teacher; pruned instead of distilled, and trained as its student is."""
    first = example.split("[[stage]]")[1]
    assert DISTILL in first
    return example.partition("[student]")[0] + STUDENT + first.replace(DISTILL, PRUNE)
