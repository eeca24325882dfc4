"""TensorRT: what decides a build as data, and the engine's code against the vendor's bindings where they are in reach.

``EDGE_TENSORRT_BINDINGS`` names a folder that holds, for each version, a folder with the package ``tensorrt`` (NVIDIA's
``tensorrt-bindings`` wheel) and ``lib`` with empty libraries of the names it links to. Nothing here builds an engine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from deploy.engines import EngineError, build_record, engine
from deploy.engines.tensorrt import parse_generation
from profiles.device import load
from tests.conftest import ROOT

TENSORRT = engine("tensorrt")
VERSIONS = ("8.6.1", "10.3.0", "10.13.3.9", "11.4.0.106")
TYPED = {
    "8.5.2.2": False,
    "8.6.1": False,
    "10.3.0": False,
    "10.11.0": False,
    "10.12.0": True,
    "10.13.3.9": True,
    "11.4.0": True,
}


@pytest.mark.parametrize("version", sorted(TYPED))
def test_a_typed_build_has_no_flags_and_an_untyped_one_takes_the_float_file(version):
    plans = {precision: TENSORRT.plan(load("cpu"), precision, version) for precision in TENSORRT.precisions}
    flags = {precision: plan.options["flags"] for precision, plan in plans.items()}
    sources = {precision: plan.source for precision, plan in plans.items()}
    if TYPED[version]:
        assert set(flags.values()) == {""}, "flags conflict with strong typing, and 11 has none"
        assert sources == {"fp32": "onnx", "fp16": "onnx-fp16", "int8": "onnx-fp16"}
    else:
        assert flags == {"fp32": "", "fp16": "FP16", "int8": "FP16 INT8"}
        assert set(sources.values()) == {"onnx"}
    assert plans["fp32"].options["cleared"] == "TF32", "else fp32 is silently TF32"
    assert plans["int8"].version == version, "an engine runs on the very version that built it"


def test_networks_by_generation():
    networks = {v: TENSORRT.plan(load("cpu"), "int8", v).options["network"] for v in VERSIONS}
    assert networks == {
        "8.6.1": "EXPLICIT_BATCH",
        "10.3.0": "",
        "10.13.3.9": "STRONGLY_TYPED",
        "11.4.0.106": "STRONGLY_TYPED",
    }


@pytest.mark.parametrize("version", ["8.4.1", "7.1.3", "", "unknown"])
def test_a_version_that_is_too_old_is_named(version):
    with pytest.raises(EngineError, match=r"8\.5 \(JetPack 5\.1\) or newer"):
        parse_generation(version)


def test_where_it_comes_from_is_said():
    able = TENSORRT.affinity()
    if able.score >= 0:
        pytest.skip("TensorRT can run here")
    assert "python3-libnvinfer" in able.reason
    assert "--system-site-packages" in able.reason
    assert "PyPI's aarch64 wheel" in able.reason


MACHINE = {"l4t": "36.4.3", "compute_capability": "8.7", "multiprocessors": "8", "power_mode": "MAXN"}


@pytest.fixture
def record(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"a model")
    return lambda machine=MACHINE, version="10.3.0": build_record.record(
        model, TENSORRT.plan(load("cpu"), "int8", version), machine
    )


def test_the_same_model_plan_and_machine_fit(record, tmp_path):
    build_record.save(tmp_path, record())
    assert build_record.mismatches(build_record.load(tmp_path), record()) == ()


@pytest.mark.parametrize(
    ("fact", "value"),
    [("l4t", "36.4.4"), ("compute_capability", "11.0"), ("multiprocessors", "4"), ("power_mode", "15W")],
)
def test_any_fact_of_the_machine_that_changed_is_a_reason_to_rebuild(record, fact, value):
    reasons = build_record.mismatches(record(), record({**MACHINE, fact: value}))
    assert reasons == (f"machine.{fact} was {MACHINE[fact]}, is {value}",)


def test_another_model_or_version_is_a_reason_to_rebuild(record, tmp_path):
    before = record()
    assert build_record.mismatches(before, record(version="10.7.0")) == ("plan.version was 10.3.0, is 10.7.0",)
    (tmp_path / "model.onnx").write_bytes(b"another")
    (reason,) = build_record.mismatches(before, record())
    assert reason.startswith("model_sha256 was ")
    flags = build_record.mismatches(before, {**before, "plan": {**before["plan"], "options": {"flags": "INT8"}}})
    assert any(line.startswith("plan.options.flags was FP16 INT8, is INT8") for line in flags)


def test_a_record_that_cannot_be_read_is_none(tmp_path):
    assert build_record.load(tmp_path) is None
    (tmp_path / "engine.meta.json").write_text("{")
    assert build_record.load(tmp_path) is None


def bindings(version):
    root = os.environ.get("EDGE_TENSORRT_BINDINGS")
    if not root:
        pytest.skip("EDGE_TENSORRT_BINDINGS names no folder with TensorRT's Python bindings")
    folder = Path(root) / version
    if not (folder / "tensorrt").is_dir():
        pytest.skip(f"{root} holds no bindings of {version}")
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the builder of a version was told, from a process that has that version's bindings."""
    model = tmp_path_factory.mktemp("model") / "model.onnx"
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3, 16, 16]) for name in ("input", "output")
    ]
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "relu", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), str(model))

    def ask(version):
        folder, out = bindings(version), tmp_path_factory.mktemp(f"trt-{version}")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
            "LD_LIBRARY_PATH": str(folder / "lib"),
            "EDGE_CACHE": str(out / "cache"),
        }
        command = [sys.executable, "-m", "tests.deploy.engines.tensorrt_conformance", str(out), str(model)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        kept = list((out / "cache").glob(f"tensorrt-{version.replace('.', '_')}-8_7-8-MAXN-*.timing"))
        assert len(kept) == 1, "tactic timings are kept for the next build"
        return json.loads(done.stdout)

    return ask


NETWORK_FLAGS = {"8.6.1": 1, "10.3.0": 0, "10.13.3.9": 2, "11.4.0.106": 1}
"""The number of STRONGLY_TYPED is 1 in 10 and 0 in 11; EXPLICIT_BATCH is 0 in 8."""


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_flag_and_signature_is_the_vendors(told, version):
    found = told(version)
    typed = TYPED.get(version, True)
    assert found["fp32"]["set"] == []
    assert found["fp32"]["cleared"] == ["TF32"]
    assert found["fp16"]["set"] == ([] if typed else ["FP16"])
    assert found["int8"]["set"] == ([] if typed else ["FP16", "INT8"])
    assert found["int8"]["cleared"] == []
    assert {found[precision]["network"] for precision in TENSORRT.precisions} == {NETWORK_FLAGS[version]}
    refused = found["refused by the parser"]
    assert refused == f"EngineError: TensorRT {version} refused the model: no such operator"
    assert found["refused by the builder"].endswith("it did not say why")
    assert ("FP16" in found["with the words of 10.3"]) == version.startswith("11"), "11.4 has no BuilderFlag.FP16"
