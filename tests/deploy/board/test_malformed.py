"""Requests that are none: one error each, and the process that answers goes on."""

import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest

from deploy.board.agent import Agent
from deploy.board.wire import Wire
from tests.conftest import HANG_S

DIGEST = hashlib.sha256(b"abcd").hexdigest()
REQUESTS = [
    {"do": "missing", "digests": [DIGEST]},
    {"do": "finish", "digest": DIGEST},
    {"do": "tree", "entries": {"a": DIGEST}},
    {"do": "listing", "path": "/proc/self"},
    {"do": "read", "path": "/etc/hostname", "offset": 0},
    {"do": "forget", "path": "/nowhere/x"},
    {"do": "work", "name": "x"},
    {"do": "start", "command": ["true"], "grace_s": 1.5},
    {"do": "append", "digest": DIGEST, "offset": 0, "size": 4},
    {"do": "run", "arguments": ["true"], "timeout_s": 5.5},
]
VALUES = [None, True, -1, 0.5, 10**30, float("nan"), "", "\0", "../../x", [], [5], ["\0"], {}, {"a": 1}, [[[]]]]


def malformed():
    """Lines, each of which is wrong in one way."""
    for request in REQUESTS:
        for field in [name for name in request if name != "do"]:
            kind = type(request[field])
            yield from ({**request, field: value} for value in VALUES if not isinstance(value, kind) and value != {})
            yield {name: value for name, value in request.items() if name != field}
        yield {**request, "more": 1}
    yield from ({"do": value} for value in [*VALUES, "x", "__init__", "serve", "_run", "do"])
    yield from ({**REQUESTS[0], "digests": value} for value in ([5], [None], [[DIGEST]]))
    yield from ({**REQUESTS[2], "entries": value} for value in ({"a": 1}, {"a": [DIGEST]}, {"a": None}))
    yield from ({**REQUESTS[9], "arguments": value} for value in ([], ["\0"], [5], [["true"]]))
    yield from ([], 5, "text", None, {}, {"a": 1}, {"do": "status", "x": 1}, {"do": "lock", "instead_of": 3})


LINES = [json.dumps(request).encode() for request in malformed()]
RAW = [
    b"hello",
    b"\xff\xfe",
    b"{",
    b'{"do":',
    b"[" * 100_000,
    b"\0" * 20,
    b'{"do": "status"',
    b"1e999e",
    b"",
    b"\xe2\x28\xa1",
]


def conversation(root, data):
    """All answers of an agent to the bytes ``data``, less its greeting."""
    to_agent, here = os.pipe()
    back, from_agent = os.pipe()

    def feed():
        view = memoryview(data)
        while view:
            view = view[os.write(here, view[:65536]) :]
        os.close(here)

    received = []

    def drain():
        while chunk := os.read(back, 65536):
            received.append(chunk)

    threads = [threading.Thread(target=target, daemon=True) for target in (feed, drain)]
    for thread in threads:
        thread.start()
    Agent(root, root, "owner", "who", Wire(to_agent, from_agent, HANG_S)).serve()
    os.close(from_agent)
    for thread in threads:
        thread.join(HANG_S)
    os.close(to_agent)
    os.close(back)
    return [json.loads(line) for line in b"".join(received).splitlines()][1:]


def test_an_agent_answers_each_malformed_request_with_one_error(tmp_path, capfd):
    assert len(LINES) + len(RAW) > 200
    kept = [line for line in [*LINES, *RAW] if json_do(line) not in ("append", "run")]
    answers = conversation(tmp_path / "root", b"".join(line + b"\n" for line in kept) + b'{"do": "work", "name": "last"}\n')
    assert len(answers) == len(kept) + 1
    assert all(set(answer) == {"error", "kind"} and len(answer["error"]) < 600 for answer in answers[:-1])
    assert "ok" in answers[-1], "and goes on"
    assert "Traceback" not in capfd.readouterr().err


def test_where_a_file_would_follow_an_agent_answers_once_and_hangs_up(tmp_path):
    for line in LINES:
        if json_do(line) in ("append", "run"):
            (answer,) = conversation(tmp_path / "root", line + b"\n00000004abcd00000000")
            assert answer["kind"] == "request"
    append = json.dumps({"do": "append", "digest": DIGEST, "offset": 0, "size": 4}).encode()
    for header in (b"-0000001", b"0x000004", b"0000_004", b"zzzzzzzz", b"ffffffff", b"+0000004", b" 0000004"):
        (answer,) = conversation(tmp_path / "root", append + b"\n" + header + b"abcd00000000")
        assert answer == {"error": "what came is no chunk of a file", "kind": "request"}


def json_do(line):
    try:
        return json.loads(line)["do"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def test_a_worker_answers_each_malformed_request_with_one_error(tmp_path):
    requests = [{"do": "open"}, {"do": "open", "folder": "/x", "more": 1}, {"do": "build", "model": 1}, {"do": "cool"}]
    requests += [{"do": name} for name in ("close", "_opened", "__init__", "__class__", "x", "", None, 5, ["facts"])]
    lines = [json.dumps(request).encode() for request in [*requests, [], 5, "t", None, {}]] + RAW
    script = b"".join(line + b"\n" for line in lines) + b'{"do": "conditions"}\n'
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "worker"],
        input=script,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=True,
        timeout=HANG_S,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines) + 1
    assert all(answer["kind"] == "user" and answer["error"].startswith("malformed request") for answer in answers[:-1])
    assert "ok" in answers[-1] and done.stderr == b""


@pytest.mark.parametrize(
    "line", [b"hello", b"[]", b'{"hello": "x"}', b'{"in": [], "text": 5}', b'{"in": 0, "text": 5}', b"\xff"]
)
def test_a_job_goes_on_when_a_client_speaks_another_language(line, tmp_path):
    """The client is dropped; the next one gets all that the job said."""
    import socket

    from tests.conftest import wait_until

    job = subprocess.Popen(
        [sys.executable, "-m", "deploy.board", "keep", str(tmp_path), str(tmp_path), "owner", "who", "20", "cat"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    try:
        wait_until(lambda: (tmp_path / "socket").exists())

        def connect():
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.settimeout(HANG_S)
            directory = os.open(tmp_path, os.O_RDONLY)
            client.connect(f"/proc/self/fd/{directory}/socket")
            os.close(directory)
            return client

        stranger = connect()
        stranger.sendall(line + b"\n")
        assert stranger.recv(1) == b"", "dropped"
        client = connect()
        client.sendall(b'{"hello": 0}\n{"in": 0, "text": "still here\\n"}\n')
        heard = b""
        while b"still here" not in heard:
            piece = client.recv(4096)
            assert piece, heard
            heard += piece
        client.sendall(b'{"kill": true}\n')
    finally:
        assert job.wait(HANG_S) == 0
