"""Engines that are built at the first start and kept while they fit: a real bundle, ONNX Runtime."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from deploy.bundle import bundle
from deploy.engines import EngineError, build_record, engine
from deploy.engines.base import load_plan
from deploy.engines.onnxruntime import ONNXRuntime
from deploy.shipping.first_start import fits, prepare, ready
from profiles.device import load
from profiles.errors import UserError
from tests.conftest import ROOT


def pack(folder, model, **plan):
    """A bundle of an ONNX file for ONNX Runtime; ``plan`` alters its plan."""
    inputs = np.arange(6, dtype=np.float32).reshape(2, 3)
    proven = engine("onnxruntime").plan(load("cpu"), "fp32", engine("onnxruntime").affinity().version)
    bundle.write(
        folder / "bundle",
        title="double",
        model=model,
        plan=replace(proven, **plan),
        profile=load("cpu"),
        golden={"input": inputs, "output": 2 * inputs},
        report=b"{}",
    )
    return folder / "bundle"


@pytest.fixture
def double(tmp_path):
    """A model that doubles its input."""
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Add", ["input", "input"], ["output"])], "double", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "double.onnx"))
    return tmp_path / "double.onnx"


@pytest.fixture
def box(double, tmp_path):
    return pack(tmp_path, double)


def test_the_first_start_builds_and_the_second_does_not(box, tmp_path):
    folder, reasons = ready(box, tmp_path / "cache")
    assert reasons == ("there is no engine yet",)
    written = (folder / "model.onnx").stat().st_mtime_ns
    assert ready(box, tmp_path / "cache") == (folder, ())
    assert (folder / "model.onnx").stat().st_mtime_ns == written
    assert fits([str(box), str(tmp_path / "cache")]) == 0


def test_a_machine_that_changed_builds_again(box, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ONNXRuntime, "machine", lambda self: {"power_mode": "15W"})
    ready(box, tmp_path / "cache")
    monkeypatch.setattr(ONNXRuntime, "machine", lambda self: {"power_mode": "MAXN"})
    assert fits([str(box), str(tmp_path / "cache")]) == 2
    assert "machine.power_mode was 15W, is MAXN" in capsys.readouterr().err
    assert ready(box, tmp_path / "cache")[1] == ("machine.power_mode was 15W, is MAXN",)
    assert fits([str(box), str(tmp_path / "cache")]) == 0


def test_a_build_that_fails_leaves_the_old_engine(box, tmp_path):
    folder, _ = ready(box, tmp_path / "cache")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    pack(tmp_path, tmp_path / "broken.onnx")
    with pytest.raises(EngineError, match="refused the model"):
        ready(box, tmp_path / "cache")
    assert prepare([str(box), str(tmp_path / "cache")]) == 1
    runtime = engine("onnxruntime")
    plan = runtime.plan(load("cpu"), "fp32", "any")
    assert runtime.open(folder, plan).infer({"input": np.ones((1, 3), np.float32)})["output"].tolist() == [[2.0] * 3]
    assert build_record.load(folder)["model_sha256"] != build_record.record(box / "model.onnx", plan, {})["model_sha256"]


def test_a_command_takes_over_and_finds_the_engine(box, tmp_path):
    code = "import os, sys; sys.stdout.write(os.environ['EDGE_ENGINE'])"
    command = [
        sys.executable,
        "-m",
        "deploy",
        "prepare",
        str(box),
        str(tmp_path / "cache"),
        "--",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == str(tmp_path / "cache/onnxruntime-fp32")


def test_what_is_no_bundle_or_was_altered_is_said(box, tmp_path, capsys):
    assert prepare([str(tmp_path), str(tmp_path / "cache")]) == 2
    assert "manifest.json" in capsys.readouterr().err
    (box / "model.onnx").write_bytes((box / "model.onnx").read_bytes() + b"0")
    assert prepare([str(box), str(tmp_path / "cache")]) == 2
    assert "model.onnx" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_an_engine_that_cannot_run_here_is_refused_with_the_reason(double, tmp_path):
    if engine("tensorrt").affinity().score >= 0:
        pytest.skip("TensorRT can run here")
    with pytest.raises(UserError, match="cannot run here: tensorrt is not installed"):
        ready(pack(tmp_path, double, engine="tensorrt"), tmp_path / "cache")


def test_another_version_of_the_runtime_plans_anew(double, tmp_path):
    folder, _ = ready(pack(tmp_path, double, version="1.0", options={"of": "that version"}), tmp_path / "cache")
    here = load_plan(folder)
    assert (here.version, here.options) == (engine("onnxruntime").affinity().version, {})


def test_a_bundle_for_another_kind_of_file_is_refused(double, tmp_path):
    with pytest.raises(UserError, match=r"is built from onnx for fp32, and the bundle holds onnx-fp16 for 11\.4"):
        ready(pack(tmp_path, double, source="onnx-fp16", version="11.4"), tmp_path / "cache")
