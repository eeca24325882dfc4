import json
import re
from dataclasses import replace

import pytest

from compress.methods.choice import Choice
from compress.pipeline.verdict import conclude, find_warnings
from compress.recipe.spec import Budget
from compress.report.html import html, pareto
from compress.report.record import Report, Row, read
from compress.report.table import table
from compress.report.timings import Timings
from compress.tasks import Metric
from deploy.measure.parity import Parity
from deploy.measure.timing import Times, summarise
from deploy.packing.packed_file import SizeBreakdown
from profiles.errors import UserError
from tests.browser import shown


def row(name, kind, test, validation, p50, size=1000, stage=None, decision=None, precision="fp32"):
    return Row(
        name=name,
        kind=kind,
        stage=stage,
        decision=decision,
        engine="openvino",
        precision=precision,
        runs_on="local",
        metric=Metric(name="top1", value=test, unit="%", samples=500),
        validation=validation,
        latency_ms=summarise(Times([p50] * 700), batch=1, threads=1),
        size_bytes=size,
        params=10,
        macs=20,
        parity=Parity(max_abs=0.0, cosine=1.0, top1_agreement=1.0, samples=5),
        seconds=1.0,
        reason="because <it> was faster" if stage else None,
        notes=("conv1 stays whole",) if stage else (),
    )


TEACHER = row("teacher/openvino/fp32", "baseline", 98.0, 98.0, 1.0)
FREE = row("teacher/openvino/int8", "baseline", 97.9, 97.9, 0.5, precision="int8")
TRIED = row("prune/openvino/fp32", "stage", 97.0, 97.5, 0.4, stage="prune", decision="accepted")
STUDENT = row("student/openvino/int8", "student", 97.4, 97.5, 0.25, precision="int8")


def test_the_best_is_the_fastest_within_the_budget_and_ratios_are_of_medians():
    verdict = conclude([TEACHER, FREE, TRIED, STUDENT], Budget(accuracy_drop_points=1.0))
    assert verdict.best == STUDENT.name
    assert verdict.within_budget
    assert verdict.speedup_vs_teacher_fp32 == pytest.approx(4.0)
    assert verdict.speedup_vs_best_free == pytest.approx(2.0)
    assert verdict.accuracy_drop_points == pytest.approx(0.6)


def test_when_the_untouched_model_is_the_best_answer_that_is_the_answer():
    slow = row("student/openvino/int8", "student", 98.0, 98.0, 0.6)
    assert conclude([TEACHER, FREE, slow], Budget()).best == FREE.name


def test_the_choice_looks_at_validation_and_the_verdict_at_test():
    lucky = row("student/a/int8", "student", 98.0, 90.0, 0.1)
    unlucky = row("student/b/int8", "student", 96.0, 98.0, 0.2)
    verdict = conclude([TEACHER, FREE, lucky, unlucky], Budget(accuracy_drop_points=1.0))
    assert verdict.best == unlucky.name, "lucky is better on test, which a choice must not see"
    assert not verdict.within_budget
    assert verdict.why_not == ("2.00 points below the teacher on test; the budget is 1",)


def test_a_budget_that_nothing_meets_is_over_budget():
    verdict = conclude([TEACHER, FREE, STUDENT], Budget(latency_ms_p50=0.1, size_mib=0.0001))
    assert verdict.best == STUDENT.name
    assert not verdict.within_budget
    assert len(verdict.why_not) == 2


def test_a_size_budget_can_choose_a_slower_row():
    small = row("student/b/int8", "student", 98.0, 98.0, 0.45, size=10)
    verdict = conclude([TEACHER, FREE, STUDENT, small], Budget(size_mib=100 / 2**20))
    assert verdict.best == small.name


def test_pareto_by_hand():
    front = pareto([TEACHER, FREE, TRIED, STUDENT])
    assert [r.name for r in front] == [STUDENT.name, FREE.name, TEACHER.name]


