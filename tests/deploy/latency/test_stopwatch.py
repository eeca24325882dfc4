"""Kept times: what was measured is read back, what is damaged is not."""

from contextlib import contextmanager
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from deploy.latency.stopwatch import Stopwatch, Time, _entry, _line

TIME = Time(least_ms=0.125, p50_ms=0.25, passes_ms=(0.25, 0.5))


def test_a_kept_time_comes_back():
    assert _entry(_line("conv 3x3", TIME)) == ("conv 3x3", TIME)


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_line_is_no_time(at, bit):
    """One bit anywhere, so also in a figure: 0.125 must not be read as 0.165. A letter's case in the digest is no damage."""
    line = _line("conv 3x3", TIME).encode().rstrip(b"\n")
    at %= len(line)
    damaged = (line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :]).decode(errors="replace")
    assert _entry(damaged) in (None, ("conv 3x3", TIME))
    assert _entry(line.decode()[: at + 1] if at + 1 < len(line) else "") is None


def test_damaged_lines_are_named_and_taken_out_so_that_what_is_appended_is_whole(tmp_path):
    said = []
    watch = Stopwatch(SimpleNamespace(key="form"), tmp_path, say=said.append)
    kept = tmp_path / "form.jsonl"
    kept.write_text(_line("a", TIME) + _line("b", TIME).replace("0.125", "0.165") + _line("c", TIME) + _line("d", TIME)[:30])
    assert watch._cached() == {"a": TIME, "c": TIME}
    assert said == [f"  {kept}: damaged in line 2, 4; what stood there is timed again"]
    with kept.open("a") as file:
        file.write(_line("b", TIME))
    assert watch._cached() == {"a": TIME, "b": TIME, "c": TIME} and len(said) == 1


def test_how_far_a_measurement_is_is_shown(tmp_path, monkeypatch):
    """130 models, of which one is kept: 64, 64 and 1 more; nothing is opened where all are."""
    opened, counted = [], []

    @contextmanager
    def bar(total):
        opened.append(total)
        yield SimpleNamespace(advance=counted.append)

    watch = Stopwatch(SimpleNamespace(key="form"), tmp_path, bar)
    (tmp_path / "form.jsonl").write_text(_line("m0", TIME))
    monkeypatch.setattr(Stopwatch, "_timed", lambda self, models, passes: dict.fromkeys(models, TIME))
    assert len(watch.times({f"m{i}": None for i in range(130)})) == 130
    assert (opened, counted) == ([129], [64, 64, 1])
    watch.times({"m0": None})
    assert opened == [129]
