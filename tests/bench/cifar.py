"""CIFAR-10 from a public checkpoint: its published accuracy, and what the example's recipe makes of it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.execution.progress import StreamProgress
from compress.models.checkpoint import load_into
from compress.models.factory import factory
from compress.models.foreign import load_foreign
from compress.models.resnet import resnet
from compress.tasks.classification import Classification
from compress.training.trainer import Trainer, fast_bf16
from profiles.device import facts
from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.running import MISSING, ROOT, example_report

VNNI = {"avx512_vnni", "avx_vnni"}


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    figures = [_published(Path(os.environ["EDGE_DATA"]))]
    report, minutes = _compressed()
    figures += list(_verdict(report))
    able = f"bf16 arithmetic: {'yes' if fast_bf16() else 'no'}, VNNI: {'yes' if facts().flags & VNNI else 'no'}"
    remarks = [
        f"the recipe's steps took {minutes:.0f} minutes of two cores that other work shared ({able})",
        *_stages(report),
    ]
    return Table(figures=figures, remarks=remarks)


def _published(data: Path) -> Figure:
    splits = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")(path=str(data / "data" / "cifar10"))
    teacher = resnet(blocks=9, shortcut="pad")
    checkpoint = data / "weights" / "resnet_cifar10" / "resnet56-4bfd9763.th"
    load_into(teacher, load_foreign(checkpoint), checkpoint.name)
    predict = Trainer(0, StreamProgress(io.StringIO())).predictor(teacher)
    found = Classification().evaluate(predict, splits.test)
    return Figure(
        what=f"ResNet-56's public checkpoint on the {found.samples:,} test images, top-1 of the module in fp32",
        asked="93.39 %, exactly",
        measured=f"{found.value:.2f} %",
        met=round(found.value, 2) == 93.39,
    )


def _compressed() -> tuple[dict[str, Any], float]:
    """The report of the example's recipe, and the minutes that its steps took; they are kept in $COMPRESS_STEPS."""
    report = example_report("cifar10")
    seconds = sum({row["stage"]: row["seconds"] for row in report["rows"] if row["stage"]}.values())
    return report, seconds / 60


def _verdict(report: dict[str, Any]) -> Iterator[Figure]:
    verdict, best = report["verdict"], {row["name"]: row for row in report["rows"]}[report["verdict"]["best"]]
    samples = best["metric"]["samples"]
    yield at_least("student of ResNet-56 against teacher fp32 on OpenVINO, p50", 6, verdict["speedup_vs_teacher_fp32"])
    yield at_least("the same against the best free baseline", 1.5, verdict["speedup_vs_best_free"])
    drop = verdict["accuracy_drop_points"]
    yield at_most(f"its drop of top-1 on the {samples:,} test images that no choice saw", 0.5, drop, " points")


def _stages(report: dict[str, Any]) -> Iterator[str]:
    float_ms = next(row["latency_ms"]["p50"] for row in report["rows"] if row["name"] == "teacher/openvino/fp32")
    for row in report["rows"]:
        if row["stage"] and row["engine"] == "openvino":
            p50_ms = row["latency_ms"]["p50"]
            told = f"{row['metric']['value']:.2f} % on test, {p50_ms:.3f} ms ({float_ms / p50_ms:.2f}x the teacher in fp32)"
            yield f"{row['name']}: {told}; {row['decision']}: {row['reason']}"
