"""compress search on the built-in recipe: what its front reaches beside one run, in what time, and what is shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.figure import Figure, Table, at_least, at_most
from tests.conftest import ROOT

TRIALS = 30
OTHER = """
title = "this machine without OpenVINO"
threads = 1
channel_multiple = 8
[[runtime]]
engine = "onnxruntime"
precisions = ["fp32", "int8"]
quantization = [
    { name = "ort-x86-vnni", needs = ["avx512_vnni", "avx_vnni"] },
    { name = "ort-x86-no-vnni", needs = ["x86_64"] },
]
"""


def run() -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "other.toml").write_text(OTHER)
        report, run_s = _timed(folder, "run-steps", "run", "digits", "--json")
        words = ("search", "digits", "--trials", str(TRIALS), "--json")
        found, search_s = _timed(folder, "steps", *words)
        both, both_s = _timed(folder, "steps", *words, "--device", "cpu", "--device", "other.toml", "--out", "runs/both")
    (front,) = found["fronts"]
    best = next(row for row in report["rows"] if row["name"] == report["verdict"]["best"])
    wanted = report["verdict"]["speedup_vs_teacher_fp32"]
    faster = [speed for speed, accuracy in _speeds(front) if accuracy >= best["validation"]]
    trained = sum(trial["made"] for trial in both["fronts"][1]["trials"])
    figures = [
        at_least(
            f"the front's fastest that is as accurate on validation as the recipe's result ({best['validation']:.2f} %), "
            f"over the recipe's {wanted:.2f}x",
            1.0,
            max(faster, default=0.0) / wanted,
        ),
        at_most(f"time of {TRIALS} trials over that of one run", 4.0, search_s / run_s),
        at_least("steps that trials asked for and that were there already", 60.0, 100 * front["reused"], " %"),
        Figure(what="trials finished", asked="", measured=str(_ended(front, "finished")), met=None),
        Figure(what="trials stopped, each with a reason", asked="", measured=str(_ended(front, "stopped")), met=None),
        Figure(what="a second device after it: time", asked="", measured=f"{both_s:.0f} s, {trained} steps made", met=None),
    ]
    return Table(figures=figures, remarks=[f"one run {run_s:.0f} s, the search {search_s:.0f} s, from nothing each"])


def _timed(folder: Path, steps: str, *words: str) -> tuple[dict[str, Any], float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COMPRESS_STEPS": str(folder / steps)}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "compress", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout), time.monotonic() - started


def _speeds(front: dict[str, Any]) -> list[tuple[float, float]]:
    """Return speed-up over the teacher's first form, and accuracy, of every finished trial."""
    teacher_ms = front["free"][0]["latency_ms"]
    points = [trial["point"] for trial in front["trials"] if trial["state"] == "finished"]
    return [(teacher_ms / point["latency_ms"], point["accuracy"]) for point in points]


def _ended(front: dict[str, Any], state: str) -> int:
    return sum(trial["state"] == state for trial in front["trials"])
