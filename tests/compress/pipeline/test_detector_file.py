"""A published detector through the pipeline: cut before its decode, int8, thresholds, bundle, detections on the device."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from compress.execution.cache import StepCache
from compress.pipeline import bundle as bundling
from compress.pipeline import operating_points
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import Variant
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import parse
from deploy.bundle import bundle as bundles
from deploy.devices.local import Local
from deploy.export.to_onnx import capture, to_onnx
from profiles.device import load as load_profile
from tests import squares
from tests.conftest import ROOT
from tests.deploy.processing.detection import heads


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Squares, and a YOLOv8 head with its decode and random weights, as a file; of as many classes as its data."""
    folder = tmp_path_factory.mktemp("detector")
    squares.write(folder / "data", (16, 12, 4))
    model = to_onnx(capture(heads.made(heads.Distances, classes=2), torch.zeros(2, 3, 64, 64)))
    onnx.save(model, folder / "yolo.onnx")
    return folder


def opened(folder, quiet, **task):
    data = {"use": "yolo", "path": str(folder / "data"), "size": [64, 64], "classes": ["red", "green"], "calibration": 16}
    table = {
        "task": {"kind": {"use": "detection", "threshold": 0.4, **task}, "data": data},
        "teacher": {"model": str(folder / "yolo.onnx")},
    }
    recipe = parse(table, name="yolo", source=str(folder / "yolo.toml"))
    profile, cache = load_profile("cpu"), StepCache(folder / "steps", quiet)
    builder = ModelBuilder(recipe, profile, cache, quiet)
    builder.check()
    return builder, Evaluator(builder, Local(), profile, cache, quiet), cache


@pytest.mark.slow
def test_a_decode_that_was_cut_off_is_numpys_and_int8_gets_thresholds_of_its_own(folder, quiet, tmp_path):
    builder, evaluator, cache = opened(folder, quiet)
    teacher = builder.teacher()
    assert teacher.notes[0].startswith("cut before its decode, at 6 branches")
    assert builder.describe(teacher).startswith("outputs are read as head 'yolo'")
    best = Variant(teacher, "onnxruntime", "int8")
    outputs = evaluator.infer(best, evaluator.sample_feed(builder.data.test, 2))
    assert len(outputs) == 6
    chosen = operating_points.choose(best, teacher, evaluator, builder, cache)
    assert [each.name for each in chosen] == ["red", "green"]
    assert all(each.asked == 0.4 and 0 < each.threshold < 1 for each in chosen)
    assert operating_points.choose(Variant(teacher, "openvino", "fp32"), teacher, evaluator, builder, cache) == ()
    cargo = bundling.collect(best, evaluator, builder, chosen)
    bundles.write(
        tmp_path / "bundle",
        title="yolo",
        model=cargo.model,
        plan=cargo.plan,
        profile=evaluator.profile,
        golden=cargo.golden,
        report=b"{}",
        decoding=cargo.decoding,
    )
    about = json.loads((tmp_path / "bundle/decode.json").read_text())
    assert about["head"] == "yolo" and about["thresholds"] == [each.threshold for each in chosen]
    np.save(tmp_path / "inputs.npy", evaluator.sample_feed(builder.data.test, 3))
    command = [sys.executable, "-m", "deploy", "detect", str(tmp_path / "bundle"), str(tmp_path / "inputs.npy")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line)["detections"] for line in done.stdout.splitlines()]
    assert len(lines) == 3
    least = dict(zip(about["classes"], about["thresholds"], strict=True))
    assert all(row["score"] >= least[row["class"]] - 1e-4 for rows in lines for row in rows)


@pytest.mark.slow
def test_a_decode_in_the_graph_gives_corners_and_scores_on_the_engine(folder, quiet):
    builder, evaluator, _ = opened(folder, quiet, decode="graph")
    teacher = builder.teacher()
    assert teacher.notes == ()
    inputs = evaluator.sample_feed(builder.data.validation, 4)
    reference = builder.as_exported(teacher)(inputs)
    for engine, precision in (("onnxruntime", "fp32"), ("openvino", "int8")):
        boxes, scores = evaluator.infer(Variant(teacher, engine, precision), inputs)
        assert boxes.shape == (4, 84, 4) and scores.shape == (4, 84, 2)
        assert np.abs(scores - reference[1]).mean() < (1e-4 if precision == "fp32" else 0.05)
        assert builder.task.decoding([boxes, scores]).head == "corners"
    judged = evaluator.judge(Variant(teacher, "onnxruntime", "fp32"), "validation")
    assert judged.parity.cosine > 0.9999 and judged.parted is None
