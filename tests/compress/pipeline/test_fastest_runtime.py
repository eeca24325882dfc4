"""What a run says of its race of runtimes, from times and accuracies by hand."""

from types import SimpleNamespace

import pytest

from compress.pipeline.comparison import Comparer
from compress.pipeline.evaluation import Evaluation
from compress.pipeline.exports import Variant
from compress.recipe.spec import Budget
from compress.tasks import Metric
from deploy.measure.parity import Parity
from profiles.device import load

MADE = object()


class Raced:
    """An evaluator of one model whose forms have these times and this accuracy."""

    def __init__(self, ms, accuracy, low):
        self.profile = load("x86-avx512-vnni")
        self._ms, self._accuracy, self._low = ms, accuracy, low

    def required_forms(self, made):
        return [Variant(made, *form.split()) for form in self._ms]

    def race(self, forms, seconds):
        return {form: SimpleNamespace(p50=self._ms[form.form]) for form in forms}

    def faster(self, one, other, forms, seconds):
        ratio = self._ms[one.form] / self._ms[other.form]
        return self._low * ratio, ratio

    def judge(self, variant, split):
        metric = Metric(name="top1", value=self._accuracy.get(variant.form, 90.0), unit="%", samples=500)
        return Evaluation(metric=metric, parity=Parity(max_abs=0.0, cosine=1.0, top1_agreement=1.0, samples=500))


def lines(ms, accuracy=(), low=0.9):
    evaluator = Raced(ms, dict(accuracy), low)
    assert [runtime.engine for runtime in evaluator.profile.runtimes] == ["openvino", "onnxruntime"]
    return Comparer(MADE, evaluator, Budget(accuracy_drop_points=1.0), 100.0, 0.1).fastest_lines()


def test_the_fastest_within_the_budget_its_lead_and_how_to_begin_with_it():
    """int8 of ONNX Runtime is fastest; the form elsewhere nearest to it is OpenVINO's int8, twice as slow."""
    ms = {"openvino fp32": 4.0, "openvino int8": 2.0, "onnxruntime fp32": 5.0, "onnxruntime int8": 1.0}
    assert lines(ms) == [
        "of 4 forms onnxruntime int8 is the fastest within the budget's accuracy: 1.000 ms, "
        "1.80 to 2.00 times as fast as openvino int8, the fastest elsewhere",
        "what a stage costs is measured on openvino, the profile's first, and int8 is trained for it; "
        "--engines onnxruntime,openvino begins with the fastest",
    ]
    assert len(lines(ms, low=0.4)) == 1, "0.8 to 2 times as fast: nobody knows which is the faster"


def test_a_form_that_loses_more_than_the_budget_is_not_the_fastest():
    ms = {"openvino fp32": 4.0, "onnxruntime fp32": 5.0, "onnxruntime int8": 1.0}
    (line,) = lines(ms, [("onnxruntime int8", 88.9)])
    assert (
        line.startswith("of 3 forms openvino fp32 is the fastest")
        and "1.12 to 1.25 times as fast as onnxruntime fp32" in line
    )


@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_one_runtime_alone_is_no_race(form):
    assert lines({"openvino fp32": 4.0, f"openvino {form}": 2.0}) == []
