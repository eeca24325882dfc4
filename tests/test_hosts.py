"""Windows and macOS as hosts: nothing of POSIX alone is needed to import, plan and look; a reader that cannot fork reads."""

import json
import os
import subprocess
import sys
import time

import pytest

from deploy.files import confined
from deploy.files.confined import ConfinedError, Limits, python_environment
from deploy.measure import load
from tests.conftest import ROOT, SMALL_RECIPE

LIMITS = Limits(memory_bytes=2**30, cpu_s=10, wall_s=30.0)


def test_everything_is_imported_and_plans_where_posix_is_missing(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL_RECIPE.format(epochs=1, budget=5.0))
    command = [sys.executable, str(ROOT / "tests/without_posix.py"), "run", str(tmp_path / "small.toml"), "--dry-run"]
    environment = {**python_environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "+", "doctor", "+", "profiles"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert int(lines[0].split()[1]) > 400, "modules"
    assert [line for line in lines if ": exit " in line] == [
        f"run {tmp_path / 'small.toml'} --dry-run: exit 0",
        "doctor: exit 0",
        "profiles: exit 0",
    ]


READER = """
import os
from pathlib import Path

def read(path):
    if path == "leave":
        os._exit(5)
    return "x" * (2**22 + 1) if path == "chatter" else Path(path).read_text()
"""


def test_a_reader_that_cannot_fork_answers_from_a_process_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "a_reader.py").write_text(READER)
    monkeypatch.delattr(os, "fork")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT), *sys.path])

    def read(path):
        return confined.call("a_reader:read", {"path": path}, LIMITS)

    assert read(str(tmp_path / "a_reader.py")) == READER
    with pytest.raises(OSError, match="No such file"):
        read(str(tmp_path / "none"))
    with pytest.raises(ConfinedError, match=r"ends the process that reads it \(exit 5\)"):
        read("leave")
    with pytest.raises(ConfinedError, match="says more than 4,194,304 bytes of itself"):
        read("chatter")


def test_a_load_that_the_system_does_not_count_is_unknown_and_no_doubt(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    before = load.read_usage()
    assert before.interruptions is None and 0 < before.own_s <= time.process_time()
    after = load.read_usage()
    between = load.load_between(before, after)
    assert between.interruptions is None
    assert (between + load.Load(wall_s=1, interruptions=7)).interruptions == 7
    assert load.Load(wall_s=1.0, interruptions=None).doubts() == ()
    assert json.loads(json.dumps({"interruptions": between.interruptions})) == {"interruptions": None}
