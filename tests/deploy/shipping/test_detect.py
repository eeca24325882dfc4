"""``python -m deploy detect``: a bundle's engine and decode on inputs, as lines of JSON."""

import json
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.bundle import bundle as bundles
from deploy.bundle import golden
from deploy.engines import engine
from deploy.processing.detection.base import Head
from deploy.processing.detection.decode import Decoding
from profiles.device import load as load_profile
from tests.conftest import ROOT

SHAPE = numpy_helper.from_array(np.array([-1, 2, 6]), "shape")
RESHAPE = [helper.make_node("Reshape", ["input", "shape"], ["output"])]


def identity_detector(folder, nodes=RESHAPE, kind=TensorProto.FLOAT):
    """A bundle whose model gives its input, (1, 1, 2, 6), as two detections."""
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("input", kind, [1, 1, 2, 6])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 2, 6])],
        [SHAPE],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "rows.onnx")
    profile = load_profile("cpu")
    plan = engine("onnxruntime").plan(profile, "fp32", engine("onnxruntime").affinity().version)
    given = np.zeros((2, 1, 2, 6), np.float32)
    decoding = Decoding(
        head="end_to_end", facts=Head(classes=2), classes=("cat", "dog"), thresholds=(0.5, 0.3), most_overlap=0.6
    )
    bundles.write(
        folder / "bundle",
        title="rows",
        model=folder / "rows.onnx",
        plan=plan,
        profile=profile,
        golden=golden.pack(given.astype(helper.tensor_dtype_to_np_dtype(kind)), [given.reshape(-1, 2, 6)]),
        report=b"{}",
        decoding=decoding,
    )
    return folder / "bundle"


def detect(*arguments):
    command = [sys.executable, "-m", "deploy", "detect", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_detections_of_a_bundle_and_what_is_refused(tmp_path):
    folder = identity_detector(tmp_path)
    assert {"decode.json", "decode.md"} <= {path.name for path in folder.iterdir()}
    assert "`decode.md`" in (folder / "README.md").read_text()
    samples = np.array([[[[1, 2, 11, 22, 0.4, 0], [5, 6, 7, 8, 0.4, 1]]], [[[0, 0, 9, 9, np.nan, 0], [0, 0, 9, 9, 0.9, 0]]]])
    np.save(tmp_path / "inputs.npy", samples)
    done = detect(folder, tmp_path / "inputs.npy")
    assert done.returncode == 0, done.stderr
    first, second = [json.loads(line)["detections"] for line in done.stdout.splitlines()]
    assert first == [{"class": "dog", "score": 0.4, "box": [5, 6, 7, 8]}], "a cat is shown from 0.5 on"
    assert second == [{"class": "cat", "score": 0.9, "box": [0, 0, 9, 9]}]
    (tmp_path / "bad.npy").write_bytes(b"none")
    assert "no .npy file of inputs" in detect(folder, tmp_path / "bad.npy").stderr
    (folder / "decode.json").write_text("{}")
    altered = detect(folder, tmp_path / "inputs.npy")
    assert (altered.returncode, altered.stdout) == (2, "") and "decode.json was altered" in altered.stderr


def test_floats_are_not_turned_into_bytes(tmp_path):
    """A model that normalises itself would read normalised floats as zeros, and find nothing."""
    nodes = [
        helper.make_node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "shape"], ["output"]),
    ]
    folder = identity_detector(tmp_path, nodes, TensorProto.UINT8)
    rows = np.array([[1, 2, 11, 22, 1, 0], [5, 6, 250, 8, 0, 1]], np.uint8).reshape(1, 1, 2, 6)
    np.save(tmp_path / "bytes.npy", rows)
    np.save(tmp_path / "floats.npy", rows / np.float32(255))
    done = detect(folder, tmp_path / "bytes.npy")
    assert json.loads(done.stdout)["detections"] == [{"class": "cat", "score": 1.0, "box": [1, 2, 11, 22]}], done.stderr
    refused = detect(folder, tmp_path / "floats.npy")
    assert (refused.returncode, refused.stdout) == (2, "") and "give bytes (uint8)" in refused.stderr
