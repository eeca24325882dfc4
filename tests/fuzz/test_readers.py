"""The list of readers is whole, and what it names is there."""

import ast

import pytest

from tests.fuzz.readers import ELSEWHERE, FUZZED, NOT_FUZZED, NOT_SEEN, ROOT, find_readers

LISTED = [reader for table in (FUZZED, ELSEWHERE, NOT_FUZZED) for readers in table.values() for reader in readers]


def test_every_reader_has_a_target_or_a_reason():
    found = set(find_readers())
    assert len(LISTED) == len(set(LISTED))
    assert sorted(found - set(LISTED)) == [], "give it a target in tests/fuzz, or a reason, in readers.py"
    assert sorted(set(LISTED) - found) == [], "gone: take it out of readers.py"
    assert set(LISTED) >= NOT_SEEN


@pytest.mark.parametrize("target", [*(f"fuzz/{each}" for each in FUZZED), *ELSEWHERE])
def test_the_target_is_there(target):
    file, _, name = target.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    assert not name or name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
