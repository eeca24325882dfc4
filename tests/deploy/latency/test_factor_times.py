import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compress.methods.low_rank.factorize import build_factors, count_macs
from deploy.latency import factor_times
from deploy.latency.factor_times import Sizes, layer_model, layers
from deploy.latency.stopwatch import Time
from deploy.latency.template import Template
from deploy.onnx_graph import count

CONV = Sizes(input_shape=(1, 16, 9, 9), weight=(24, 16, 3, 3), strides=(2, 2), pads=(1, 1))
LINEAR = Sizes(input_shape=(1, 5, 32), weight=(16, 32))


@pytest.mark.parametrize("option", [None, ("spatial", 8), ("tucker2", 8)])
def test_a_written_convolution_is_what_the_stage_makes(option):
    layer = nn.Conv2d(16, 24, 3, 2, 1, bias=False)
    made = layer if option is None else build_factors(layer, *option)
    with torch.no_grad():
        expected = made(torch.zeros(1, 16, 9, 9)).shape
    model = layer_model(CONV, option)
    assert tuple(d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim) == tuple(expected)
    shapes = [tuple(p.shape) for p in made.parameters() if p.dim() > 1]
    assert [tuple(t.dims) for t in model.graph.initializer] == shapes


def test_what_is_timed_hands_over_means_not_a_map():
    (made,) = layer_model(CONV, ("spatial", 8), averaged=True).graph.output
    assert [d.dim_value for d in made.type.tensor_type.shape.dim] == [1, 24, 1, 1]


def test_a_written_matrix_product_counts_what_it_should():
    assert count.count_macs(layer_model(LINEAR, None)) == 5 * 32 * 16
    assert count.count_macs(layer_model(LINEAR, ("svd", 4))) == 5 * count_macs(nn.Linear(32, 16), "svd", 4)
    session = onnxruntime.InferenceSession(
        layer_model(LINEAR, ("svd", 4)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert session.run(None, {"positive/input": np.ones((1, 5, 32), np.float32)})[0].shape == (1, 5, 16)


def test_layers_are_read_off_a_model_by_path():
    from tests.deploy.latency.test_measure_table import residual

    model = onnx.shape_inference.infer_shapes(residual(1))
    found = layers(Template(model, {})._model, 1)
    assert found["block.0.two"] == Sizes(input_shape=(1, 16, 8, 8), weight=(16, 16, 3, 3), pads=(1, 1))
    assert found["linear"] == Sizes(input_shape=(1, 16), weight=(10, 16))


class Fixed:
    """A stopwatch: a factor's convolution takes 0.3 ms, every other model 1 ms and a call nothing."""

    def times(self, models, passes=1):
        return {name: Time(least_ms=self._ms(name), p50_ms=1.0) for name in models}

    def _ms(self, name):
        if name.startswith("stack"):
            return 0.1 * int(name.split("-")[2])
        return 0.3 if "spatial" in name else 1.0


def test_times_by_option():
    found = factor_times.times({"a": CONV}, {"a": [("spatial", 8), ("tucker2", 8)]}, Fixed())
    assert found["a"].whole_ms == pytest.approx(1.0)
    assert found["a"].factors_ms == pytest.approx({("spatial", 8): 0.3, ("tucker2", 8): 1.0})
