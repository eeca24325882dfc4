"""Kills at random moments of ships, benches and runs against a board on this machine: ``python -m tests.bench.kills``.

The board is one that ``sshd`` on loopback gives (a chroot, an emulator or this machine itself), so that its processes are
seen from here. Each round starts a command, kills its host process, a process of ours on the board or the connection,
looks at what is left, and gives the command again: nothing may be lost, the old model is served, the second go succeeds.

    EDGE_SSH_CONFIG=FILE python -m tests.bench.kills URL PROFILE ARCH BOARD_ROOT ROUNDS [SEED]
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from compress.pipeline import signing_keys
from tests.deploy.bundles import bundle
from tests.deploy.tiny import tiny_onnx

LONGEST_S = 900.0
RECIPE = """
[task]
data = "tests.conftest:blob_splits"
[teacher]
model = "compress.models:resnet"
arguments = { blocks = 1, width = 0.5, in_channels = 1, classes = 4 }
epochs = 1
batch_size = 32
[student]
from = "teacher"
[measure]
seconds = 0.05
gate_seconds = 0.05
[budget]
accuracy_drop_points = 100.0
[[stage]]
use = "quantize"
epochs = 1
batch_size = 32
"""


class Trial:
    """A board with a root and a store of our own, and the commands that are given."""

    def __init__(self, folder: Path, url: str, profile: str, arch: str, board: Path, draw: random.Random) -> None:
        self.folder, self.draw, self.profile, self.arch = folder, draw, profile, arch
        self.mark = f"/tmp/kills-{os.getpid()}"
        self.url, self.store = f"{url}{'&' if '?' in url else '?'}root={self.mark}/root", f"{self.mark}/store"
        self.board = board
        places = {"EDGE_KEYS": "keys", "COMPRESS_STEPS": "steps", "XDG_CONFIG_HOME": "home"}
        os.environ |= {name: str(folder / place) for name, place in places.items()} | {"COMPRESS_QUIET_SECONDS": "0"}
        self.key = signing_keys.new("default")
        self.version = 0
        self.seconds = {"ship": 20.0, "bench": 20.0, "run": 60.0}
        tiny_onnx(folder / "m.onnx")
        (folder / "tiny.toml").write_text(RECIPE)

    def command(self, kind: str) -> list[str]:
        """The words of a command; each ship is of a new version."""
        there = f"{self.profile}@{self.url}"
        if kind == "ship":
            return ["ship", str(self.folder / "b"), "--device", self.url, "--root", self.store, "--latency-tolerance", "0"]
        if kind == "bench":
            return ["bench", str(self.folder / "m.onnx"), "--device", there, "--engine", "onnxruntime", "--seconds", "0.2"]
        return ["run", str(self.folder / "tiny.toml"), "--device", there, "--out", str(self.folder / "out")]

    def prepare(self, kind: str) -> None:
        if kind == "ship":
            self.version += 1
            extra = self.folder / "extra"
            extra.write_bytes(self.draw.randbytes(400_000))
            options = {"extras": {"extra.bin": extra}, "arch": self.arch}
            bundle(self.folder / "b", seed=self.version, key=self.key, version=self.version, **options)
        if kind == "run" and self.draw.random() < 0.5:  # the board's part anew, the training kept
            for step in (self.folder / "steps").glob("*"):
                if step.name.startswith(("bench", "built", "race", "accuracy", "evaluate", "parity")):
                    subprocess.run(["rm", "-rf", str(step)], check=True)

    def start(self, kind: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "log").open("wb")
        return subprocess.Popen(
            [sys.executable, "-m", "compress", *self.command(kind)],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def ours(self) -> Iterator[tuple[psutil.Process, bool]]:
        """Processes that name our folder on the board, and whether each is a client of ssh here."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if any(self.mark in word for word in words) and process.pid != os.getpid():
                    yield process, Path(words[0]).name == "ssh"

    def strike(self, host: subprocess.Popen[bytes], how: str) -> str:
        """Kill something; say what."""
        if how == "host":
            os.killpg(host.pid, signal.SIGKILL)
            return "host"
        wanted = [p for p, is_ssh in self.ours() if is_ssh == (how == "line") and "compress" not in p.cmdline()]
        if not wanted:
            return f"{how}: nothing there"
        victim = self.draw.choice(wanted)
        words = " ".join(victim.cmdline()[:14])[:110].replace("\n", " ")
        with contextlib.suppress(psutil.Error):
            victim.kill()
        return f"{how}: {words}"

    def faults(self) -> list[str]:
        """What of the board's files is not as it should be, seen in its file system."""
        found = []
        root, store = (self.board / name.lstrip("/") for name in (f"{self.mark}/root", self.store))
        for blob in (root / "blobs").glob("*"):
            if hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name:
                found.append(f"blob {blob.name[:8]} is damaged")
        for tree in (root / "trees").glob("*.json"):
            names = json.loads(tree.read_text()) if tree.stat().st_size else {}
            folder = tree.with_suffix("")
            for name, digest in names.items() if folder.is_dir() else ():
                if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                    found.append(f"tree {tree.stem[:8]}: {name} is damaged")
        for slot in (store / "models").glob("*"):
            if not (slot / "current").exists() and (slot / "history.json").exists():
                found.append("nothing is served")
        return found

    def served(self) -> tuple[int | None, str]:
        """The version that the board serves by its own word, and its fault."""
        words = ["status", "--device", self.url, "--root", self.store, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "compress", *words], capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
        if done.returncode:
            return None, done.stderr[-300:]
        models = json.loads(done.stdout)[0]["models"] if done.stdout.startswith("[") else json.loads(done.stdout)["models"]
        return (models[0]["version"], models[0]["fault"] or "") if models else (0, "")

    def run(self, kind: str) -> tuple[int, float, str]:
        """Give a command to its end: exit code, seconds, last words."""
        began, host = time.monotonic(), self.start(kind)
        try:
            code = host.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(host.pid, signal.SIGKILL)
            host.wait()
            code = -99
        return code, time.monotonic() - began, (self.folder / "log").read_text(errors="replace")


