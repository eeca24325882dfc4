"""compress check: how often it is right. Races of one model against itself are real; checks are drawn from them."""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch

from compress.models import resnet20
from compress.pipeline.check.timing import LEAST_RACES, NEW, OLD, Round, compare_race, is_told, judge, race_once
from compress.pipeline.target import resolve, runtime_versions
from deploy.engines import engine
from deploy.export.to_onnx import capture, to_onnx
from deploy.latency.bench import noise
from deploy.worker.client import RemoteWorker
from tests.bench.figure import Figure, Table, at_least

CHECKS, RACES, MOST_RACES = 100, 24, 20
LIMIT, CHANGE = math.log(1.03), math.log(1.05)


def run() -> Table:
    figures, remarks = [], []
    with tempfile.TemporaryDirectory() as scratch:
        built = _built(Path(scratch))
        for place, workers in (("", 0), (", another process on each core", os.cpu_count() or 1)):
            busy = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(workers)]
            for process in busy:
                process.start()
            rounds = [_race(built) for _ in range(RACES)]
            for process in busy:
                process.terminate()
            figures += _figures(rounds, place)
            spread = [100 * float(np.std([getattr(r, name) for r in rounds], ddof=1)) for name in ("fastest", "median")]
            place_load = f"{place} (load {os.getloadavg()[0]:.1f})"
            words = f"a race spreads by {spread[0]:.2f} % in the fastest tenth and {spread[1]:.2f} % in the median"
            remarks.append(f"ResNet-20 against itself in OpenVINO{place_load}: {words}; {RACES} races")
    remarks.append(
        f"each of {CHECKS} checks draws its races from these, the two models swapped at random, and the new one's times are "
        f"raised by the change; 3 % is allowed; at most {MOST_RACES} races"
    )
    return Table(figures=figures, remarks=remarks)


def _built(folder: Path) -> Path:
    torch.manual_seed(0)
    onnx.save(to_onnx(capture(resnet20().eval(), [torch.zeros(2, 3, 32, 32)])), str(folder / "model.onnx"))
    target = resolve("cpu")
    plan = engine("openvino").plan(target.profile, "fp32", runtime_versions(target.device)["openvino"])
    with RemoteWorker(target.device) as worker:
        worker.build(folder / "model.onnx", plan, folder / "engine")
    return folder / "engine"


def _race(built: Path) -> Round:
    feed = np.random.default_rng(0)
    raced = race_once(
        {OLD: built, NEW: built}, resolve("cpu").device, lambda spec: noise(feed, tuple(spec["shape"]), spec["dtype"])
    )
    return compare_race(raced.times)


def _compute() -> None:
    while True:
        sum(range(10_000))


def _figures(rounds: list[Round], place: str) -> list[Figure]:
    figures = []
    for what, change, right in (("no change is fine", 0.0, "fine"), ("5 % slower is worse", CHANGE, "worse")):
        told = Counter(_checked(rounds, change, seed) for seed in range(CHECKS))
        not_wrong = told[right] + told["cannot tell"]
        figures.append(at_least(f"{what}, or cannot be told{place}", 95, not_wrong, f" of {CHECKS}"))
        measured = f"{told[right]} of {CHECKS}"
        figures.append(Figure(what=f"and is told{place}", asked="", measured=measured, met=None))
    return figures


def _checked(rounds: list[Round], change: float, seed: int) -> str:
    rng = np.random.default_rng(seed)
    seen: list[Round] = []
    while not is_told(seen, LIMIT) and len(seen) < max(LEAST_RACES, MOST_RACES):
        drawn, sign = rounds[rng.integers(len(rounds))], rng.choice([-1, 1])
        seen.append(Round(fastest=change + sign * drawn.fastest, median=change + sign * drawn.median))
    return judge(seen, LIMIT)[0]
