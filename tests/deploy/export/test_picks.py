"""Queries, keys and values taken before the axes are moved: the same numbers, and no five dimensions moved."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from deploy.export.picks import pick_before_moving
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import attribute

TOKENS = torch.arange(2 * 3 * 12, dtype=torch.float32).reshape(2, 3, 12)


class Moved(nn.Module):
    """(samples, 3 tokens, 12) as three of two heads of two, each (samples, heads, tokens, 2); their difference by turns."""

    def __init__(self, order, take):
        super().__init__()
        self.order, self.take = order, take

    def forward(self, x):
        parts = x.reshape(x.shape[0], 3, 3, 2, 2).permute(self.order)
        q, k, v = parts.unbind(0) if self.take == "unbind" else (parts[0], parts[1], parts[2])
        return q - 2 * k + 3 * v


def moved(order, take):
    return to_onnx(capture(Moved(order, take), [TOKENS]))


def ran(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": TOKENS.numpy()})[0]


@pytest.mark.parametrize("take", ["unbind", "index"])
@pytest.mark.parametrize("order", [(2, 0, 3, 1, 4), (2, 0, 1, 4, 3)])
def test_the_same_numbers_and_four_dimensions_are_moved(order, take):
    model = moved(order, take)
    before = ran(model)
    pick_before_moving(model)
    onnx.checker.check_model(model)
    orders = [list(attribute(node, "perm")) for node in model.graph.node if node.op_type == "Transpose"]
    assert orders == [[each - (each > 2) for each in order[1:]]] * 3
    np.testing.assert_array_equal(ran(model), before)
    (x,) = np.split(TOKENS.numpy().reshape(2, 3, 3, 2, 2), 1)
    by_hand = (x[:, :, 0] - 2 * x[:, :, 1] + 3 * x[:, :, 2]).transpose([each - (each > 2) for each in order[1:]])
    np.testing.assert_array_equal(before, by_hand)


def test_what_stays_in_front_or_is_read_whole_is_left():
    class Whole(nn.Module):
        def forward(self, x):
            parts = x.reshape(x.shape[0], 3, 3, 2, 2).permute(2, 0, 3, 1, 4)
            return parts[0] + parts.sum(0)

    model = to_onnx(capture(Whole(), [TOKENS]))
    same = onnx.ModelProto()
    same.CopyFrom(model)
    pick_before_moving(model)
    assert model == same
