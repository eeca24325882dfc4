"""A public ImageNet network: the published accuracy through our data and evaluation, and int8 on the engines."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.figure import Figure, Table, at_least, at_most

ROOT = Path(__file__).parent.parent.parent
PUBLISHED_TOP1 = 58.8
"""Of this checkpoint on these 500 images, measured by its converter; the paper has 57.5 on all of ImageNet's validation."""


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=["left out: EDGE_DATA does not say where the data sets are"])
    with tempfile.TemporaryDirectory() as scratch:
        report = measured(Path(scratch))
    rows = {row["name"]: row for row in report["rows"]}
    fp32 = rows["teacher/openvino/fp32"]["metric"]
    figures = [
        at_least("SqueezeNet 1.0 on 500 held-out images of ImageNet, top-1 in fp32", PUBLISHED_TOP1, fp32["value"], " %"),
        Figure(what="its top-5", asked="82.8 %", measured=f"{fp32['others']['top5']:.1f} %", met=None),
        at_least("outputs of the engine against the module's in fp32, cosine", 0.9999, _cosine(rows), ""),
    ]
    for engine in ("openvino", "onnxruntime"):
        row = rows[f"teacher/{engine}/int8"]
        drop = rows[f"teacher/{engine}/fp32"]["metric"]["value"] - row["metric"]["value"]
        faster = rows["teacher/openvino/fp32"]["latency_ms"]["p50"] / row["latency_ms"]["p50"]
        figures += [at_most(f"int8 after post-training on {engine}: points below fp32", 0.6, drop, " points")]
        figures += [
            Figure(what=f"its p50 on {engine} against fp32 on openvino", asked="", measured=f"{faster:.2f}x", met=None)
        ]
    return Table(figures=figures)


def measured(scratch: Path) -> dict[str, Any]:
    """The report of ``compress run`` on the example's recipe."""
    spec = importlib.util.spec_from_file_location("squeezenet", ROOT / "examples" / "squeezenet.py")
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    arrays = Path(os.environ["EDGE_DATA"]) / "weights" / "squeezenet_imagenet" / "squeezenet1_0_f32.npz"
    example.convert(arrays, scratch / "squeezenet.safetensors")
    environment = {
        **os.environ,
        "SQUEEZENET_WEIGHTS": str(scratch / "squeezenet.safetensors"),
        "COMPRESS_STEPS": str(scratch / "steps"),
    }
    recipe = str(ROOT / "examples" / "squeezenet.toml")
    command = [sys.executable, "-m", "compress", "run", recipe, "--out", str(scratch / "out"), "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"compress run ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _cosine(rows: dict[str, Any]) -> float:
    cosine: float = rows["teacher/openvino/fp32"]["parity"]["cosine"]
    return cosine
