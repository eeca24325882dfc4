"""SECURITY.md: each threat names a test that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
THREATS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `(tests/[\w/]+\.py)::(\w+)` \|$", TEXT, re.MULTILINE)


def test_every_row_of_the_threats_names_a_test():
    rows = TEXT.partition("## Threats")[2].partition("## ")[0].strip().splitlines()[2:]
    assert sum(row.startswith("|") for row in rows) == len(THREATS) >= 12


@pytest.mark.parametrize(("file", "name"), [row[2:] for row in THREATS])
def test_the_test_of_a_threat_exists(file, name):
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("who", ["a bundle's author", "a board", "a hub", "a checkpoint", "a recipe's plan", "another user"])
def test_every_party_is_there(who):
    assert any(row[0].startswith(who) for row in THREATS)


def test_files_that_check_are_there():
    table = TEXT.partition("| read |")[2].partition("## ")[0]
    named = re.findall(r"`([\w/]+(?:\.py|/))`", table)
    assert named
    assert all((ROOT / each).exists() for each in named)
