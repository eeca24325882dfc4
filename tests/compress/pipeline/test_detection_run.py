"""The whole path for a detector, on pictures drawn here, as a user runs it."""

import json

import numpy as np
import pytest

from deploy.bundle.bundle import verify
from tests import squares

RECIPE = """
[task]
kind = { use = "detection", strides = [8, 16] }
data = { use = "yolo", path = "pictures", size = [64, 64], classes = ["red", "green"], calibration = 16 }
[teacher]
model = "compress.models:detector"
arguments = { widths = [16, 32, 32], neck = 32, blocks = 1, scales = 2, classes = 2 }
epochs = 24
batch_size = 8
optimizer = "adamw"
learning_rate = 0.005
[student]
from = "teacher"
width = 0.5
[budget]
accuracy_drop_points = 20
[measure]
seconds = 0.1
gate_seconds = 0.1
[[stage]]
use = "distill"
epochs = 16
batch_size = 8
optimizer = "adamw"
learning_rate = 0.005
losses = ["task", { use = "bce_kd", weight = 2.0 }, "boxes", "attention"]
[[stage]]
use = "quantize"
epochs = 1
batch_size = 8
learning_rate = 0.0005
losses = ["task", "bce_kd", "boxes"]
"""


@pytest.mark.slow
def test_a_detector_is_trained_distilled_quantised_and_bundled(compress_cli, tmp_path):
    squares.write(tmp_path / "pictures")
    label = tmp_path / "pictures/labels/train/000.txt"
    label.write_text(label.read_text() + "\n0 0.5 0.5 0 0")
    (tmp_path / "r.toml").write_text(RECIPE)
    done = compress_cli("run", "r.toml", "--json")
    assert done.returncode == 0, done.stderr
    assert "data: 1 boxes without extent inside their picture were dropped" in done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    teacher, student = rows["teacher/openvino/fp32"]["metric"], rows["student/openvino/int8"]["metric"]
    assert teacher["name"] == "mAP@.5" and teacher["value"] > 60
    assert {"mAP@.5:.95", "AP@.5 red", "AP@.5 green"} == set(teacher["others"])
    assert student["value"] > 40
    assert all(row["parity"]["cosine"] > 0.97 for row in rows.values())
    bundle = tmp_path / "runs/r-cpu/bundle"
    assert verify(bundle).max_abs < 1e-3
    told = json.loads((bundle / "preprocessing.json").read_text())
    assert told["size"] == [64, 64] and told["resize"] == "plain" and told["order"] == "rgb"
    assert np.load(bundle / "golden.npz")["input"].shape[1:] == (3, 64, 64)
