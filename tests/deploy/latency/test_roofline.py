"""The estimate against figures that others measured, against arithmetic by hand, and (slow) against this machine.

Anchors: milliseconds of YOLO11 in TensorRT at 640 x 640, batch 1, as Ultralytics publishes them; GFLOP of the models.
"""

from dataclasses import replace

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from compress.models import resnet, resnet20
from deploy.export.to_onnx import capture, to_onnx
from deploy.latency.roofline import CLASSES, calibrations, estimate, fit, kernels
from deploy.onnx_graph import count
from profiles.device import load
from profiles.errors import UserError

GFLOP = {"n": 6.5, "s": 21.5, "m": 68.0, "l": 86.9, "x": 194.9}
NANO_MS = {  # Orin Nano Super, 8 SM at 1.02 GHz
    "fp32": {"s": 13.3, "m": 28.2, "l": 35.6, "x": 67.3},
    "fp16": {"s": 7.30, "m": 13.99, "l": 17.57, "x": 32.94},
    "int8": {"s": 5.25, "m": 9.58, "l": 12.37, "x": 20.72},
}
NX_MS = {  # Orin NX 16 GB, 8 SM at 0.918 GHz
    "fp32": {"n": 8.05, "s": 14.1, "m": 30.7, "l": 38.7, "x": 76.4},
    "fp16": {"n": 4.85, "s": 7.55, "m": 14.45, "l": 18.53, "x": 35.99},
    "int8": {"n": 4.37, "s": 5.63, "m": 10.19, "l": 13.36, "x": 22.32},
}
WITHIN = {"fp32": (-0.04, 0.19), "fp16": (-0.005, 0.095), "int8": (-0.085, 0.046)}
OPERATIONS = {"fp32": 1024, "fp16": 2048, "int8": 4096}
PEAK = {"fp32": "fp32_tflops", "fp16": "fp16_tflops", "int8": "int8_tops"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_fit_on_one_orin_predicts_the_other(precision):
    nano = NANO_MS[precision]
    peak = load("jetson-orin-nano-8gb").units["gpu"][PEAK[precision]].value
    fixed_ms, efficiency = fit([GFLOP[m] for m in nano], nano.values(), peak)
    nx_peak = 8 * OPERATIONS[precision] * 0.918 / 1000
    errors = [(fixed_ms + GFLOP[m] / (efficiency * nx_peak)) / ms - 1 for m, ms in NX_MS[precision].items()]
    assert WITHIN[precision][0] <= min(errors) and max(errors) <= WITHIN[precision][1], errors
    kept = calibrations()["tensorrt-orin"]
    assert kept.rates[precision].fixed_ms == pytest.approx(fixed_ms, rel=0.01)
    assert kept.rates[precision].efficiency["conv"] == pytest.approx(efficiency, rel=0.01)
    seen = [(fixed_ms + GFLOP[m] / (efficiency * peak)) / ms - 1 for m, ms in nano.items()]
    assert kept.error_percent[precision] >= 100 * max(abs(e) for e in [*errors, *seen])


def exported(module, *shape):
    torch.manual_seed(0)
    return to_onnx(capture(module.eval(), [torch.randn(2, *shape)]))


def test_a_fit_by_hand():
    assert fit([10, 20, 30], [3, 5, 7], 10.0) == pytest.approx((1.0, 0.5))


class Block(nn.Module):
    """Everything that fuses: batch norm, ReLU, a residual sum, x * sigmoid(x); and a depthwise layer and a concatenation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Linear(16, 5)

    def forward(self, x):
        y = torch.relu(self.norm(self.first(x)))
        y = torch.relu(self.second(y) + x)
        z = torch.nn.functional.silu(self.depthwise(y))
        joined = torch.cat([y, z], 1)
        return self.last(joined.mean((2, 3)))


@pytest.fixture(scope="module")
def block():
    return exported(Block(), 8, 16, 16)


@pytest.fixture
def work(block):
    return kernels(block)


def test_kernels_by_hand(work):
    assert [kernel.kind for kernel in work] == ["conv", "conv", "depthwise", "move", "pool", "gemm"]
    first, second, depthwise, joined, _, last = work
    image = 8 * 16 * 16
    assert first.flop == {"conv": 2 * image * 8 * 9}
    assert (first.elements, first.weights) == (2 * image, 8 * 8 * 9 + 8)
    assert second.flop == {"conv": 2 * image * 8}
    assert second.elements == 3 * image, "the residual is read beside the input"
    assert depthwise.flop == {"depthwise": 2 * image * 9, "transcendental": image}
    assert joined.elements == 4 * image
    assert last.flop == {"gemm": 2 * 16 * 5}


def test_flop_is_twice_the_macs(block, work):
    flop = sum(kernel.flop.get(kind, 0.0) for kernel in work for kind in ("conv", "depthwise", "gemm"))
    assert flop == pytest.approx(2 * count.count_macs(onnx.shape_inference.infer_shapes(block)))


def test_an_estimate_by_hand(work):
    profile = load("x86-avx2")
    found = estimate(work, profile, profile.runtime("onnxruntime"), "fp32")
    rates, peak = calibrations()["onnxruntime-avx2"].rates["fp32"], profile.units["cpu"]["fp32_tflops"].value * 1e9
    image = 8 * 16 * 16
    assert found.by_class_ms["conv"] == pytest.approx(2 * image * (8 * 9 + 8) / (rates.efficiency["conv"] * peak))
    assert found.by_class_ms["transcendental"] == pytest.approx(image / (rates.efficiency["transcendental"] * peak))
    assert found.estimated_ms == pytest.approx(sum(found.by_class_ms.values()))
    assert set(found.by_class_ms) == {*CLASSES, "overhead"}
    assert found.error_percent == calibrations()["onnxruntime-avx2"].error_percent["fp32"]


def test_what_memory_holds_up_is_charged_to_memory():
    relu = helper.make_node("Relu", ["x"], ["y"])
    shape = [1, 64, 512, 512]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
    model = helper.make_model(helper.make_graph([relu], "g", values[:1], values[1:]))
    profile = load("jetson-orin-nano-8gb")
    found = estimate(kernels(model), profile, profile.runtimes[0], "fp16")
    moved = 2 * 64 * 512 * 512 * 2 / (0.7 * 102e6)
    assert found.by_class_ms["elementwise"] == pytest.approx(moved)


def test_more_threads_and_larger_batches(work):
    pi = load("raspberry-pi-5")
    pi = replace(pi, units={"cpu": pi.units["cpu"]})  # without a bandwidth nothing is held up by memory
    four = estimate(work, pi, pi.runtimes[0], "int8").by_class_ms["conv"]
    one = estimate(work, replace(pi, threads=1), pi.runtimes[0], "int8").by_class_ms["conv"]
    assert one == pytest.approx(4 * four)
    assert estimate(work, replace(pi, batch=2), pi.runtimes[0], "int8").by_class_ms["conv"] == pytest.approx(2 * four)


def test_an_error_is_claimed_only_where_it_was_measured(work):
    for name, engine, words in (
        ("jetson-orin-nano-8gb", "tensorrt", "compared from 6.5 GFLOP upwards only"),
        ("jetson-agx-orin-64gb", "tensorrt", "never compared with a measurement on this device"),
        ("raspberry-pi-5", "onnxruntime", "never compared with a measurement on this device, only on x86-avx2"),
    ):
        profile = load(name)
        found = estimate(work, profile, profile.runtime(engine), "int8")
        assert found.error_percent is None and words in found.error


@pytest.mark.parametrize(
    ("name", "engine", "precision", "words"),
    [
        ("jetson-agx-thor-t5000", "tensorrt", "fp16", "no public figures to calibrate on"),
        ("pixel-8", "executorch", "int8", "it was not calibrated"),
        ("raspberry-pi-5", "onnxruntime", "fp16", "calibration onnxruntime-avx2 has fp32, int8"),
    ],
)
def test_what_cannot_be_estimated_says_so(name, engine, precision, words):
    profile = load(name)
    with pytest.raises(UserError, match=f"no estimate of {engine} {precision} on {name}: .*{words}"):
        estimate([], profile, profile.runtime(engine), precision)


def test_a_missing_peak_is_told():
    profile = replace(load("x86-avx2"), units={})
    with pytest.raises(UserError, match="states no fp32_tflops of its cpu"):
        estimate([], profile, profile.runtimes[0], "fp32")


def test_a_model_of_unknown_shapes_is_told():
    node = helper.make_node("NonZero", ["x"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["a", "b"])
    with pytest.raises(UserError, match="the shape of tensor 'y' is not known"):
        kernels(helper.make_model(helper.make_graph([node], "g", [x], [y])))


@pytest.mark.slow
def test_the_estimate_of_a_network_it_was_not_fitted_on_against_this_machine():
    """ResNet-20 and ResNet-56 on a processor like the one that was calibrated: within what the product states."""
    from profiles.device import contradictions, facts
    from tests.bench.estimate import least_ms

    here, wanted = facts(), load("x86-avx2")
    like = here.arch == "x86_64" and "EPYC" in here.processor and "avx512f" not in here.flags
    if not like or contradictions("x86-avx2", here, "here"):
        pytest.skip(f"{here.processor} is not the AMD EPYC with AVX2 that the profile x86-avx2 was calibrated on")
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as scratch:
        models = {"resnet20": exported(resnet20(), 3, 32, 32), "resnet56": exported(resnet(blocks=9), 3, 32, 32)}
        files = {name: Path(scratch) / f"{name}.onnx" for name in models}
        for name, model in models.items():
            onnx.save(model, str(files[name]))
        for runtime in wanted.runtimes:
            measured = least_ms(runtime.engine, "fp32", files)
            for name, model in models.items():
                found = estimate(kernels(model), wanted, runtime, "fp32")
                assert abs(found.estimated_ms / measured[name] - 1) <= found.error_percent / 100, (name, found, measured)
