"""The front of a search, and its page."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from compress.report.search_page import page
from compress.report.search_record import DeviceFront, Point, SearchReport, TrialRecord, costs_of
from tests.browser import shown


def point(accuracy, latency_ms, stored=2048):
    times = {"latency_ms": latency_ms, "low_ms": latency_ms - 0.1, "high_ms": latency_ms + 0.1}
    return Point(form="openvino int8", accuracy=accuracy, **times, stored_bytes=stored, size_bytes=stored)


def trial(number, accuracy, latency_ms, state="finished", **more):
    return TrialRecord(
        number=number,
        state=state,
        values={"prune.ratio": 0.1 * number, "stages": ["prune"]},
        stages=("prune",),
        point=point(accuracy, latency_ms),
        recipe=f"# Trial {number}\nseed = {number}\n",
        asked=10,
        made=4,
        **more,
    )


def made(*trials, objectives=("accuracy", "latency")):
    return DeviceFront(
        device="cpu",
        metric="top1",
        unit="%",
        least_accuracy=90.0,
        objectives=objectives,
        free=(point(97.0, 4.0),),
        trials=trials,
    )


TRIALS = (
    trial(0, 95.0, 2.0),
    trial(1, 96.0, 3.0),
    trial(2, 94.0, 2.5),
    trial(3, 95.0, 2.0),
    trial(4, 85.0, 1.0, faults=("accuracy 85, the budget allows 90",)),
    trial(5, 0.0, 0.5, state="stopped", reason="</script><b>it & that</b>", share=0.0),
)


def test_the_front_is_what_no_other_beats_equals_once():
    front = made(*TRIALS)
    assert [t.number for t in front.front] == [4, 0, 1]
    assert [t.number for t in made(*TRIALS, objectives=("accuracy",)).front] == [1]
    assert front.reused == pytest.approx(0.6)
    assert SearchReport(name="my", fronts=(front,)).as_json()["fronts"][0]["front"] == [4, 0, 1]


def test_the_table_has_the_free_rows_and_the_front():
    text = str(SearchReport(name="my", fronts=(made(*TRIALS),)))
    assert "6 trials, 5 finished, 1 stopped; 60 %" in text
    assert re.search(r"4 +85.00 +1.000 +2 +- +-  openvino int8 \(!\): prune; prune.ratio = 0.4", text)
    assert re.search(r"free +97.00 +4.000 +2 +- +-  openvino int8: the untouched teacher", text)


@pytest.fixture(scope="module")
def html():
    pytest.importorskip("plotly")
    return page(SearchReport(name="my", fronts=(made(*TRIALS),)))


def test_the_page_asks_no_network_and_holds_what_it_shows(html):
    own = re.sub(r"<script>/\*\*.*?</script>", "", html, count=1, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", own)
    (told,) = re.findall(r"const DATA = (.*);", own)
    assert "</script>" not in told and "<b>it" in told
    points = json.loads(told)["fronts"][0]["points"]
    assert [p["accuracy"] for p in points[-2:]] == [85.0, None]
    assert [p["kind"] for p in points] == ["free", "front", "front", "finished", "finished", "front", "stopped"]


def test_the_slider_picks_the_most_accurate_within_budget_and_time(html):
    if shutil.which("node") is None:
        pytest.skip("no node here")
    (function,) = re.findall(r"(function pick\(.*?\n})", html, flags=re.DOTALL)
    (told,) = re.findall(r"const DATA = (.*);", html)
    picked = "[9, 3.5, 2.4, 1.5, 0.7].map((ms) => (pick(DATA.fronts[0].points, ms) || { name: null }).name)"
    ask = f"console.log(JSON.stringify({picked}))"
    done = subprocess.run(
        ["node", "-e", f"const DATA = {told};{function};{ask}"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == ["the untouched teacher", "trial 1", "trial 0", "trial 4", None]


@pytest.mark.slow
def test_a_browser_shows_the_point_and_its_recipe(html, tmp_path):
    text = shown(html, tmp_path, 'slider.value = 700; slider.dispatchEvent(new Event("input"));')
    assert 'data-picked="trial 0"' in text and "my-trial-0.toml" in text and "data:application/toml" in text
    assert "seed = 0" in text


def test_memory_and_energy_are_objectives_where_they_were_measured():
    lean = replace(TRIALS[2], point=replace(TRIALS[2].point, peak_mib=40.0, energy_mj=1.5))
    heavy = replace(TRIALS[1], point=replace(TRIALS[1].point, peak_mib=60.0))
    front = made(TRIALS[0], heavy, lean, objectives=("accuracy", "memory"))
    assert [t.number for t in front.front] == [2, 1], "trial 0 has no memory, so that it beats nothing"
    assert costs_of(heavy.point, ("memory", "energy")) == (60.0, math.inf)
    assert "40.0    1.5  openvino int8" in str(SearchReport(name="my", fronts=(front,), faults={"board": "gone"}))
