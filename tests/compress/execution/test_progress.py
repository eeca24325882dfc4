"""Progress where there is no terminal."""

import io

from compress.execution import progress
from compress.execution.progress import StreamProgress, count_progress


def test_an_item_is_counted_when_the_next_is_asked_for(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    stream = io.StringIO()
    items = count_progress(StreamProgress(stream), "cuts", ["a", "b"])
    assert (next(items), stream.getvalue()) == ("a", "")
    assert next(items) == "b" and "cuts: 1/2" in stream.getvalue()
    assert list(items) == [] and stream.getvalue().count("cuts: 2/2") == 1


def test_without_progress_items_are_just_there():
    assert list(count_progress(None, "cuts", [1, 2])) == [1, 2]


def test_what_takes_no_time_says_nothing():
    stream = io.StringIO()
    assert list(count_progress(StreamProgress(stream), "cuts", [1, 2])) == [1, 2]
    assert stream.getvalue() == ""
