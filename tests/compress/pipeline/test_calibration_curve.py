"""The curve of int8 by calibration samples, and the warning where they are unlike what the model will see."""

import numpy as np
import onnx
import pytest

from compress.pipeline.calibration_curve import last_float, numbers_of_samples
from compress.report.calibration_curve import CalibrationCurve, CurvePoint
from compress.report.html import calibration_curve
from compress.report.record import read
from tests.deploy.engines.small import small

RECIPE = """
[task]
data = {{ use = "npz", path = "lab.npz", validation = 40, test = 40, calibration = 40 }}
[teacher]
model = "small.onnx"
[calibration]
{calibration}
[measure]
seconds = 0.1
"""


def test_numbers_of_samples():
    assert numbers_of_samples(3) == [3] and numbers_of_samples(16) == [4, 16] and numbers_of_samples(40) == [4, 16, 40]


def test_lines_and_picture():
    points = (CurvePoint(samples=4, values=(88.0, 90.0)), CurvePoint(samples=40, values=(91.5,)))
    about = {"title": "teacher", "metric": "top1", "unit": "%", "judged": 500, "kept": 40}
    curve = CalibrationCurve(float_value=92.0, points=points, **about)
    assert [line.strip() for line in curve.lines()][1:] == ["4: 89.00, 88.00 to 90.00 in 2 draws", "40: 91.50"]
    assert "calibration samples (log)" in calibration_curve(curve)


def test_the_last_float_model_is_what_is_quantised():
    class Made:
        def __init__(self, recipe):
            self.recipe = recipe

    teacher, distilled, int8 = Made(None), Made(None), Made("x86-vnni")
    assert last_float(teacher, [("distill", distilled), ("quantize", int8)]) == ("distill", distilled)
    assert last_float(teacher, []) == ("teacher", teacher)


@pytest.fixture
def lab(tmp_path):
    onnx.save(small(), tmp_path / "small.onnx")
    images = np.random.default_rng(5).normal(size=(300, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "lab.npz", images=images, labels=np.arange(300) % 4)
    np.savez(tmp_path / "bright.npz", images=images[:80] + 3)
    return tmp_path


@pytest.mark.slow
def test_a_run_draws_the_curve_and_warns_of_traffic_that_is_brighter(lab, compress_here):
    (lab / "lab.toml").write_text(RECIPE.format(calibration='curve = 2\ntraffic = "bright.npz"'))
    done = compress_here("run", "lab.toml", "--engines", "onnxruntime", "--out", "out")
    assert done.returncode in (0, 3), done.stderr
    report = read(lab / "out")
    assert [(point.samples, len(point.values)) for point in report.curve.points] == [(4, 2), (16, 2), (40, 1)]
    assert report.curve.kept == 40 and report.curve.judged == 40 and "calibration samples are unlike traffic" in done.stderr
    assert any("unlike traffic" in warning for warning in report.warnings) and "16:" in done.stdout
    assert "Int8 by calibration samples" in (lab / "out/report.html").read_text()


def test_bad_input_is_told_in_one_line(lab, compress_here):
    (lab / "lab.toml").write_text(RECIPE.format(calibration='traffic = "nothing"\ncurve = -1'))
    done = compress_here("run", "lab.toml", "--engines", "onnxruntime")
    assert done.returncode == 2 and "curve" in done.stderr
    (lab / "lab.toml").write_text(RECIPE.format(calibration='traffic = "nothing"'))
    done = compress_here("run", "lab.toml", "--engines", "onnxruntime")
    assert done.returncode == 2 and "[calibration] traffic" in done.stderr and "no such folder or .npz file" in done.stderr
