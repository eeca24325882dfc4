"""Follows CONTRIBUTING.md in a copy of the product, line by line, and holds what comes out to the contracts."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(r"```(?:python|toml)\n(.*?)```", re.DOTALL)
LINE = re.compile(r"And a line in `(\w+)` of `([\w./]+)`:\n\n```python\n(.*?)\n```", re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The four packages and the tests, with everything CONTRIBUTING says added."""
    folder = tmp_path_factory.mktemp("copy")
    for package in ("compress", "deploy", "calib", "profiles", "tests"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for block in BLOCK.findall(text):
        if path := re.match(r"# ((?:compress|deploy|profiles)/[\w./-]+)\n", block):
            (folder / path.group(1)).write_text(block[path.end() :])
    for table, path, line in LINE.findall(text):
        source = (folder / path).read_text()
        (folder / path).write_text(re.sub(rf"({table}: dict\[str, str\] = {{\n)", rf"\1{line}\n", source))
    return folder


def call(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        ("losses", ["margin         Mean distance of the two largest logits' gap"]),
        ("stages", ["round_weights: Round every weight"]),
        ("engines", ["reference", "deflated"]),
        ("profiles", ["odd-board               a board of our own"]),
    ],
)
def test_what_was_added_is_listed(copy, listing, words):
    done = call(copy, "-m", "compress", listing)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words)


@pytest.mark.slow
def test_what_was_added_keeps_the_contracts(copy):
    quick = (
        (copy / "tests/contracts/test_stages.py").read_text().replace("QUICK = {\n", 'QUICK = {\n    "round_weights": {},\n')
    )
    (copy / "tests/contracts/test_stages.py").write_text(quick)
    engines = "(build_open and (reference or deflated))"
    chosen = f"round_weights or each_entry or each_file or losses_read or {engines} or every_profile"
    done = call(
        copy, "-m", "pytest", "tests/contracts", "tests/deploy/worker/test_client.py", "tests/profiles", "-k", chosen
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.findall(r"(\d+) passed", done.stdout + " 0 passed")[0])
    assert passed >= 18


def test_a_recipe_can_use_what_was_added(copy):
    (copy / "r.toml").write_text(
        """
[task]
data = "digits"
[teacher]
model = "compress.models:resnet20"
[[stage]]
use = "round_weights"
bits = 5
[[stage]]
use = "distill"
losses = ["task", { use = "margin", power = 1.0 }]
"""
    )
    done = call(copy, "-m", "compress", "run", "r.toml", "--device", "odd-board", "--dry-run")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["recipe"]["stages"][0] == {"use": "round_weights", "bits": 5}
    assert plan["recipe"]["stages"][1]["losses"][1]["options"] == {"power": 1.0}
    assert plan["device"]["channel_multiple"] == 4
