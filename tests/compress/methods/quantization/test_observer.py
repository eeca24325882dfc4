"""The recipes of one model share what was watched, and get what each alone would have."""

import numpy as np
import onnx
import pytest
import torch

from compress.data.base import ArraySamples
from compress.methods.quantization import observer as watching
from compress.methods.quantization.observer import Observer
from compress.methods.quantization.post_training import calibrate
from deploy.export.to_onnx import capture, to_onnx
from tests.conftest import blob_splits, small_model

OPENVINO, ONNXRUNTIME = "x86-vnni", "ort-x86-vnni"


@pytest.fixture(scope="module")
def given():
    samples = blob_splits().calibration
    return to_onnx(capture(small_model(), [torch.from_numpy(samples.load(np.arange(2)).inputs)])), samples


@pytest.fixture
def runs(monkeypatch):
    """The tensors of every run over the samples."""
    told = []
    real = watching.observe

    def counting(model, tensors, batches):
        told.append(list(tensors))
        return real(model, tensors, batches)

    monkeypatch.setattr(watching, "observe", counting)
    return told


def test_a_device_s_recipes_run_the_model_once_and_have_the_scales_that_each_alone_has(given, runs):
    model, samples = given
    alone = {recipe: calibrate(model, samples, recipe, "norm") for recipe in (OPENVINO, ONNXRUNTIME)}
    assert len(runs) == 2
    observer = Observer([OPENVINO, ONNXRUNTIME])
    for recipe, expected in alone.items():
        assert calibrate(model, samples, recipe, "norm", observer=observer) == expected
    assert len(runs) == 3


def test_what_was_not_watched_is_watched_then_and_nothing_twice(given, runs):
    model, samples = given
    observer = Observer()
    for recipe in (OPENVINO, ONNXRUNTIME, OPENVINO):
        calibrate(model, samples, recipe, "norm", observer=observer)
    seen = [name for run in runs for name in run]
    assert len(seen) == len(set(seen))


def test_other_weights_and_other_samples_are_watched_anew(given, runs):
    model, samples = given
    observer = Observer()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weight = changed.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    fewer = ArraySamples(samples.images[:8], samples.labels[:8])
    for each, on in ((model, samples), (changed, samples), (model, fewer)):
        calibrate(each, on, OPENVINO, "norm", observer=observer)
    assert len(runs) == 3


def test_only_the_last_models_are_kept(given, runs):
    model, samples = given
    observer = Observer()

    def calibrated_on(count):
        calibrate(model, ArraySamples(samples.images[:count], samples.labels[:count]), OPENVINO, "norm", observer=observer)
        return len(runs)

    most = watching.MOST_MODELS
    assert [calibrated_on(count) for count in range(1, most + 2)] == list(range(1, most + 2))
    assert calibrated_on(2) == most + 1
    assert calibrated_on(1) == most + 2, "the longest unused made room"
