"""Execution providers of ONNX Runtime: what one leaves to the CPU is told, and one that runs nothing is an error.

The Azure provider is in the wheel of every desktop, is there when it is asked for, and takes no node: a silent fallback.
A real accelerator is not here; the OpenVINO provider (pip install onnxruntime-openvino in an environment of its own) is
driven where it is installed.
"""

import json
import platform
from dataclasses import replace
from typing import final

import numpy as np
import onnx
import pytest

from compress.pipeline.verdict import ran_elsewhere
from deploy.engines import EngineError, engine, placement
from deploy.engines.ort_providers import FOLDER, THREADS, ProviderEngine
from deploy.measure.parity import parity
from profiles.device import load, resolve
from profiles.errors import UserError
from profiles.facts import facts
from profiles.remedies import PROVIDERS
from profiles.runtimes import runtime_on
from tests.deploy.engines.small import IMAGES, expected, quantised, small

NAMES = tuple(PROVIDERS)


@final
class Azure(ProviderEngine):
    """A provider that is there and runs nothing."""

    name, provider = "onnxruntime-azure", "AzureExecutionProvider"
    precisions = ("fp32",)


def node(name, provider, operator, kind="_kernel_time"):
    return {"cat": "Node", "name": name + kind, "args": {"provider": provider, "op_name": operator}}


def test_nodes_are_counted_once_each_by_who_ran_them():
    events = [
        {"cat": "Session", "name": "model_loading_uri"},
        node("a", "CoreML", "CoreML_1"),
        *[node(name, "CPU", "QLinearConv") for name in ("b", "c", "c")],  # the second inference of c
        node("d", "CPU", "Softmax"),
        node("d", "CPU", "Softmax", "_fence_before"),
    ]
    ran = placement.placement_of(events)
    assert ran == {"CoreML": {"CoreML_1": 1}, "CPU": {"QLinearConv": 2, "Softmax": 1}}
    assert placement.left_to(ran, "CPU") == (
        "CoreML ran 1 node or compiled part; CPU ran 3 nodes: QLinearConv x 2, Softmax"
    ), "that CoreML ran none of the int8 nodes is seen"
    assert placement.left_to({"CoreML": {"CoreML_1": 3}}, "CPU") == ""


def test_a_provider_that_leaves_everything_to_the_cpu_is_refused(tmp_path):
    if why := Azure().obstacle():
        pytest.skip(why)
    onnx.save(small(), str(tmp_path / "model.onnx"))
    (tmp_path / "engine").mkdir()
    plan = Azure().plan(load("cpu"), "fp32", "1")
    with pytest.raises(EngineError) as told:
        Azure().build(tmp_path / "model.onnx", plan, tmp_path / "engine")
    assert "AzureExecutionProvider ran nothing of the model: CPUExecutionProvider ran " in str(told.value)
    assert "Conv x 3" in str(told.value)


def test_one_that_this_build_has_not_cannot_run_and_says_how_to_get_it():
    """XNNPACK is in no wheel for desktops; CoreML, DirectML and NNAPI are of other systems."""
    import onnxruntime

    here = onnxruntime.get_available_providers()
    for name in NAMES:
        able = engine(name).affinity()
        if engine(name).provider not in here:
            assert able.score < 0 and engine(name).provider in able.reason, name
    if platform.system() == "Linux" and "XnnpackExecutionProvider" not in here:
        assert (
            "this build of ONNX Runtime has no XnnpackExecutionProvider (it has " in engine("onnxruntime-xnnpack").obstacle()
        )
        assert "is for Darwin and iOS; this is Linux" in engine("onnxruntime-coreml").obstacle()


def test_a_session_that_took_the_cpu_in_the_providers_place_is_refused(tmp_path, monkeypatch):
    """As where CUDA's library does not load: ONNX Runtime warns, and takes the CPU."""
    onnx.save(small(), str(tmp_path / "model.onnx"))
    monkeypatch.setattr(Azure, "provider", "CUDAExecutionProvider")
    with pytest.raises(EngineError, match="CUDAExecutionProvider did not start, and ONNX Runtime 1 took the CPU"):
        Azure().open(tmp_path, Azure().plan(load("cpu"), "fp32", "1"))


def test_options_of_a_profile_are_the_providers_own(tmp_path):
    table = {"runtime": [{"engine": "onnxruntime-qnn", "precisions": ["int8"], "quantization": ["qnn"]}]}
    table["runtime"][0] |= {"unit": "npu", "options": {"htp_performance_mode": "sustained_high_performance"}}
    profile = resolve("phone", table, facts())
    plan = engine("onnxruntime-qnn").plan(profile, "int8", "1")
    assert plan.options["provider.htp_performance_mode"] == "sustained_high_performance", "the profile's counts"
    assert engine("onnxruntime-qnn").plan(load("cpu"), "int8", "1").options["provider.htp_performance_mode"] == "burst"
    assert type(profile).from_json(profile.as_json()) == profile
    table["runtime"][0]["options"] = {"htp_performance_mode": 3}
    with pytest.raises(UserError, match=r"options is a table of texts, \{ name = \"value\" \}; given: "):
        resolve("phone", table, facts())


@pytest.mark.parametrize("name", NAMES)
def test_each_precision_has_a_plan_and_int8_a_recipe(name):
    made = engine(name)
    assert made.name == name
    runtime = runtime_on(name, made.precisions, replace(facts(), flags=frozenset({"x86_64", "asimddp"})))
    assert runtime.precisions == made.precisions
    for precision in made.precisions:
        plan = made.plan(load("cpu"), precision, "1")
        assert json.loads(json.dumps(plan.as_json())) == plan.as_json()
        words = [value for key, value in plan.options.items() if key.startswith("provider.")]
        assert all(word in (FOLDER, THREADS) or "{" not in word for word in words)


def test_rows_whose_parts_ran_elsewhere_are_one_warning():
    remarks = [("teacher int8", "CPU ran 2 nodes: A, B"), ("student fp32", ""), ("student int8", "CPU ran 2 nodes: A, B")]
    assert ran_elsewhere(remarks) == ("teacher int8, student int8: CPU ran 2 nodes: A, B",)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_real_provider_runs_the_model_and_says_what_it_left(precision, tmp_path):
    made = engine("onnxruntime-openvino")
    if (able := made.affinity()).score < 0:
        pytest.skip(able.reason)
    model = small() if precision == "fp32" else quantised("x86-no-vnni")
    onnx.save(model, str(tmp_path / "model.onnx"))
    (tmp_path / "engine").mkdir()
    plan = made.plan(replace(load("cpu"), batch=16), precision, able.version)
    made.build(tmp_path / "model.onnx", plan, tmp_path / "engine")
    assert "OpenVINOExecutionProvider" in placement.load(tmp_path / "engine")
    outputs = made.open(tmp_path / "engine", plan).infer({"input": IMAGES})["output"]
    assert parity(expected(small()), np.asarray(outputs)).cosine > 0.99
