"""Answers of a board, a worker and its device side, mutated: taken, or told in one line; nothing of them is believed."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import types
from dataclasses import asdict, fields

import numpy as np
import pytest

from deploy.board import install
from deploy.board.answers import ANSWERS as OF_AGENTS
from deploy.board.link import Link
from deploy.board.relay import Relay
from deploy.devices import DeviceError, commands
from deploy.devices.base import CompletedCommand
from deploy.devices.ssh import SSH
from deploy.engines.base import BuildPlan, EngineError
from deploy.measure.conditions import Conditions
from deploy.measure.load import Load
from deploy.measure.path_times import PathTimes
from deploy.measure.timing import Times
from deploy.shipping import ship
from deploy.worker.answers import ANSWERS, RECORDS
from deploy.worker.client import RemoteWorker
from deploy.worker.server import REQUESTS, Worker
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes, mutated_table

RAW = (
    b"", b"\n", b"hello\n", b"[" * 100_000 + b"\n", b'{"ok": ', b"\xff\xfe\n", b"null\n", b"[]\n",
    b'{"ok": null}\n', b'{"error": 5}\n',
    b'{"error": "", "kind": "user"}\n', b'{"error": "a\\nb", "kind": "engine"}\n', b'{"ok": {}, "error": []}\n', b"1e999\n",
    b'{"ok": NaN}\n', b'{"ok": 1' + b"0" * 5000 + b"}\n",
)  # fmt: skip


def mutated_line(answer, rnd):
    choice = rnd.random()
    if choice < 0.1:
        return rnd.choice(RAW)
    line = json.dumps({"ok": answer}).encode() + b"\n"
    if choice < 0.3:
        return mutated_bytes(line, rnd)
    return json.dumps(mutated_table({"ok": answer}, rnd)).encode() + b"\n"


class Said:
    """A process that has said ``content``, takes anything and has ended."""

    def __init__(self, content, *, text):
        reading, writing = os.pipe()
        threading.Thread(target=self._say, args=(writing, content), daemon=True).start()
        self.stdout = open(reading, encoding="utf-8", errors="replace") if text else open(reading, "rb")
        self.stdin = open(os.devnull, "w" if text else "wb")
        self.stderr = io.StringIO("") if text else io.BytesIO(b"")
        self.pid, self.returncode = 0, 0

    @staticmethod
    def _say(writing, content):
        with contextlib.suppress(BrokenPipeError), open(writing, "wb") as pipe:
            pipe.write(content)

    def wait(self, timeout=None):
        return 0

    def poll(self):
        return 0

    kill = terminate = lambda self: None


LATER = asdict(Times([0.1, 0.2], [], [2], Load(wall_s=0.1)))
PLAN = BuildPlan(engine="onnxruntime", precision="fp32", batch=1, threads=1, version="1")
WORKER = {
    "facts": (Worker().facts(), lambda worker, folder: worker.facts()),
    "build": ({"seconds": 1.0, "size_bytes": 5}, lambda worker, folder: worker.build(folder / "m", PLAN, folder / "e")),
    "open": (
        {"inputs": [{"name": "x", "shape": [1, 3], "dtype": "float32"}], "batch": 1, "threads": 1, "load_ms": 1.0},
        lambda worker, folder: worker.open(folder)["inputs"][0]["name"],
    ),
    "infer": ({"samples": 1}, lambda worker, folder: worker.infer({"x": np.ones(3)})),
    "warm": ({"first_ms": 1.0}, lambda worker, folder: worker.warm({"x": np.ones(3)}) + 1),
    "describe": ({"samples": 3}, lambda worker, folder: worker.describe(folder)),
    "time_path": (
        {"rows": [[0.1, 0.2, 0.1, 0.4]] * 3},
        lambda worker, folder: PathTimes(blocks=[worker.time_path(0.1)] * 3).summary(),
    ),
    "peak": ({"peak_mib": None}, lambda worker, folder: worker.peak_mib()),
    "time": (LATER, lambda worker, folder: worker.time(0.1).append_block(Times([0.1])).medians()),
    "time_models": (
        {"least_ms": [0.1], "p50_ms": [0.2], "passes_ms": [[0.2]]},
        lambda worker, folder: worker.time_models([folder / "m"], PLAN, 0.1, 1)[0][0] + 1,
    ),
    "conditions": (Conditions(temperatures_c={"a": 50.0}).as_json(), lambda worker, folder: worker.conditions().hottest_c),
    "look": (asdict(Load(wall_s=1.0)), lambda worker, folder: (worker.look(1.0) + Load()).doubts()),
    "cool": ({"waited_s": 1.0}, lambda worker, folder: worker.cool(50.0, 1.0) + 1),
    "energy": ({"mj": 5.0}, lambda worker, folder: worker.energy_mj(1.0)),
}


class Board:
    """A device whose worker has said something."""

    url = "ssh://board"

    def __init__(self, content):
        self._content = content

    def start_worker(self):
        return Said(self._content, text=True)

    def put(self, local):
        return "/there"

    def path(self, local):
        return "/there"

    def forget(self, remote):
        pass

    def get(self, remote, local):
        if local.suffix == ".npz":
            np.savez(local, y=np.ones(2))


@pytest.mark.parametrize("name", WORKER)
def test_workers(name, tmp_path):
    answer, ask = WORKER[name]
    rnd = generator(f"worker {name}")

    def read(content):
        with RemoteWorker(Board(content)) as worker:
            try:
                ask(worker, tmp_path)
            except RuntimeError as error:  # what the board calls a bug of its own
                if type(error) is not RuntimeError:
                    raise

    assert check(read, json.dumps({"ok": answer}).encode() + b"\n") == ()
    for content in RAW:
        check(read, content, allowed=(EngineError, DeviceError))
    for _ in range(inputs(40)):
        faults = check(read, mutated_line(answer, rnd), allowed=(EngineError, DeviceError))
        assert all(len(fault) < 3000 for fault in faults)


def test_every_answer_is_checked_and_all_fields_of_records_are_known():
    assert set(ANSWERS) == set(REQUESTS) and set(REQUESTS) - {"lock_clocks"} == set(WORKER)
    assert all({field.name for field in fields(record)} == set(known) for record, known in RECORDS.items())


STATUS = {
    "root": "/r", "size_bytes": {"work": 5}, "free_bytes": 7, "python": "p", "system": "s",
    "code": ["a"], "lock": None, "jobs": [],
}  # fmt: skip
DIGEST = "0" * 64
GREETING = b'{"edge-compress-agent": 1}\n'
AGENT = {
    "missing": ({DIGEST: 0}, lambda board, folder: board.put(folder / "given")),
    "tree": ("/root/trees/x", lambda board, folder: board.put(folder / "given")),
    "work": ("/home/board/x", lambda board, folder: board.path(folder / "given")),
    "run": ({"code": 0, "stdout": "a", "stderr": ""}, lambda board, folder: board.run(["true"])),
    "status": (STATUS, lambda board, folder: shown(board.status())),
    "listing": ([{"path": "a/b", "size": 1, "sha256": DIGEST}], lambda board, folder: board.get("/r", folder / "here")),
    "start": ("/root/jobs/1", lambda board, folder: board.start_worker().kill()),
}


def shown(state):
    from compress.cli.device import _lines

    return "\n".join(_lines(state))


@pytest.mark.parametrize("name", AGENT)
def test_agents(name, tmp_path, monkeypatch):
    from deploy.board import agent

    started = types.SimpleNamespace(PIPE=-1, Popen=lambda *_, **__: types.SimpleNamespace(kill=lambda: None))
    monkeypatch.setattr("deploy.devices.ssh.subprocess", started)
    monkeypatch.setattr("deploy.devices.ssh.SharedConnection.command", lambda self, words: ["ssh", words])
    greeting = json.dumps({agent.GREETING: agent.VERSION}).encode() + b"\n"
    (tmp_path / "given").write_bytes(b"abc")
    answer, ask = AGENT[name]
    first = {"run": STATUS}.get(name)
    rnd = generator(f"agent {name}")

    def read(content):
        before = b"" if first is None else json.dumps({"ok": first}).encode() + b"\n"
        if name == "tree":
            before = b'{"ok": {}}\n'
        board = SSH("ssh://board")
        link = Link(lambda: Said(greeting + before + content, text=False), board._raise_if_final, patience_s=-1.0)
        board._link, board._holds = link, True
        board._contact = install.ProbeResult(root="/r", arch="x", interpreters=(HERE,), code=())
        board._code = "/r/code/x"
        try:
            ask(board, tmp_path)
        finally:
            board._holds = False
            board.close()

    monkeypatch.setattr("deploy.board.link.time.sleep", lambda _: None)
    good = check(read, json.dumps({"ok": answer}).encode() + b"\n", allowed=(DeviceError,))
    assert good == () or name in ("missing", "listing"), "files follow"
    for content in RAW:
        check(read, content, allowed=(DeviceError,))
    for _ in range(inputs(40)):
        check(read, mutated_line(answer, rnd), allowed=(DeviceError,))
    assert set(OF_AGENTS) <= set(AGENT)


HERE = install.Interpreter(
    executable=sys.executable, version=(3, 11), arch="x", modules={"onnxruntime": True}, numpy="1", fault=""
)
PROBE = (
    "edge-compress-root /home/u/.edge\nedge-compress-arch aarch64\nedge-compress-code abc\nedge-compress-probe "
    + json.dumps({"executable": "/p", "version": [3, 11], "arch": "aarch64", "modules": {"onnxruntime": True}, "numpy": "1"})
    + "\n"
).encode()


def test_first_words_of_boards():
    rnd = generator("probe")

    def read(content):
        found = install.parse_probe(content.decode(errors="replace"))
        install.choose_interpreter(found, "ssh://board", None)

    assert check(read, PROBE) == ()
    for _ in range(inputs(150)):
        check(read, mutated_bytes(PROBE, rnd), allowed=(install.ProbeError,))


RELEASE = {
    "name": "m", "release": "r", "was": None, "version": 3,
    "proof": {"engine": "e", "precision": "fp32", "runtime_version": "1",
              "golden": {"cosine": 1.0, "samples": 2}, "p50_ms": 1.0, "reference_ms": None},
}  # fmt: skip
STORE = {
    "install": RELEASE,
    "offer": {"missing": [{"sha256": DIGEST, "size_bytes": 5, "have_bytes": 0}], "was": None, "trusted": None},
    "status": {
        "models": [{"name": "m", "release": "r", "previous": None, "fault": None, **RELEASE, "since": 5}],
        "keys": ["a"],
        "faults": [],
    },
}


@pytest.mark.parametrize("name", STORE)
def test_device_sides(name):
    rnd = generator(f"store {name}")

    def read(content, code=0):
        there = types.SimpleNamespace(
            url="ssh://board",
            deploy_command=lambda: ["python", "-m", "deploy"],
            run=lambda *_, **__: CompletedCommand(code=code, stdout=content.decode(errors="replace"), stderr="words"),
        )
        ship._request(there, name, {}, ship.ShipOptions(wait_s=-1.0))

    failed = (ship.FailedError, ship.RefusedError)
    assert check(read, json.dumps({"ok": STORE[name]}).encode()) == ()
    for _ in range(inputs(60)):
        check(read, mutated_line(STORE[name], rnd), allowed=failed)
        error = {"error": "refused", "reasons": ["a"], "serving": {"m": 3}}
        check(read, json.dumps(mutated_table(error, rnd)).encode(), 5, allowed=failed)


def test_supervisors(monkeypatch, capfd):
    rnd = generator("relay")
    said = [{"taken": 0}, {"n": 0, "out": "hello\n"}, {"n": 1, "err": "words\n"}, {"n": 2, "exit": 0}]

    def run(content):
        monkeypatch.setattr("deploy.board.relay.subprocess.Popen", lambda *_, **__: Said(content, text=False))
        monkeypatch.setattr("deploy.board.relay.time.sleep", lambda _: None)
        monkeypatch.setattr(Relay, "_read_input", lambda self: None)
        monkeypatch.setattr("deploy.board.relay.signal.signal", lambda *_: None)
        return Relay(["attach"], -1.0).run()

    def lines(messages):
        return b"".join(json.dumps(message).encode() + b"\n" for message in messages)

    assert run(lines(said)) == 0
    for _ in range(inputs(40)):
        mutated = mutated_table({"said": said}, rnd).get("said")
        content = lines(mutated) if isinstance(mutated, list) and rnd.random() < 0.7 else mutated_bytes(lines(said), rnd)
        code = run(content)
        assert isinstance(code, int)
    assert "hello" in capfd.readouterr().out


def test_a_board_that_says_no_end_of_anything_is_told():
    with pytest.raises(DeviceError, match="says more than"):
        commands.run(["cat", "/dev/zero"], b"", 60.0)
    with pytest.raises(subprocess.TimeoutExpired):
        commands.run(["sleep", "60"], b"", 0.2)
    assert commands.run(["cat"], b"given" * 100_000, 60.0).stdout == b"given" * 100_000
