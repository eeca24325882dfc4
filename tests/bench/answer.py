"""A network in which int8 may lose: the answer of ``compress run`` must be the fastest form within the budget, int8 or not.

A small EfficientNet (``small_models.gated``), trained here on handwritten digits, on a device with OpenVINO alone and on one
with ONNX Runtime beside it. Its gates and SiLUs are float work between integer layers (reasons beside the rules of
``deploy.qdq.placement``), so that int8 is slower than float on some processors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from compress.data.digits import digits
from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.int8_subjects import ADAM, trained
from tests.bench.running import ROOT, report_of
from tests.bench.small_models import gated

PARTS = ("openvino", "cpu")
DROP_POINTS, LEEWAY = 1.0, 1.03
RECIPE = """
[task]
kind = "classification"
data = "digits"
[teacher]
model = "tests.bench.small_models:gated"
weights = "{weights}"
[student]
from = "teacher"
[budget]
accuracy_drop_points = {drop}
[[stage]]
use = "quantize"
epochs = 0
"""


def run(part: str) -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        weights, recipe = Path(scratch) / "gated.safetensors", Path(scratch) / "recipe.toml"
        save_file({k: v.contiguous() for k, v in trained("gated", gated, ADAM, digits()).state_dict().items()}, weights)
        recipe.write_text(RECIPE.format(weights=weights, drop=DROP_POINTS))
        report = report_of(recipe, device=part if part == "cpu" else str(_openvino_alone(Path(scratch))))
    return Table(figures=list(_figures(report)), remarks=list(_stages(report)))


def _openvino_alone(folder: Path) -> Path:
    """The profile of this machine without its second runtime."""
    file = folder / "openvino-alone.toml"
    first, second, *_ = (ROOT / "profiles" / "cpu.toml").read_text().split("[[runtime]]")
    file.write_text(f"{first}[[runtime]]{second}")
    return file


def _figures(report: dict[str, Any]) -> Iterator[Figure]:
    rows = {row["name"]: row for row in report["rows"]}
    best, teacher = rows[report["verdict"]["best"]], rows["teacher/openvino/fp32"]
    good = [r for r in rows.values() if teacher["metric"]["value"] - r["metric"]["value"] <= DROP_POINTS]
    fastest = min(row["latency_ms"]["p50"] for row in good)
    yield at_most("the answer's p50 against the fastest row within the budget", LEEWAY, best["latency_ms"]["p50"] / fastest)
    yield at_least(
        "teacher in fp32 on OpenVINO over the answer, p50", 1.0, teacher["latency_ms"]["p50"] / best["latency_ms"]["p50"]
    )
    for name, row in rows.items():
        chosen = "**the answer** " if row is best else ""
        told = f"{row['metric']['value']:.2f} %; {row['latency_ms']['p50']:.3f} ms"
        yield Figure(what=f"{chosen}{name}", asked="", measured=told, met=None)


def _stages(report: dict[str, Any]) -> Iterator[str]:
    told = {row["stage"]: f"{row['stage']}: {row['decision']}: {row['reason']}" for row in report["rows"] if row["stage"]}
    yield from told.values()
