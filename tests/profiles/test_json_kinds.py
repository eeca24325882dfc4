"""Kinds of values from elsewhere: each check against a table worked by hand, on every sort of value that JSON can hold."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import json_kinds as kinds

VALUES = {
    "null": None, "true": True, "-1": -1, "0": 0, "7": 7, "2^62": 2**62, "-2^62": -(2**62), "0.5": 0.5, "-0.5": -0.5,
    "nan": float("nan"), "inf": float("inf"), "10^400": 10**400, "text": "café", "lines": "a\nb", "nul": "a\0b",
    "half": "\ud800", "long": "x" * 1001, "list": [1], "table": {"a": 1},
}  # fmt: skip
TAKEN = {
    kinds.is_integer: {"-1", "0", "7", "2^62", "-2^62", "10^400"},
    kinds.is_count: {"0", "7"},
    kinds.is_finite: {"-1", "0", "7", "0.5", "-0.5"},
    kinds.is_number: {"0", "7", "0.5"},
    kinds.is_text: {"text", "lines", "nul", "half", "long"},
    kinds.is_argument: {"text", "lines", "long"},
    kinds.is_line: {"text"},
}


@pytest.mark.parametrize("check", TAKEN, ids=lambda check: check.__name__)
def test_each_takes_what_it_says(check):
    assert {name for name, value in VALUES.items() if check(value)} == TAKEN[check]


def test_made_of_others():
    counts, figures, row = kinds.every(kinds.is_count), kinds.table(kinds.is_finite), kinds.record({"a": kinds.is_count})
    assert kinds.optional(kinds.is_count)(None) and not kinds.optional(kinds.is_count)("")
    assert counts([]) and counts([0, 3]) and not counts([0, -3]) and not counts({0: 1}) and not counts("12")
    assert figures({"a": -0.5}) and not figures({"a": float("nan")}) and not figures([1.0])
    assert row({}) and row({"a": 1}) and not row({"a": -1}) and not row({"b": 1}) and not row([("a", 1)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=JSON)
def test_none_raises_and_what_is_taken_can_be_written_again(value):
    made = (kinds.optional, kinds.every, kinds.table, lambda check: kinds.record({"a": check}))
    for check in (*TAKEN, *itertools.starmap(lambda make, check: make(check), itertools.product(made, TAKEN))):
        assert check(value) in (True, False)
    if kinds.is_finite(value):
        assert json.loads(json.dumps(value)) == value
