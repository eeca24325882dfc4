"""Long work that tells nothing is told, and what tells is left alone."""

import io
import time

from compress.execution import heartbeat
from compress.execution.progress import StreamProgress, doing, keep_telling
from tests.conftest import wait_until


def test_silent_work_is_told_with_how_long_it_has_taken(monkeypatch):
    monkeypatch.setattr(heartbeat, "SILENCE_S", 0.05)
    monkeypatch.setattr(heartbeat, "FIRST_S", 0.05)
    monkeypatch.setattr(heartbeat, "LOOK_S", 0.01)
    stream = io.StringIO()
    progress = StreamProgress(stream)
    with keep_telling(progress):
        with doing(progress, "exporting"), doing(progress, "folding"):
            wait_until(lambda: "folding: 0 s" in stream.getvalue())
        inner = stream.getvalue()
        with progress.task("judge", 10):
            wait_until(lambda: "judge: 0 s" in stream.getvalue())
    assert "  folding: 0 s so far\n" in inner and "exporting" not in inner, "the innermost"
    assert "  judge: 0 s so far\n" in stream.getvalue().removeprefix(inner), "a bar that does not move"
    said = stream.getvalue()
    time.sleep(0.2)
    assert stream.getvalue() == said, "over"


def test_what_is_said_in_time_is_not_added_to():
    stream = io.StringIO()
    progress = StreamProgress(stream)
    with keep_telling(progress), doing(progress, "exporting"):
        progress.say("a line")
    assert stream.getvalue() == "a line\n"


def test_a_display_of_ones_own_is_left_alone():
    class Own:
        def say(self, line):
            raise AssertionError(line)

    with keep_telling(Own()), doing(Own(), "exporting"):
        pass
