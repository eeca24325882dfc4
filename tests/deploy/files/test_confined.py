"""Readers in a process of their own: what hangs, eats memory or dies is told, and costs this process nothing."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from deploy.files import confined
from deploy.files.confined import ConfinedError, Limits, call, python_environment
from profiles.errors import UserError

HERE = "tests.deploy.files.test_confined"
LIMITS = Limits(memory_bytes=2**29, cpu_s=1, wall_s=600.0)
BRIEF = replace(LIMITS, wall_s=1.0)


def answer(value):
    return {"value": value, "process": os.getpid()}


def spin():
    while True:
        pass


def sleep():
    time.sleep(1000)


def eat():
    return len(bytearray(2**30))


def eat_slowly():
    parts = []
    while True:
        parts.append(bytearray(2**24))


def die(number):
    os.kill(os.getpid(), number)


def say_much():
    return "a" * (confined.MOST_REPLY_BYTES + 1)


def print_and_return():
    sys.stdout.write("a library says this")
    sys.stdout.flush()
    os.write(1, b"and its C++ part that")
    return 1


def refuse():
    raise UserError("the first fault", "the second")


def fail():
    raise KeyError("a bug")


def fill():
    raise OSError(errno.ENOSPC, "no space left")


def test_it_answers_from_another_process_and_prints_nothing(capfd):
    one, two = (call(f"{HERE}:answer", {"value": value}, LIMITS) for value in ("é", [1, None]))
    assert (one["value"], two["value"]) == ("é", [1, None])
    assert len({os.getpid(), one["process"], two["process"]}) == 3
    assert call(f"{HERE}:print_and_return", {}, LIMITS) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("reader", "arguments", "words"),
    [
        ("spin", {}, "takes more than 1 s of processor time"),
        ("sleep", {}, "takes longer than 1 s"),
        ("eat", {}, "takes more than 0.5 GiB of memory"),
        ("eat_slowly", {}, "takes more than 0.5 GiB of memory"),
        ("die", {"number": signal.SIGSEGV}, r"ends the process that reads it \(SIGSEGV\)"),
        ("die", {"number": signal.SIGKILL}, r"ends the process that reads it \(SIGKILL\)"),
        ("say_much", {}, "says more than 4,194,304 bytes"),
    ],
)
def test_what_a_file_does_to_its_reader_is_told(reader, arguments, words):
    with pytest.raises(ConfinedError, match=words):
        call(f"{HERE}:{reader}", arguments, BRIEF if reader == "sleep" else LIMITS)
    assert call(f"{HERE}:answer", {"value": 1}, LIMITS)["value"] == 1


def test_errors_arrive_as_what_they_are():
    with pytest.raises(UserError) as caught:
        call(f"{HERE}:refuse", {}, LIMITS)
    assert caught.value.faults == ("the first fault", "the second")
    with pytest.raises(OSError, match="no space left") as full:
        call(f"{HERE}:fill", {}, LIMITS)
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError, match=r"(?s)fail.*KeyError: 'a bug'"):
        call(f"{HERE}:fail", {}, LIMITS)
    with pytest.raises(RuntimeError, match="No module named 'deploy.nowhere'"):
        call("deploy.nowhere:reader", {}, LIMITS)


def test_a_server_that_ended_is_started_again():
    call(f"{HERE}:answer", {"value": 1}, LIMITS)
    os.kill(confined._SERVERS[HERE]._process.pid, signal.SIGKILL)
    assert call(f"{HERE}:answer", {"value": 2}, LIMITS)["value"] == 2


def test_threads_get_their_own_answers():
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda value: call(f"{HERE}:answer", {"value": value}, LIMITS)["value"], range(40))
        assert list(found) == list(range(40))


def test_the_server_ends_with_the_process_that_started_it():
    code = (
        "import os, signal; from deploy.files import confined; from deploy.files.confined import *\n"
        f"call('{HERE}:answer', dict(value=1), Limits(memory_bytes=2**29, cpu_s=1, wall_s=2.0))\n"
        f"print(confined._SERVERS['{HERE}']._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=python_environment(), stdout=subprocess.PIPE, check=False)
    server = int(done.stdout)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and os.path.exists(f"/proc/{server}"):
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{server}")


def test_the_limits_of_a_file_grow_with_it(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"a")
    with large.open("wb") as file:
        file.truncate(2**30)
    assert Limits.of_file(small, copies=4) == Limits(memory_bytes=2**30 + 4, cpu_s=4, wall_s=100.0)
    assert Limits.of_file(large, copies=4) == Limits(memory_bytes=5 * 2**30, cpu_s=4 + 2**30 // 20_000_000, wall_s=630.0)
