"""Where a detector's decode runs: cut off a file's graph and read by numpy, or written into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch

from deploy.engines.inputs import Inputs
from deploy.export.decode import MOST_BRANCHES, attach, cut_at, last_layers
from deploy.onnx_graph.run import onnx_session
from deploy.processing.detection.base import AskedHead
from deploy.processing.detection.choose import AUTO, choose, reader
from profiles.errors import UserError

BOXES_PX, SCORES = 0.05, 1e-3
"""Largest difference of what both ways read, on the same samples: rounding. Other anchors or strides are off by pixels."""


def cut(model: onnx.ModelProto, inputs: Inputs, asked: AskedHead) -> tuple[onnx.ModelProto, str]:
    """Cut the decode off a model where what the last layers give is read to the same boxes and scores; with what was done.

    Where it is not (anchors of its own, a decoder that refines), the decode stays in the graph, in float.

    Args:
        inputs: samples to compare on.
    """
    whole = onnx_session(model)(inputs)
    read_as = choose(asked.name, [each.shape for each in whole], asked.facts)
    tensors = last_layers(model)
    if set(tensors) == {value.name for value in model.graph.output} or not 0 < len(tensors) <= MOST_BRANCHES:
        return model, ""
    kept = f"its decode stays in the graph, in float: the last layers' {len(tensors)} results are read as no other head"
    try:
        short = cut_at(model, tensors)
        parts = onnx_session(short)(inputs)
        cut_as = choose(AUTO, [each.shape for each in parts], asked.facts)
    except (UserError, onnx.checker.ValidationError, ValueError):
        return model, kept
    one, other = reader(read_as).read(whole, asked.facts), reader(cut_as).read(parts, asked.facts)
    if not _same(one.boxes, other.boxes, BOXES_PX) or not _same(one.scores, other.scores, SCORES):
        return model, f"its decode stays in the graph, in float: read as head {cut_as!r}, the last layers say other boxes"
    gone = len(model.graph.node) - len(short.graph.node)
    return short, f"cut before its decode, at {len(tensors)} branches: {gone} nodes less; numpy makes the same boxes of them"


def write_in(model: onnx.ModelProto, inputs: Inputs, asked: AskedHead) -> onnx.ModelProto:
    """Write the decode behind a model: corners and scores are two outputs of it."""
    outputs = onnx_session(model)(inputs)
    read_as = choose(asked.name, [each.shape for each in outputs], asked.facts)
    return attach(model, read_as, asked.facts, [torch.from_numpy(each) for each in outputs])


def _same(one: Any, other: Any, most: float) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0, atol=most))
