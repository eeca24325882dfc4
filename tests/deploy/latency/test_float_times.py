"""What a layer in float costs: the whole model is timed, with that layer's pairs left out."""

import pytest
import torch

from deploy.export.to_onnx import capture, to_onnx
from deploy.latency.float_times import float_layer_costs_ms
from deploy.latency.stopwatch import Time
from profiles.quantization import QUANTIZATION
from tests.conftest import small_model

RECIPE = QUANTIZATION["x86-vnni"]


def exported(seed=0):
    return to_onnx(capture(small_model(seed), [torch.zeros(2, 1, 8, 8)]))


class ByWeights:
    """A stopwatch: a model takes 1 ms for each weight that is not in int8, and 10 beside."""

    def __init__(self):
        self.names = []

    def times(self, models):
        self.names += models
        found = {}
        for name, make in models.items():
            model = make()
            floats = sum(len(tensor.dims) > 1 and tensor.data_type == 1 for tensor in model.graph.initializer)
            found[name] = Time(least_ms=10.0 + floats, p50_ms=0.0)
        return found


def test_each_layer_is_left_out_of_the_whole_model_alone():
    model, clock = exported(), ByWeights()
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    found = float_layer_costs_ms(model, RECIPE, convolutions[:2], clock)
    assert found.whole_ms == 10
    assert found.longer_ms == pytest.approx(dict.fromkeys(convolutions[:2], 1.0))


def test_a_time_is_kept_under_what_decides_it():
    one, other, clock = exported(), exported(1), ByWeights()
    layer = next(node.name for node in one.graph.node if node.op_type == "Conv")
    for model in (one, other, one):
        float_layer_costs_ms(model, RECIPE, [layer], clock)
    assert len(clock.names) == 6
    assert len(set(clock.names)) == 4, "of two models, all in int8 and with a layer in float"
