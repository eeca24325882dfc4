"""The search of a student: what it says, and a real one from the command line."""

import json
import math
import subprocess
import sys

import pytest

from compress.methods.evolution import Candidate
from compress.pipeline.student_search import StudentSearchResult, _check, table
from profiles.errors import UserError
from tests.compress.pipeline.test_run import ENVIRONMENT

QUICK = Candidate(arguments={"blocks": 1}, score=-2.0, latency_ms=1.0)
GOOD = Candidate(arguments={"blocks": 3}, score=-1.0, latency_ms=2.0)
BROKEN = Candidate(arguments={"blocks": 0}, score=None, fault="at least one block")


def found(*tried, most_ms=math.inf):
    return StudentSearchResult(form="openvino int8", teacher_ms=4.0, most_ms=most_ms, tried=tried)


def test_the_table_says_what_was_chosen_and_why():
    text = table(found(GOOD, QUICK, BROKEN, most_ms=2.5))
    assert "2.00x  *  blocks = 3" in text and "4.00x  f  blocks = 1" in text
    assert "blocks = 0: at least one block" in text
    assert "chosen (*): blocks = 3, the highest score of those that take at most 2.500 ms" in text


def test_json_has_everything_that_was_tried():
    data = found(GOOD, QUICK).as_json()
    assert data["chosen"] == {"blocks": 3}
    assert [(one["score"], one["on_front"]) for one in data["tried"]] == [(-1.0, True), (-2.0, True)]


def test_a_budget_that_none_meets_names_the_fastest():
    with pytest.raises(UserError, match=r"none of 2 candidates takes at most 0.500 ms .* takes 1.000 ms: 4.00x"):
        _check(found(QUICK, GOOD, most_ms=0.5))
    with pytest.raises(UserError, match="none of its candidates can be built.*at least one block"):
        _check(found(BROKEN))


RECIPE = """
[task]
data = "tests.conftest:blob_splits"
[teacher]
model = "compress.models:resnet"
arguments = { in_channels = 1, classes = 4 }
epochs = 2
batch_size = 32
[student]
from = "teacher"
[student.search]
speed_up = 1.2
choices.blocks = [1, 2]
choices.widths = [[8, 16, 32], [8, 16]]
[budget]
accuracy_drop_points = 100.0
[measure]
seconds = 0.1
gate_seconds = 0.1
[[stage]]
use = "distill"
epochs = 1
"""


@pytest.mark.slow
def test_a_run_searches_its_student_and_goes_on_with_it(tmp_path):
    (tmp_path / "small.toml").write_text(RECIPE)

    def compress(command):
        words = [sys.executable, "-m", "compress", command, "small.toml", "--json"]
        done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    searched, _ = compress("students")
    assert len(searched["tried"]) == 4
    assert [bool(one["fault"]) for one in searched["tried"]] == [False, False, True, True], "two widths are no three"
    assert searched["tried"][0]["latency_ms"] <= searched["most_ms"] == pytest.approx(searched["teacher_ms"] / 1.2)
    report, said = compress("run")
    assert searched["chosen"].items() <= report["recipe"]["student"]["arguments"].items()
    assert "every weight is inherited" in said or "% of the weights are inherited" in said
    assert report["verdict"]["speedup_vs_teacher_fp32"] > 1
