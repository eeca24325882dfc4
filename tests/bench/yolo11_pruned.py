"""YOLO11n, trained from nothing on blood cells, pruned by measured time, recovered by distillation, then int8."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from tests.bench.detection import shown
from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.running import MISSING, example_report, said_of_stages

ENGINES = ("openvino", "onnxruntime")
LEAST_FLOAT, LEAST_INT8, MOST_DROP = 1.5, 2.5, 1.0


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    if find_spec("ultralytics") is None:
        return Table(figures=[], remarks=["left out: ultralytics is not installed"])
    report = example_report("yolo11_pruned")
    rows = {row["name"]: row for row in report["rows"]}
    figures = [figure for engine in ENGINES for figure in _against_teacher(rows, engine)]
    samples = "72 pictures of test, 87 of validation, 205 to train on"
    return Table(
        figures=[*figures, *map(shown, rows.values())], remarks=[samples, *said_of_stages(report), *report["warnings"]]
    )


def _against_teacher(rows: dict[str, Any], engine: str) -> Iterator[Figure]:
    """The student against the teacher in fp32, both on one engine."""
    teacher = rows[f"teacher/{engine}/fp32"]
    for precision, least in (("fp32", LEAST_FLOAT), ("int8", LEAST_INT8)):
        student = rows[f"student/{engine}/{precision}"]
        times = teacher["latency_ms"]["p50"] / student["latency_ms"]["p50"]
        yield at_least(f"YOLO11n pruned, {precision} on {engine}: times as fast as whole in fp32", least, times)
        drop = teacher["metric"]["value"] - student["metric"]["value"]
        yield at_most(f"its points of mAP@.5 below, {precision} on {engine}", MOST_DROP, drop, " points")
