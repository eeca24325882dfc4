"""One model for several devices, by hand."""

from dataclasses import replace

import pytest

from compress.pipeline.shared_model import one_for_all
from compress.pipeline.verdict import conclude, settled_on
from compress.recipe.spec import Budget
from compress.report.devices_record import DevicesReport
from compress.report.record import Report
from tests.compress.report.test_record import row

BUDGET = Budget(accuracy_drop_points=1.0, latency_ms_p50=0.6)


def report(device, **ms):
    """A teacher of 1 ms, and a student for each model by its time there; ``own`` is the device's, 97.5 % on validation."""
    rows = [replace(row("teacher/openvino/fp32", "baseline", 98.0, 98.0, 1.0), model="teacher")]
    rows += [replace(row(f"{m}/openvino/fp32", "student", 97.4, 97.5, p50), model=m) for m, p50 in ms.items()]
    rows.append(replace(row("prune/openvino/fp32", "stage", 97.4, 97.5, 0.01), model="attempt"))
    return Report(
        recipe={"name": "toy"},
        device={"name": device, "title": device},
        environment={},
        budget=BUDGET,
        rows=tuple(rows),
        verdict=conclude(rows, BUDGET),
    )


def test_the_one_model_loses_least_on_average_and_is_within_the_budget_everywhere():
    # over each device's best: wide 1.25 * 1, narrow 1 * 2, middle 1.5 * 1.2; slow is over the budget on the board
    reports = {
        "host": report("host", wide=0.25, narrow=0.20, middle=0.30, slow=0.21),
        "board": report("board", wide=0.25, narrow=0.50, middle=0.30, slow=0.61),
    }
    assert one_for_all(reports) == {"host": "wide/openvino/fp32", "board": "wide/openvino/fp32"}
    assert one_for_all({"host": reports["host"], "board": report("board", narrow=0.5, middle=0.59)})["board"].startswith(
        "narr"
    )
    assert one_for_all({"host": reports["host"], "board": report("board", slow=0.61)}) == {}, "teacher and slow are over it"
    assert one_for_all({}) == {}


def test_what_is_the_best_on_each_is_the_one_for_all_though_another_was_timed_a_little_faster():
    reports = {device: report(device, wide=0.25, narrow=0.24) for device in ("host", "board")}
    best = "wide/openvino/fp32"
    reports = {device: replace(each, verdict=replace(each.verdict, best=best)) for device, each in reports.items()}
    assert one_for_all(reports) == {"host": best, "board": best}


@pytest.fixture
def several():
    reports = {"host": report("host", wide=0.25, narrow=0.20), "board": report("board", wide=0.25, narrow=0.50)}
    return DevicesReport(
        name="toy",
        reports=reports,
        faults={"lost": "ssh://lost: <no> route"},
        training_s={"host": 90.0, "board": 0.0, "lost": 0.0},
        one_for_all=one_for_all(reports),
    )


def test_one_each_stands_beside_one_for_all(several, tmp_path):
    text = str(several)
    assert "host 1.25x the time of its own best, board 1.00x the time of its own best" in text
    assert "lost failed: ssh://lost: <no> route" in text and not several.within_budget
    lines = dict(several.lines())
    assert lines["one each"][0].startswith("narrow, openvino fp32\n0.200 ms, 5.00x")
    assert [cell.partition(",")[0] for cell in lines["one for all"]] == ["wide", "wide"]
    assert lines["trained for it alone"] == ["90 s", "0 s"]
    several.write(tmp_path)
    page = (tmp_path / "devices.html").read_text()
    assert 'href="board/report.html"' in page and "&lt;no&gt;" in page and "<no>" not in page
    told = several.as_json()["devices"]["host"]
    assert (told["best"]["name"], told["one_for_all"]["name"]) == ("narrow/openvino/fp32", "wide/openvino/fp32")


def test_figures_of_the_row_that_ships_for_all_are_its_own():
    """By hand: the teacher takes 1.0 ms; on the board wide takes 0.25 and is the best, narrow takes 0.50."""
    one = report("board", wide=0.25, narrow=0.50)
    found = settled_on(one, "narrow/openvino/fp32")
    assert found.best == "narrow/openvino/fp32" and found.within_budget and found.speedup_interval is None
    assert found.speedup_vs_teacher_fp32 == pytest.approx(2.0)
    assert found.speedup_vs_best_free == pytest.approx(one.verdict.speedup_vs_best_free / 2)
    assert settled_on(one, one.verdict.best).speedup_vs_best_free == pytest.approx(one.verdict.speedup_vs_best_free)


def test_where_the_best_rows_are_of_one_model_that_is_said(several):
    one = {device: report(device, wide=0.25) for device in ("host", "board")}
    assert replace(several, reports=one, faults={}, one_for_all=one_for_all(one)).verdict() == [
        "One model is the best on every device."
    ]
