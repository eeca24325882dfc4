"""FastestDet as an ONNX file without source code: baselines, post-training int8, measured and judged on the engines."""

from __future__ import annotations

import os

from tests.bench.figure import Figure, Table, at_most
from tests.bench.running import MISSING, example_report

PUBLISHED = 33.9
"""mAP@.5 of the file on these 128 pictures, measured by whoever collected them; so much of it is the evaluation's."""

LEEWAY = 0.5


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    rows = {row["name"]: row for row in example_report("fastestdet")["rows"]}
    fp32 = rows["teacher/openvino/fp32"]
    off = abs(fp32["metric"]["value"] - PUBLISHED)
    figures = [at_most(f"fp32 on OpenVINO off the known mAP@.5 of {PUBLISHED}, 128 pictures", LEEWAY, off, " points")]
    for engine in ("openvino", "onnxruntime"):
        drop = rows[f"teacher/{engine}/fp32"]["metric"]["value"] - rows[f"teacher/{engine}/int8"]["metric"]["value"]
        figures.append(at_most(f"int8 after post-training on {engine}: points of mAP@.5 below fp32", 1.0, drop, " points"))
    for row in rows.values():
        others, p50 = row["metric"]["others"], row["latency_ms"]["p50"]
        measured = f"mAP@.5 {row['metric']['value']:.2f}, @[.5:.95] {others['mAP@.5:.95']:.2f}; p50 {p50:.2f} ms"
        figures.append(Figure(what=row["name"], asked="", measured=measured, met=None))
    return Table(figures=figures)
