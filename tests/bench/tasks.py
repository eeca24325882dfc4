"""Segmentation, sound and super-resolution: an example each, trained from nothing, compressed, judged on test as shipped."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.running import MISSING, example_report, said_of_stages

PARTS = ("camvid", "spoken_digits", "super_resolution")
ASKED = {"camvid": (3.0, 1.0), "spoken_digits": (4.0, 1.0), "super_resolution": (1.0, 0.1)}
"""How many times as fast the student is to be as its teacher in fp32 on the same engine, and how many points it may lose."""

ENGINES = ("openvino", "onnxruntime")


def run(part: str) -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    report = example_report(part)
    rows = {row["name"]: row for row in report["rows"]}
    figures = [each for engine in ENGINES for each in _against(rows, engine, *ASKED[part])]
    return Table(figures=[*figures, *map(shown, rows.values())], remarks=[*said_of_stages(report), _took(report)])


def _against(rows: dict[str, Any], engine: str, faster: float, drop: float) -> Iterator[Figure]:
    """The student in int8, and the teacher in int8 without training, against the teacher in fp32 on the same engine."""
    teacher, free = rows[f"teacher/{engine}/fp32"], rows[f"teacher/{engine}/int8"]
    student = rows.get(f"student/{engine}/int8")
    if student is not None:
        times = teacher["latency_ms"]["p50"] / student["latency_ms"]["p50"]
        yield at_least(f"{engine}: the student in int8 against the teacher in fp32, p50", faster, times)
        yield at_most(f"{engine}: its drop of {teacher['metric']['name']}", drop, _drop(teacher, student), " points")
    yield at_most(f"{engine}: the teacher's drop in int8 without training", drop, _drop(teacher, free), " points")


def _drop(before: dict[str, Any], after: dict[str, Any]) -> float:
    return float(before["metric"]["value"] - after["metric"]["value"])


def shown(row: dict[str, Any]) -> Figure:
    metric = row["metric"]
    words = f"{metric['name']} {metric['value']:.2f} {metric['unit']}, standard error {standard_error(metric):.2f}"
    measured = f"{words}, {metric['samples']} samples; p50 {row['latency_ms']['p50']:.3f} ms"
    return Figure(what=row["name"], asked="", measured=measured, met=None)


def standard_error(metric: dict[str, Any]) -> float:
    """Return the one that the metric states, or that of a share of samples that are right."""
    if "standard error" in metric["others"]:
        return float(metric["others"]["standard error"])
    share = metric["value"] / 100
    return 100 * math.sqrt(share * (1 - share) / metric["samples"])


def _took(report: dict[str, Any]) -> str:
    """How long each training took."""
    names = {row["stage"] or "teacher": row["seconds"] for row in report["rows"] if row["seconds"]}
    return "trained, in seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in names.items())
