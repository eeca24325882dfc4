"""docs/methods.md: a row for each paper, the losses that there are and no others, tests that exist."""

import re

from compress.losses import LOSSES
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "methods.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]
PAPERS = [row for row in ROWS if len(row) == 5]
STATES = {"built", "partly", "planned", "not for this product"}


def test_a_row_for_each_of_the_76_papers():
    assert [int(row[0]) for row in PAPERS] == list(range(1, 77))
    assert {row[2] for row in PAPERS} == STATES


def test_what_is_not_wholly_built_says_what_is_missing():
    assert all(row[4] for row in PAPERS if row[2] != "built")


def test_the_losses_named_are_the_losses_there_are():
    named = set(re.findall(r"`(\w+)`", " ".join(row[3] for row in PAPERS)))
    beside = set(re.findall(r"`(\w+)`", TEXT.partition("Beside the 76:")[2].partition("##")[0]))
    assert named | beside == set(LOSSES)
    assert all("`" in row[3] or "](../tests/" in row[4] for row in PAPERS if row[2] == "built")


def test_the_tests_named_exist():
    source = (ROOT / "tests" / "compress" / "losses" / "test_losses_known.py").read_text()
    named = re.findall(r"`(test_\w+)` \|", TEXT)
    assert len(named) == 5
    assert all(f"def {name}(" in source for name in named)
