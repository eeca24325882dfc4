"""A converter's file is there, or one line says why: its exit code, its last words, how long it was waited for."""

import sys

import pytest

from deploy.engines.base import EngineError
from deploy.export.converter import MOST_WORDS, run_converter


def convert(folder, program, longest_s=60):
    run_converter(
        "toy", [sys.executable, "-c", program], folder, ["made"], longest_s=longest_s, environment={"WORD": "given"}
    )


def test_it_runs_in_the_folder_with_the_environment_it_is_given(tmp_path):
    convert(tmp_path, "import os; open('made', 'w').write(os.environ['WORD'])")
    assert (tmp_path / "made").read_text() == "given"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; open('made', 'w'); print('first'); print('no such layer'); sys.exit(3)", r"\(exit 3\): no such layer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"\(exit -9\): it said nothing"),
        ("print('all is well')", r"\(exit 0\): all is well"),  # and yet no file
        (f"raise SystemExit('x' * {MOST_WORDS + 9})", rf"\(exit 1\): x{{{MOST_WORDS}}}$"),
    ],
)
def test_a_failure_is_one_line_with_its_last_words(tmp_path, program, words):
    with pytest.raises(EngineError, match=f"^toy cannot convert the model {words}"):
        convert(tmp_path, program)


def test_one_that_does_not_end_is_not_waited_for(tmp_path):
    with pytest.raises(EngineError, match="toy was not done with the model after 1 s"):
        convert(tmp_path, "import time; time.sleep(600)", longest_s=1)
