"""Preprocessing inside the file: chosen by the race's intervals alone; a bundle of bytes answers as the plain one."""

import json
from dataclasses import asdict

import numpy as np
import pytest

import compress
import deploy
from compress.data.images import images
from compress.pipeline import folding
from compress.pipeline.folding import PLAIN, _chosen, _unlike
from compress.pipeline.remeasure import measure_rows_again
from compress.pipeline.whole_path import WholePath
from deploy.bundle import bundle as bundles
from deploy.bundle import raw_samples
from deploy.measure.path_times import PathTimes
from tests.compress.pipeline.test_whole_path import photographs

SMALL = {"blocks": 1, "widths": [4, 4, 8]}


def latency(total):
    return asdict(PathTimes(blocks=[[[1.0, total - 2, 1.0, total]]] * 3).summary())


@pytest.mark.parametrize(
    ("ratio", "form"), [((1.04, 1.2), "convolution"), ((1.02, 1.5), None), ((0.9, 1.3), None), ((1.03, 1.04), "convolution")]
)
def test_what_is_shown_to_be_faster_ships_and_nothing_else(ratio, form, tmp_path):
    facts = {
        "path_ms": {PLAIN: latency(10.0), "nodes": latency(9.5), "convolution": latency(9.0)},
        "ratio": {"nodes": [1.5, 1.6], "convolution": list(ratio)},
        "left_out": {},
    }
    paths = {name: WholePath() for name in facts["path_ms"]}
    found, told = _chosen(tmp_path, facts, paths, "model.onnx")
    assert (found.form if found else None) == form
    assert "9.000 ms, plain 10.000" in told and f"{ratio[0]:.2f}x to {ratio[1]:.2f}x" in told
    assert ("not shown to be faster" in told) == (form is None)


def test_what_gives_other_outputs_is_left_out():
    right = [np.eye(4, 3, dtype=np.float32)]
    assert _unlike(right, [right[0] + 1e-6], "fp32") == ""
    assert "cosine" in _unlike(right, [right[0] + 0.1], "fp32") and "not a number" in _unlike(
        right, [right[0] * np.nan], "fp32"
    )


@pytest.mark.slow
def test_a_bundle_that_takes_bytes_is_proven_and_answers_the_same(tmp_path, monkeypatch, quiet):
    """A whole run on photographs; the race is told that anything is faster, so that what is folded ships."""
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))
    monkeypatch.setattr(folding, "LEAST_GAIN", 0.0)
    options = {"mean": [0.3, 0.4, 0.6], "deviation": [0.2, 0.3, 0.4], "order": "bgr", "size": 24}
    splits = images(path=photographs(tmp_path / "p", 10), validation=2, test=3, calibration=2, **options)
    report = compress.run(
        teacher={
            "model": "compress.models:resnet",
            "arguments": {"classes": 2, "blocks": 1, "widths": [4, 4, 8]},
            "epochs": 1,
        },
        data=splits,
        stages=[],
        measure={"seconds": 0.05, "gate_seconds": 0.05, "quiet_seconds": 0},
        engines=["onnxruntime"],
        out=tmp_path / "out",
        progress=quiet,
    )
    assert report.folded is not None and report.row(report.verdict.best).path_ms.total.p50 > 0
    assert any("the bundle has it so" in note for note in report.notes)
    folder = tmp_path / "out" / "bundle"
    assert json.loads((folder / "preprocessing.json").read_text())["bytes"] is True
    with np.load(folder / "golden.npz") as golden:
        assert golden["input"].dtype == np.uint8 and golden["input"].shape[1:] == (24, 24, 3)
    with bundles.opened(folder) as session:
        assert raw_samples.check(session, folder, report.row(report.verdict.best).precision) > 0
    told = json.loads((folder / "answers.json").read_text())
    with deploy.load(folder) as model:
        for number, answer in enumerate(told):
            assert model(splits.test.raw(number).value)["score"] == pytest.approx(answer["score"], abs=1e-3)
    again = measure_rows_again(tmp_path / "out", tmp_path / "steps", quiet, quiet_seconds=0)
    assert again.teacher.path_ms is not None and again.folded == report.folded
