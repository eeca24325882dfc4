"""How many samples are watched at once: what their tensors take, not what the caller's batches hold."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploy.onnx_graph import run
from deploy.onnx_graph.run import split_batches


def model(batch):
    """Input of 3 numbers a sample, a tensor of 100 floats a sample."""
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3])
    made = helper.make_tensor_value_info("wide", TensorProto.FLOAT, [batch, 100])
    node = helper.make_node("MatMul", ["input", "weight"], ["wide"])
    weight = onnx.numpy_helper.from_array(np.zeros((3, 100), np.float32), "weight")
    return helper.make_model(helper.make_graph([node], "wide", [given], [made], [weight]))


@pytest.mark.parametrize(
    ("batch", "bytes_at_once", "sizes"), [("n", 1200, [3, 3, 1, 2]), ("n", 1, [1] * 9), (2, 1700, [4, 3, 2])]
)
def test_samples_keep_their_order_and_stay_within_the_bytes(batch, bytes_at_once, sizes, monkeypatch):
    monkeypatch.setattr(run, "BATCH_BYTES", bytes_at_once)
    samples = np.arange(27, dtype=np.float32).reshape(9, 3)
    found = list(split_batches(model(batch), ["wide"], [samples[:7], samples[7:]]))
    assert [len(part) for part in found] == sizes
    np.testing.assert_array_equal(np.concatenate(found), samples)


def test_narrow_tensors_leave_the_caller_s_batches_whole():
    found = list(split_batches(model("n"), ["wide"], [np.zeros((64, 3), np.float32)]))
    assert [len(part) for part in found] == [64]