def round_of(trial: Trial, kind: str) -> tuple[str, list[str]]:
    """One kill and the go after it: what was struck, and what was lost."""
    trial.prepare(kind)
    how = trial.draw.choice(["host", "board", "board", "line"])
    host = trial.start(kind)
    with contextlib.suppress(subprocess.TimeoutExpired):
        host.wait(trial.draw.uniform(0.05, 0.85) * trial.seconds[kind])
    struck = trial.strike(host, how) if host.poll() is None else f"{how}: it had ended"
    lost = []
    try:
        code = host.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        os.killpg(host.pid, signal.SIGKILL)
        code = host.wait()
        lost.append("it hangs")
    words = (trial.folder / "log").read_text(errors="replace")
    if "Traceback" in words:
        lost.append("a traceback")
        (trial.folder / f"traceback-{time.time():.0f}").write_text(words)
    lost += trial.faults()
    if kind == "ship":
        version, fault = trial.served()
        if fault or version not in (trial.version - 1, trial.version):
            lost.append(f"serves {version} of {trial.version}: {fault}")
    again, seconds, words = trial.run(kind)
    if again not in (0, 3):
        lost.append(f"the second go ends with {again}: {words[-400:]}")
    else:
        trial.seconds[kind] = seconds
    if kind == "ship":
        version, fault = trial.served()
        if fault or version != trial.version:
            lost.append(f"serves {version} after the second go: {fault}")
    lost += trial.faults()
    return f"{kind} {struck} (first {code}, second {again} in {seconds:.0f} s)", lost


def main(url: str, profile: str, arch: str, board: str, rounds: str, seed: str = "1") -> int:
    draw = random.Random(int(seed))
    counts: Counter[str] = Counter()
    losses = 0
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(Path(scratch), url, profile, arch, Path(board), draw)
        for kind in ("ship", "bench", "run"):
            trial.prepare(kind)
            code, trial.seconds[kind], words = trial.run(kind)
            print(f"whole {kind}: {code} in {trial.seconds[kind]:.0f} s", flush=True)
            if code not in (0, 3):
                print(words[-2000:])
                return 1
        for number in range(int(rounds)):
            kind = draw.choice(["ship", "ship", "bench", "run"])
            struck, lost = round_of(trial, kind)
            is_hit = "nothing there" not in struck and "had ended" not in struck
            counts[f"{kind}, {struck.split()[1].rstrip(':')}" if is_hit else "not struck"] += 1
            losses += bool(lost)
            print(f"{number + 1}: {struck}" + (f"  LOST {lost}" if lost else ""), flush=True)
        for kept in Path(scratch).glob("traceback-*"):
            print(kept.read_text()[-3000:])
        subprocess.run([sys.executable, "-m", "compress", "device", "clean", "--device", trial.url], check=False)
    print(json.dumps({"kills": dict(counts), "rounds with a loss": losses}))
    return losses > 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