@pytest.fixture
def report():
    return report_of((TEACHER, FREE, TRIED, STUDENT))


def report_of(rows):
    return Report(
        recipe={"name": "r", "stages": []},
        device={"name": "cpu", "title": "a CPU"},
        environment={"versions": {"torch": "2"}},
        budget=Budget(),
        rows=rows,
        verdict=conclude(rows, Budget()),
    )


def test_json_keeps_the_contract_and_comes_back(report, tmp_path):
    report.write(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["schema"] == 1
    parts = "schema recipe device environment budget rows verdict warnings scale refused agreement notes folded curve"
    assert set(data) == set(parts.split())
    budget = "accuracy_drop_points latency_ms_p50 size_mib stored_mib peak_mib load_ms total_ms"
    assert set(data["budget"]) == set(budget.split())
    names = (
        "name kind stage decision engine precision runs_on metric latency_ms size_bytes params macs parity seconds reason "
        "peak_mib load_ms first_ms path_ms"
    )
    assert set(names.split()) <= set(data["rows"][0])
    assert set(data["rows"][0]["latency_ms"]) == set(
        ["min", "p50", "p90", "p95", "p99", "samples", "cv", "batch", "threads", "own_p50"]
    )
    verdict = "within_budget best speedup_vs_teacher_fp32 speedup_vs_best_free accuracy_drop_points"
    assert set(verdict.split()) <= set(data["verdict"])
    assert read(tmp_path) == report
    assert read(tmp_path / "report.json") == report


def test_the_page_is_self_contained_and_escapes(report):
    page = own_part(html(report))
    assert page.count("<svg") == 2
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "<img" not in page
    assert "because &lt;it&gt; was faster" in page


def own_part(page):
    """The page less Plotly's own script."""
    return re.sub(r"<script>/\*\*.*?</script>", "", page, count=1, flags=re.DOTALL)


def test_the_picture_holds_every_row_and_no_text_ends_its_script(report):
    pytest.importorskip("plotly")
    hostile = replace(TRIED, reason="</script><b>it & that</b>")
    page = own_part(html(replace(report, rows=(TEACHER, FREE, hostile, STUDENT))))
    (told,) = re.findall(r"const DATA = (.*);", page)
    assert "</script>" not in told
    (front,) = json.loads(told)["fronts"]
    by_name = {(p["name"], p["form"]): p for p in front["points"]}
    assert len(by_name) == 4 and front["least"] == 97.0
    student, tried = by_name["student", "openvino int8"], by_name["prune", "openvino fp32"]
    assert student["done"].startswith("the best row; 4.00x") and student["on_front"] and student["is_choice"]
    assert tried["reason"].startswith("accepted: </script>") and not tried["is_choice"] and not tried["on_front"]


def test_without_plotly_the_picture_is_drawn(report, monkeypatch):
    monkeypatch.setattr("compress.report.picture.has_plotly", lambda: False)
    page = html(report)
    assert page.count("<svg") == 2 and "<script" not in page


@pytest.mark.slow
def test_a_browser_shows_the_row_within_the_slider(report, tmp_path):
    pytest.importorskip("plotly")
    text = shown(html(report), tmp_path)
    assert 'data-picked="student"' in text and "97.40 %, 0.250 ms, 1 KiB" in text, "the best row is picked at first"
    text = shown(html(report), tmp_path, 'slider.value = 1000; slider.dispatchEvent(new Event("input"));')
    assert 'data-picked="teacher"' in text and "98.00 %, 1.000 ms" in text
    click = "document.querySelector('.plot').emit('plotly_click', { points: [{ x: 0.5 }] });"
    assert 'data-picked="teacher"' in (text := shown(html(report), tmp_path, click)) and "97.90 %, 0.500 ms" in text


def test_the_same_report_gives_the_same_page(report):
    assert own_part(html(report)) == own_part(html(report))


def test_the_table_says_it_all(report):
    text = table(report)
    assert "2.00x" in text
    assert "prune accepted: because" in text
    assert "4.00x the speed of the teacher in fp32 on openvino, 2.00x the best of what is free" in text
    assert "0.60 points below the teacher" in text
    assert "Within the budget." in text


def test_energy_is_a_column_where_a_board_has_rails(report):
    assert " mJ " not in table(report)
    metered = replace(report, rows=(replace(TEACHER, energy_mj=12.34), *report.rows[1:]))
    assert " mJ " in table(metered) and " 12.3 " in table(metered)
    assert "<td>12.3</td>" in html(metered) and "<th>mJ</th>" not in html(report)


def test_no_report_is_said(tmp_path):
    with pytest.raises(UserError, match="no report.json"):
        read(tmp_path)
    (tmp_path / "report.json").write_text('{"schema": 7}')
    with pytest.raises(UserError, match="this one reads schema 1"):
        read(tmp_path)


def test_a_teacher_that_has_seen_validation_is_suspected():
    assert find_warnings([TEACHER, FREE]) == ()
    (told,) = find_warnings([row("teacher/openvino/fp32", "baseline", 93.4, 99.9, 1.0)])
    assert "trained on the validation samples" in told and "(500 samples)" in told


@pytest.mark.parametrize(
    ("validation", "test", "samples", "told"),
    [
        (99.0, 93.0, 100, False),
        (99.0, 93.0, 1000, True),
        (94.9, 93.0, 10**6, False),
        (95.1, 93.0, 10**6, True),
    ],
)
def test_the_difference_of_two_splits_is_told_where_their_samples_show_it(validation, test, samples, told):
    """Pooled share 0.96: the error is 2.77 points at 100 samples each, 0.88 at 1000; 6 points are 2.2 or 6.8 errors.
    Of a million, 2 points are told.
    """
    one = row("teacher/openvino/fp32", "baseline", test, validation, 1.0)
    one = replace(one, metric=replace(one.metric, samples=samples), validation_samples=samples)
    found = find_warnings([one])
    assert bool(found) == told
    if told and samples == 1000:
        assert "6.8 standard errors apart" in found[0]
    assert find_warnings([one], is_trained_here=True) == ()


def test_a_metric_from_0_to_1_is_held_to_the_budget_in_points():
    teacher, good, ruined = (
        row(name, "baseline", a, a, p) for name, a, p in (("t", 0.97, 5.0), ("g", 0.965, 3.0), ("r", 0.1, 2.0))
    )
    verdict = conclude([teacher, good, ruined], Budget(), scale=1.0)
    assert verdict.best == "g" and verdict.accuracy_drop_points == pytest.approx(0.5)


def test_the_headline_names_the_fastest_float_form_too(report):
    other = replace(row("teacher/onnxruntime/fp32", "baseline", 98.0, 98.0, 0.6), engine="onnxruntime")
    rows = [TEACHER, other, STUDENT]
    verdict = conclude(rows, Budget(), speedup=lambda one, other: (3.5, 4.5))
    assert (verdict.fastest_float, verdict.speedup_vs_fastest_float) == (other.name, pytest.approx(2.4))
    text = table(replace(report, rows=tuple(rows), verdict=verdict))
    assert "4.00x the speed of the teacher in fp32 on openvino (by its rounds 3.50x to 4.50x)" in text
    assert "2.40x its fastest float form (fp32 on onnxruntime)" in text


def test_a_student_whose_rounds_do_not_show_a_gain_over_what_is_free_is_not_the_answer():
    def between(low, high):
        return conclude([TEACHER, FREE, STUDENT], Budget(), speedup=lambda one, other: (low, high)).best

    assert (between(0.75, 1.86), between(1.04, 1.86)) == (FREE.name, STUDENT.name)


def test_what_is_free_and_over_the_budget_is_compared_with_nothing(report):
    budget = Budget(latency_ms_p50=0.3)
    verdict = conclude([TEACHER, FREE, STUDENT], budget)
    assert verdict.within_budget and not verdict.is_free_within_budget
    text = table(replace(report, rows=(TEACHER, FREE, STUDENT), verdict=verdict))
    assert "nothing that is free is within the budget" in text and "best of what is free" not in text


@pytest.mark.parametrize(
    ("within", "signed", "said"),
    [
        (True, True, "is ready to ship"),
        (False, True, "is over the budget: not ready to ship"),
        (True, False, "is not signed: not ready to ship"),
        (False, False, "is over the budget and not signed: not ready to ship"),
    ],
)
def test_ready_to_ship_is_within_the_budget_and_signed(within, signed, said, tmp_path):
    from compress.cli.run import _state
    from deploy.bundle.manifest import SIGNATURE

    if signed:
        (tmp_path / SIGNATURE).write_bytes(b"signature")
    assert _state(tmp_path, within_budget=within) == said


CHOICES = (
    Choice(name="a", kind="group", family="stage/1", before=16, after=8, kept=0.75, bought=0.2, unit="ms"),
    Choice(name="b", kind="group", family="stage/1", before=16, after=16, kept=1.0, bought=0.0, unit="ms"),
    Choice(name="layer1.1", kind="block", family="", before=16, after=0, kept=0.0, bought=0.125, unit="ms"),
)


def test_what_a_stage_chose_is_in_json_text_and_picture(report, tmp_path):
    tried = replace(TRIED, choices=CHOICES, about="measured on <it>")
    told = replace(report, rows=(TEACHER, FREE, tried, STUDENT))
    told.write(tmp_path)
    assert read(tmp_path) == told
    text = table(told)
    assert "stage/1: 32 -> 24 channels in 2 groups, 88 % kept, 0.200 ms" in text
    assert "taken out: layer1.1, 0.125 ms" in text
    assert "(measured on <it>)" in text
    page = own_part(html(told))
    assert page.count("<svg") == 3
    assert "measured on &lt;it&gt;" in page and "layer1.1" in page


def stored(name, p50, size, validation=98.0):
    parts = {"indices": size - 10, "codes": 1, "points": 1, "scales": 2, "integers": 0, "rest": 3, "header": 3}
    made = SizeBreakdown(weights=1000, model_bytes=5000, file_bytes=size, fixed_bytes=size, **parts)
    return replace(row(name, "student", 98.0, validation, p50, stage="pack"), stored_bytes=size, packed=made)


def test_of_rows_that_are_as_fast_the_packed_one_is_shipped_and_no_slower_one():
    fast = replace(FREE, stored_bytes=900)
    alike, smaller, slow = stored("a", 0.51, 300), stored("b", 0.514, 200), stored("c", 0.6, 100)
    assert conclude([TEACHER, fast, alike, smaller, slow], Budget()).best == "b"
    assert conclude([TEACHER, fast, slow], Budget()).best == FREE.name
    assert conclude([TEACHER, fast, slow], Budget(stored_mib=500 / 2**20)).best == "c"
    over = conclude([replace(TEACHER, stored_bytes=4000), fast], Budget(stored_mib=500 / 2**20))
    assert not over.within_budget and "in the bundle are over the budget" in over.why_not[0]


def test_what_the_bytes_are_for_is_told_and_comes_back(tmp_path):
    one = stored("pack/openvino/fp32", 0.5, 300)
    made = Report(
        recipe={"name": "r"},
        device={"name": "d", "title": "d"},
        environment={},
        budget=Budget(),
        rows=(TEACHER, replace(one, kind="stage", decision="accepted")),
        verdict=conclude([TEACHER, one], Budget()),
    )
    made.write(tmp_path)
    assert read(tmp_path).rows == made.rows
    words = "1000 weights, 3.9 KiB as fp32, stored in 0.3 (13.5x smaller); file 0.3 KiB of 4.9: indices 0.3"
    assert words in table(read(tmp_path)) and words in html(made)


@pytest.mark.parametrize(
    ("p50", "validation", "best"),
    [
        (0.5 / 1.031, 97.9, STUDENT.name),  # a gain of 3.1 %
        (0.5 / 1.029, 97.9, FREE.name),  # which measurement cannot tell from none
        (0.5 / 1.029, 97.9 + 0.11, STUDENT.name),  # and a tenth of a point more accurate
        (0.5 / 1.029, 97.9 + 0.09, FREE.name),
    ],
)
def test_a_student_has_to_gain_by_the_gates_rule_over_what_is_free(p50, validation, best):
    student = row(STUDENT.name, "student", 97.4, validation, p50, precision="int8")
    assert conclude([TEACHER, FREE, student], Budget(accuracy_drop_points=1.0)).best == best


def test_within_the_latency_budget_a_student_needs_no_gain_over_a_free_row_that_is_not():
    student = row(STUDENT.name, "student", 97.4, 97.5, 0.49, precision="int8")
    assert conclude([TEACHER, FREE, student], Budget(latency_ms_p50=0.495)).best == STUDENT.name


def test_a_report_shows_itself_in_a_notebook():
    rows = (TEACHER, FREE, TRIED, STUDENT)
    shown = report_of(rows)._repr_html_()
    assert shown.startswith("<pre") and shown.count("<pre") == 1
    for words in ("teacher", "post-training", "accepted", "because &lt;it&gt; was faster", "Within the budget."):
        assert words in shown
    assert "<it>" not in shown


def test_a_report_as_a_data_frame(monkeypatch):
    import sys
    from types import SimpleNamespace

    report = report_of((TEACHER, FREE, TRIED, STUDENT))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        report.to_pandas()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    frame = report.to_pandas()
    assert [line["name"] for line in frame] == [r.name for r in report.rows]
    assert frame[3]["p50_ms"] == 0.25 and frame[3]["top1"] == 97.4 and frame[2]["reason"] == "because <it> was faster"


def test_a_smaller_model_that_is_free_stands_among_the_free_rows_and_may_be_the_answer():
    small = row("resnet20/openvino/fp32", "baseline", 97.6, 97.6, STUDENT.p50 / 2)
    verdict = conclude([TEACHER, FREE, small, STUDENT], Budget(accuracy_drop_points=1.0))
    assert verdict.best == small.name and verdict.speedup_vs_best_free == 1.0
    assert verdict.fastest_float == TEACHER.name, "of the teacher itself"
    worse = replace(small, validation=80.0, metric=replace(small.metric, value=80.0))
    assert conclude([TEACHER, FREE, worse, STUDENT], Budget(accuracy_drop_points=1.0)).best == STUDENT.name


@pytest.mark.parametrize(
    ("agreement", "shown", "about"),
    [
        ("top1_agreement", "75.0 %", "top-1 the same as the module's"),
        ("cosine", "0.98765", "cosine with the module's"),
        ("max_abs", "0.013", "largest difference from the module's"),
    ],
)
def test_parity_is_shown_as_it_fits_the_task(report, agreement, shown, about):
    parity = Parity(max_abs=0.0126, cosine=0.987654, top1_agreement=0.75, samples=5)
    alike = replace(report, agreement=agreement, rows=tuple(replace(r, parity=parity) for r in report.rows))
    assert shown in str(alike) and f"parity: {about}" in str(alike)
    assert ("top-1 agrees" in html(alike)) == (agreement == "top1_agreement")


def test_a_bench_shows_between_what_each_speed_up_lies():
    latencies = {
        "a": summarise(Times([1.0] * 11), batch=1, threads=1),
        "b": summarise(Times([0.5] * 11), batch=1, threads=1),
    }
    shown = str(Timings(latencies=latencies, speedups={"a": (1.0, 1.0), "b": (0.9, 8.1)})).splitlines()
    assert shown[1].endswith("1.00x") and shown[2].endswith("2.00x  0.90x to 8.10x")
