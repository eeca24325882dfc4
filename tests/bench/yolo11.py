"""YOLO11n, trained from nothing on blood cells by its own library's loss, then int8 without training on two engines.

Beside it, the runtime's own tool on the file that its users export, whose one output holds boxes in pixels and scores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.bench.detection import shown
from tests.bench.figure import Figure, Table, at_most
from tests.bench.running import MISSING, ROOT
from tests.bench.tools import ort_int8

MOST_DROP = 0.5
CALIBRATED = 64


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    if find_spec("ultralytics") is None:
        return Table(figures=[], remarks=["left out: ultralytics is not installed"])
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        kept = {"COMPRESS_STEPS": str(Path(scratch) / "steps"), **os.environ}
        command = [sys.executable, "-m", "compress", "run", str(ROOT / "examples/yolo11.toml"), "--json", "--out", str(out)]
        done = subprocess.run(command, env=kept, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 3):
            raise RuntimeError(f"compress run ended with {done.returncode}")
        report = json.loads(done.stdout)
        figures = [*_figures({row["name"]: row for row in report["rows"]}), *_own_tool(out, Path(scratch))]
    remarks = [f"72 pictures of test, 87 of validation, 205 to train on; {note}" for note in report["notes"][:1]]
    return Table(figures=figures, remarks=[*remarks, *report["notes"][1:], *report["warnings"]])


def _figures(rows: dict[str, Any]) -> list[Figure]:
    figures = []
    for engine in ("openvino", "onnxruntime"):
        drop = rows[f"teacher/{engine}/fp32"]["metric"]["value"] - rows[f"teacher/{engine}/int8"]["metric"]["value"]
        what = f"YOLO11n in int8 without training on {engine}: points of mAP@.5 below fp32"
        figures.append(at_most(what, MOST_DROP, drop, " points"))
    return [*figures, *map(shown, rows.values())]


def _own_tool(out: Path, scratch: Path) -> list[Figure]:
    """ONNX Runtime's tool on the model with its decode, as ultralytics exports it: (1, 4 + classes, places)."""
    import numpy as np
    import onnx
    import torch

    from compress.models import plan
    from compress.recipe.parse import instantiate, load, sources
    from compress.tasks.detection import Detection
    from deploy.export.to_onnx import capture, to_onnx
    from deploy.onnx_graph.run import onnx_session
    from tests.bench.whole_yolo import Whole

    recipe = load(str(ROOT / "examples/yolo11.toml"))
    data = instantiate(recipe.data, sources(), "[task] data")
    _, module = plan.load(out / plan.FOLDER)
    task = Detection().bound_to(data)
    example = data.train.load(np.arange(2)).inputs
    onnx.save(to_onnx(capture(Whole(module, example.shape[2:]), torch.from_numpy(example))), str(scratch / "whole.onnx"))
    samples = data.calibration.load(np.arange(CALIBRATED)).inputs
    ort_int8(scratch / "whole.onnx", scratch / "whole-int8.onnx", samples, scratch)
    figures = []
    for file in ("whole", "whole-int8"):
        predict = onnx_session(onnx.load(str(scratch / f"{file}.onnx")))
        scores = np.concatenate([predict(batch.inputs)[0][:, 4:] for batch in data.test.batches(16)])
        measured = f"mAP@.5 {task.evaluate(predict, data.test).value:.2f}; {np.unique(scores).size} different scores"
        what = {"whole": "with the decode in one output, fp32", "whole-int8": "the same by ONNX Runtime's own tool, int8"}
        figures.append(Figure(what=what[file], asked="", measured=measured, met=None))
    return figures
