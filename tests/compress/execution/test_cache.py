import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from compress.execution.cache import FACTS, MANIFEST, UNFINISHED, StepCache, digest, source_digest, step_fault
from profiles.errors import UserError
from tests.conftest import ROOT


def test_a_step_is_made_once(tmp_path, quiet):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("content")
        return {"answer": 42}

    for fresh in (True, False):
        cache = StepCache(tmp_path, quiet)
        step = cache.step("kind", {"a": 1}, make)
        assert (step.facts["answer"], (step.folder / "x").read_text()) == (42, "content")
        assert cache.asked == {step.key} and cache.made == ({step.key} if fresh else set())
    assert len(made) == 1


def test_what_decides_the_result_decides_the_key(tmp_path, quiet):
    space = StepCache(tmp_path, quiet)
    keys = {space.step("k", {"a": a, "b": b}, lambda f: None).key for a in (1, 2) for b in ([1], [2])}
    assert len(keys) == 4
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_a_step_that_fails_leaves_nothing_but_its_checkpoints(tmp_path, quiet):
    space = StepCache(tmp_path, quiet)

    def fails(folder):
        (folder / "half").write_text("made")
        (folder / UNFINISHED).mkdir()
        (folder / UNFINISHED / "checkpoint").write_text("kept")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        space.step("k", {}, fails)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"] == ["checkpoint"]

    def goes_on(folder):
        assert (folder / UNFINISHED / "checkpoint").read_text() == "kept"

    step = space.step("k", {}, goes_on)
    assert sorted(p.name for p in step.folder.iterdir()) == [MANIFEST, FACTS]


KILLED = """
import io, os, signal, sys
from pathlib import Path
from compress.execution.progress import StreamProgress
from compress.execution.cache import StepCache
def make(folder):
    (folder / "big").write_bytes(b"x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
StepCache(Path(sys.argv[1]), StreamProgress(io.StringIO())).step("k", {}, make)
"""


def test_killed_while_making_nothing_half_made_is_read(tmp_path, quiet):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    cache = StepCache(tmp_path, quiet)
    step = cache.step("k", {}, lambda folder: (folder / "big").write_text("whole") and None)
    assert cache.made == {step.key}
    assert (step.folder / "big").read_text() == "whole"


def _slow(root, log):
    from compress.execution.progress import StreamProgress

    def make(folder):
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.5)

    StepCache(root, StreamProgress(open(os.devnull, "w"))).step("k", {}, make)


def test_two_runs_at_once_make_it_once(tmp_path):
    log = tmp_path / "log"
    workers = [multiprocessing.Process(target=_slow, args=(tmp_path / "steps", log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert log.read_text() == "made\n"


FULL = """
import io, resource, signal, sys
from pathlib import Path
from compress.execution.progress import StreamProgress
from compress.execution.cache import StepCache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
space = StepCache(Path(sys.argv[1]), StreamProgress(io.StringIO()))
space.step("old", {}, lambda folder: (folder / "x").write_text("old") and None)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
import compress.cli.main as cli
def make(folder):
    (folder / "x").write_bytes(b"x" * 100_000)
cli.main.main = lambda **_: space.step("new", {}, make)
sys.exit(cli.entry([]))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_full_disk_keeps_old_steps_and_says_so_in_a_line(tmp_path, quiet):
    """A limit on file sizes makes the kernel refuse the write as a full disk does."""
    full = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert full.stderr.startswith("error: the disk is full")
    assert full.stderr.count("\n") == 1
    names = [p.name for p in tmp_path.iterdir() if p.is_dir()]
    assert [n.split("-")[0] for n in names] == ["old"]
    cache = StepCache(tmp_path, quiet)
    assert cache.step("old", {}, lambda folder: None) and not cache.made


def test_comments_and_docstrings_do_not_change_a_hash_and_code_does():
    one = 'def f(x):\n    """Doc."""\n    return x + 1\n'
    two = "# a comment\ndef f(x):\n    '''Other.'''\n\n    return (x + 1)\n"
    assert source_digest(one) == source_digest(two)
    assert source_digest(one) != source_digest(one.replace("+ 1", "+ 2"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path, quiet):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written to"):
        StepCache(tmp_path / "x", quiet)


def test_a_file_where_a_folder_is_wanted(tmp_path, quiet):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        StepCache(tmp_path / "file", quiet)
    with pytest.raises(UserError, match="inside a file"):
        StepCache(tmp_path / "file" / "below", quiet)


def test_facts_are_json(tmp_path, quiet):
    step = StepCache(tmp_path, quiet).step("k", {"x": 1}, lambda folder: {"y": 2})
    stored = json.loads((step.folder / FACTS).read_text())
    assert stored["decided_by"] == {"x": 1}
    assert stored["facts"] == {"y": 2}


CONTENT = {"model.safetensors": bytes(range(256)) * 40, "engine/model.bin": b"e" * 3000, "notes.txt": b"short"}


def make_files(folder):
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return {"answer": 42}


def damage(folder, random):
    """Damage one file of a step as disks, editors and people do; returns how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, other = random.sample(files, 2)
    content = path.read_bytes()
    kind = random.choice(["bit", "cut", "empty", "missing", "swapped", "longer", "folder", "text"])
    if kind == "bit":
        at = random.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :])
    elif kind == "swapped":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind in ("missing", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "longer": content + b"x", "text": b"{}"}[kind])
    return f"{kind} {path.name}"


def test_a_step_damaged_anywhere_is_named_set_aside_and_made_anew(tmp_path, quiet, monkeypatch):
    """Fifty damages; never another content, never a traceback. What lies beside a step does no harm."""
    said, made = [], []
    monkeypatch.setattr(quiet, "say", said.append, raising=False)

    def make(folder):
        made.append(folder)
        return make_files(folder)

    whole = StepCache(tmp_path, quiet).step("kind", {"a": 1}, make).folder
    for number in range(50):
        how = damage(whole, random.Random(number))
        step = StepCache(tmp_path, quiet).step("kind", {"a": 1}, make)
        assert {name: (step.folder / name).read_bytes() for name in CONTENT} == CONTENT, how
        assert step.facts == {"answer": 42} and step_fault(step.folder) == ""
        assert len(made) == number + 2 and len(said) == number + 1, how
        assert whole.name in said[-1] and f"kept as {whole.name}.damaged-{number + 1}" in said[-1], how
        assert "\n" not in said[-1]
    (whole / "beside").write_text("x")
    StepCache(tmp_path, quiet).step("kind", {"a": 1}, make)
    assert len(made) == 51


def test_a_step_of_an_earlier_version_is_made_anew(tmp_path, quiet, monkeypatch):
    said = []
    monkeypatch.setattr(quiet, "say", said.append, raising=False)
    step = StepCache(tmp_path, quiet).step("kind", {}, make_files)
    (step.folder / MANIFEST).unlink()
    cache = StepCache(tmp_path, quiet)
    step = cache.step("kind", {}, make_files)
    assert cache.made == {step.key}
    assert "it has no manifest.json" in said[0]


def test_a_step_is_checked_once_in_a_run(tmp_path, quiet, monkeypatch):
    StepCache(tmp_path, quiet).step("kind", {}, make_files)
    checked = []
    monkeypatch.setattr("compress.execution.cache.step_fault", lambda folder: checked.append(folder) or "")
    cache = StepCache(tmp_path, quiet)
    for _ in range(3):
        assert cache.step("kind", {}, make_files) and not cache.made
    assert len(checked) == 1 and cache.seconds_checking >= 0
