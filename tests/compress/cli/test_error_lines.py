"""Error lines: at most 500 characters each, printable, without a line break inside, whatever the fault holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.cli import main
from profiles.errors import MOST_LINE, OutOfReachError, UserError, one_line

LONG = "x" * 10_000
FAULTS = ["short", LONG, "two\nlines", "\x1b[2J\x07 bell", "\u2028 separator", f"head {LONG} tail", "\r\n\t a  b"]


@given(st.text(max_size=2_000))
def test_a_line_is_one_printable_line(text):
    line = one_line(text)
    assert len(line) <= MOST_LINE and line.isprintable() and one_line(line) == line


def test_a_long_line_keeps_its_beginning_and_its_remedy():
    line = one_line(f"no such model {LONG}; name one of a, b")
    assert line.startswith("no such model x") and line.endswith("x; name one of a, b") and " ... " in line
    assert one_line("a\n b") == "a b"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError(*FAULTS), 2),
        (OutOfReachError(*FAULTS), 3),
        (type("EngineError", (RuntimeError,), {})(LONG), 1),
        (OSError(28, f"{LONG} takes 3 MiB"), 1),
    ],
)
def test_whatever_is_raised_is_told_in_short_lines(error, code, monkeypatch, capsys):
    def fail(**settings):
        raise error

    monkeypatch.setattr(main.main, "main", fail)
    assert main.entry(["doctor"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (len(error.faults) if isinstance(error, UserError) else 1)
    assert all(line.startswith("error: ") and len(line) <= MOST_LINE and line.isprintable() for line in lines)


def test_an_option_that_is_long_is_told_in_one_short_line(capsys):
    assert main.entry([f"no{LONG}\nsuch"]) == 2
    assert all(len(line) <= MOST_LINE for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(
    "content", [b"garbage", b"", b"\0" * 100, b"<html><body>Not Found</body></html>", b"PK\3\4" + b"x" * 99]
)
@pytest.mark.parametrize("options", [[], ["--estimate", "--device", "raspberry-pi-5"]])
def test_a_file_that_is_no_onnx_file_is_the_users_fault(content, options, tmp_path, capsys):
    (tmp_path / "garbage.onnx").write_bytes(content)
    assert main.entry(["bench", str(tmp_path / "garbage.onnx"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not an ONNX file" in line
