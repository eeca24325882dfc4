"""An ONNX model as a function of arrays, here: a float one, or integers as Q/DQ pairs tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from deploy.worker import padded


def onnx_session(model: onnx.ModelProto) -> Callable[[Any], list[Any]]:
    """The model in ONNX Runtime here, whatever batch it is fixed to."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    given = session.get_inputs()[0]

    def predict(inputs: Any) -> list[Any]:
        size = given.shape[0] if isinstance(given.shape[0], int) else len(inputs)
        starts = range(0, len(inputs), size)
        parts = [session.run(None, {given.name: padded(inputs[i : i + size], size)}) for i in starts]
        return [np.concatenate(outputs)[: len(inputs)] for outputs in zip(*parts, strict=True)]

    return predict
