"""docs/architecture.md walks through functions that are there."""

import importlib
import re

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs/architecture.md").read_text()
NAMES = sorted(set(re.findall(r"`((?:compress|deploy|calib|profiles)[\w.]*):([\w.]+)`", TEXT)))
FILES = sorted(set(re.findall(r"`((?:compress|deploy|calib|profiles)/[\w/]+\.py)`", TEXT)))


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda part: part)
def test_each_function_of_the_walk_is_there(module, name):
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)


def test_files_named_in_the_walk_are_there():
    assert NAMES and FILES
    assert [file for file in FILES if not (ROOT / file).is_file()] == []


def test_the_layers_are_those_of_the_contracts():
    contracts = (ROOT / "pyproject.toml").read_text()
    towers = re.findall(r"^    (compress|deploy)   +(.*)$", TEXT, re.MULTILINE)
    assert [name for name, _ in towers] == ["compress", "deploy"]
    for _, floors in towers:
        for floor in floors.split(" > "):
            assert f'"{floor}"' in contracts or f'"({floor})"' in contracts, floor
