"""A whole run with the stage pack: it is measured, gated, shipped packed, and its account is the bundle's bytes."""

import hashlib
import json

import pytest

from deploy.bundle import manifest
from deploy.bundle.bundle import verify
from deploy.packing import packed_file

RECIPE = """
[task]
data = "tests.conftest:blob_splits"
[teacher]
model = "compress.models:resnet"
arguments = { blocks = 1, width = 1.0, in_channels = 1, classes = 4 }
epochs = 8
batch_size = 32
[budget]
accuracy_drop_points = 5.0
stored_mib = 0.1
[measure]
seconds = 0.1
gate_seconds = 0.1
[[stage]]
use = "pack"
bits = 3
allocation = "gradient"
epochs = 3
batch_size = 32
"""


@pytest.mark.slow
def test_a_packed_model_is_measured_and_shipped_packed(compress_cli, tmp_path):
    (tmp_path / "small.toml").write_text(RECIPE)
    done = compress_cli("run", "small.toml")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/small-cpu"
    report = json.loads((run / "report.json").read_text())
    best = next(row for row in report["rows"] if row["name"] == report["verdict"]["best"])
    assert best["name"].startswith("student/")
    attempt = next(row for row in report["rows"] if row["stage"] == "pack")
    assert attempt["decision"] == "accepted" and "smaller to store" in attempt["reason"]

    found = manifest.read(run / "bundle")[0]
    size = (run / "bundle/model.packed").stat().st_size
    account = best["packed"]
    assert best["stored_bytes"] == account["file_bytes"] == found.files["model.packed"].size_bytes == size
    assert sum(account[part] for part in packed_file.PARTS) == size
    assert "model.onnx" not in found.files and not (run / "bundle/model.onnx").exists()
    content = packed_file.read((run / "bundle/model.packed").read_bytes())
    assert hashlib.sha256(content).hexdigest() == found.decoded["model.onnx"].sha256
    steps = (tmp_path / "runs/.steps").glob("*/model.onnx")
    assert content in [path.read_bytes() for path in steps], "the file that was measured"
    assert packed_file.size_breakdown((run / "bundle/model.packed").read_bytes()).factor > 5
    assert verify(run / "bundle").max_abs == 0.0
    plain = [row for row in report["rows"] if row["kind"] == "baseline"]
    assert all(row["packed"] is None and row["stored_bytes"] > 3 * size for row in plain if row["precision"] == "fp32")
    for words in ("stored: ", "x smaller); file", "KiB in the bundle"):
        assert words in done.stdout
    assert "as fp32, stored in" in (run / "report.html").read_text()
    again = compress_cli("run", "small.toml")
    assert again.returncode == 0 and again.stdout == done.stdout
