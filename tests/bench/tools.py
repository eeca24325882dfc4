"""Other people's post-training int8, as their users run it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deploy.engines.inputs import as_feed, count, rows
from profiles.device import facts

VNNI = {"avx512_vnni", "avx_vnni"}


def nncf_int8(model: Any, samples: Any, *, transformer: bool = False) -> Any:
    """NNCF's post-training int8 with its defaults, for an ONNX model and samples, of several inputs by name."""
    import nncf

    kind = nncf.ModelType.TRANSFORMER if transformer else None
    feeds = _feeds(model, samples)
    return nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds), model_type=kind)


def _feeds(model: Any, samples: Any) -> list[dict[str, Any]]:
    """Return what a model reads of each sample, one at a time."""
    names = [given.name for given in model.graph.input]
    return [as_feed(rows(samples, slice(i, i + 1)), names) for i in range(count(samples))]


def ort_int8(model: Path, out: Path, samples: Any, scratch: Path) -> None:
    """onnxruntime's own post-training tool, with the data types that its documents advise for this x86."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = _feeds(onnx.load(str(model), load_external_data=False), samples)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            self._rows = iter(feeds)

        def get_next(self) -> Any:
            return next(self._rows, None)

    prepared = scratch / "prepared.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=not facts().flags & VNNI,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
