"""Blood cells: a detector trained from nothing, then compressed; judged on the test split as it is shipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.running import MISSING, example_report, said_of_stages


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    report = example_report("blood_cells")
    rows = {row["name"]: row for row in report["rows"]}
    return Table(figures=[*_student(rows), *map(shown, rows.values())], remarks=[*said_of_stages(report), _took(report)])


def _student(rows: dict[str, Any]) -> Iterator[Figure]:
    """The student in its fastest form on OpenVINO against the teacher there in fp32."""
    teacher = rows["teacher/openvino/fp32"]
    forms = [row for row in rows.values() if row["kind"] == "student" and row["engine"] == "openvino"]
    student = min(forms, key=lambda row: row["latency_ms"]["p50"])
    faster = teacher["latency_ms"]["p50"] / student["latency_ms"]["p50"]
    drop = teacher["metric"]["value"] - student["metric"]["value"]
    yield at_least(f"{student['name']} against the teacher in fp32 on OpenVINO, p50", 2.5, faster)
    yield at_most("its drop of mAP@.5 on test", 1.0, drop, " points")


def shown(row: dict[str, Any]) -> Figure:
    others = row["metric"]["others"]
    classes = ", ".join(f"{name.removeprefix('AP@.5 ')} {value:.1f}" for name, value in others.items() if "AP@.5 " in name)
    words = f"mAP@.5 {row['metric']['value']:.2f} ({classes}), @[.5:.95] {others['mAP@.5:.95']:.2f}"
    measured = f"{words}; p50 {row['latency_ms']['p50']:.2f} ms; validation {row['validation']:.2f}"
    return Figure(what=row["name"], asked="", measured=measured, met=None)


def _took(report: dict[str, Any]) -> str:
    """How long each training took when it was made; a second run takes what is kept of it."""
    names = {row["stage"] or "teacher": row["seconds"] for row in report["rows"] if row["seconds"]}
    return "trained when first run, in seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in names.items())
