"""A run for a phone's runtimes on this machine: the .pte and .ort files as rows beside the others, and in the bundle."""

import json

import numpy as np
import pytest

from deploy.bundle.bundle import verify
from profiles import device
from tests.conftest import ROOT

PROFILE = """
title = "a phone's runtimes, here"
threads = 1
[[runtime]]
engine = "executorch"
precisions = ["int8", "fp32"]
quantization = ["xnnpack"]
[[runtime]]
engine = "ort-mobile"
precisions = ["fp32", "int8"]
quantization = ["arm-dotprod"]
"""


@pytest.mark.slow
def test_a_run_for_a_phone(small_recipe, tmp_path, quiet, monkeypatch):
    pytest.importorskip("executorch", reason="executorch is not installed; pip install -e '.[executorch]'")
    from compress.pipeline import run
    from compress.recipe.parse import load
    from deploy.devices import device as there

    whole = small_recipe.read_text()
    distill, quantize = whole.index("[[stage]]"), whole.rindex("[[stage]]")
    small_recipe.write_text(whole[:distill] + whole[quantize:])
    (tmp_path / "phone.toml").write_text(PROFILE)
    monkeypatch.setattr(device, "FOLDER", tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    report = run.run(load(small_recipe), device.load("phone"), there("local"), tmp_path / "out", tmp_path / "steps", quiet)
    forms = {(row.engine, row.precision): row for row in report.rows if row.kind == "baseline"}
    assert set(forms) == {(e, p) for e in ("executorch", "ort-mobile") for p in ("fp32", "int8")}
    for (_, precision), row in forms.items():
        assert row.parity.cosine > (0.99999 if precision == "fp32" else 0.99), row.name
        assert row.latency_ms.p50 is not None
    (student,) = [r for r in report.rows if (r.kind, r.engine, r.precision) == ("stage", "executorch", "int8")][-1:]
    assert student.parity.cosine > 0.99, "what was trained is what runs"
    plan = json.loads((tmp_path / "out/bundle/plan.json").read_text())
    assert (tmp_path / "out/bundle" / ("model.pte" if plan["source"] == "pte" else "model.onnx")).is_file()
    assert verify(tmp_path / "out/bundle").top1_agreement == 1.0
    assert np.isfinite(report.verdict.speedup_vs_best_free or 1.0)
