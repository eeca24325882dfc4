"""A board over SSH, every fault injected, against a fake ssh; the real one is asked in test_ssh_real.py."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.board import install
from deploy.board.address import Address
from deploy.devices import DeviceError, device, ssh
from deploy.engines import EngineError, engine
from deploy.worker.client import RemoteWorker
from deploy.worker.pool import WorkerPool
from profiles.device import load
from profiles.errors import UserError
from tests.conftest import HANG_S, ROOT, wait_until
from tests.deploy.board.test_root import CASES, old_root, snapshot
from tests.deploy.tiny import tiny_onnx, tiny_weights


@pytest.mark.parametrize(
    ("url", "user", "host", "port"),
    [
        ("ssh://pi@board:2222", "pi", "board", 2222),
        ("ssh://board", None, "board", None),
        ("ssh://me@[fe80::1]:22", "me", "fe80::1", 22),
    ],
)
def test_a_url_is_read(url, user, host, port):
    address = Address.read(f"{url}?python=/opt/python")
    assert (address.user, address.host, address.port, address.python) == (user, host, port, "/opt/python")
    assert address.url == url, "settings are not part of what a board is called"


def test_every_fault_of_a_url_is_told_at_once():
    with pytest.raises(UserError) as told:
        device("ssh://-oProxyCommand=evil:secret@/path?pyton=x")
    assert len(told.value.faults) == 5
    with pytest.raises(UserError, match="Port could not be cast"):
        device("ssh://board:port")


def test_files_come_back_as_they_went_and_go_once(board, tmp_path):
    there = board.device()
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "a.bin").write_bytes(random.Random(0).randbytes(300_000))
    (folder / "below/empty").write_bytes(b"")
    client = there.put(folder)
    there.get(client, tmp_path / "back")
    assert (tmp_path / "back/a.bin").read_bytes() == (folder / "a.bin").read_bytes()
    assert (tmp_path / "back/below/empty").read_bytes() == b""
    sent = count_appends(there)
    assert there.put(folder) == client
    assert there.put(folder / "a.bin").endswith("/a.bin")
    assert sent == [], "what is there is not sent again"
    (folder / "b.bin").write_bytes(b"new")
    there.put(folder)
    assert sent == [3], "only what changed is sent"


def count_appends(there):
    sent = []
    real = there._link.once

    def once(do, **request):
        if do == "append":
            sent.append(request["size"] - request["offset"])
        return real(do, **request)

    there._link.once = once
    return sent


def test_a_command_runs_as_on_this_machine(board, tmp_path):
    there = board.device()
    done = there.run(["sh", "-c", "cat; echo fault >&2; exit 3"], stdin=b"given")
    assert (done.code, done.stdout, done.stderr) == (3, "given", "fault\n")
    (tmp_path / "given").write_bytes(b"x" * 3_000_000)
    with (tmp_path / "given").open("rb") as stream:
        assert there.run(["wc", "-c"], stdin=stream).stdout.strip() == "3000000"
    with (tmp_path / "given").open("rb") as stream:
        assert there.run(["true"], stdin=stream).code == 0, "what a command does not read is no fault"
    with pytest.raises(DeviceError, match="'no-such' cannot be run: No such file or directory"):
        there.run(["no-such"])
    assert there.run([*there.deploy_command(), "unheard-of"]).stderr.startswith("usage: python -m deploy")


@pytest.mark.slow
def test_a_command_out_of_time_is_stopped_there(board):
    there = board.device()
    with pytest.raises(DeviceError, match=r"'sh' did not end within 0\.3 s; it was stopped"):
        there.run(["sh", "-c", f"sleep 60; echo {board.root}"], timeout_s=0.3)
    assert there.run(["echo", "still here"]).stdout == "still here\n"
    assert not any("sleep" in Path(f"/proc/{pid}/cmdline").read_text() for pid in board.processes())


def test_a_command_whose_connection_is_cut_is_not_left_running(board):
    there = board.device()
    there.run(["true"])
    marker = board.root / "ran-on"
    timer = threading.Timer(0.3, board.cut)
    timer.start()
    with pytest.raises(DeviceError, match="ssh://board"):
        there.run(["sh", "-c", f"sleep 1; touch {marker}"], timeout_s=20)
    time.sleep(1.2)
    assert not marker.exists(), "the command outlived its connection"


@pytest.mark.parametrize("many", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_put_survives_cuts_at_every_step(board, tmp_path, many):
    given = tmp_path / "given.bin"
    given.write_bytes(random.Random(1).randbytes(1_000_000))
    there = board.device()
    there.run(["true"])
    dice = random.Random(2)
    cuts = [0, 300, 500] + [dice.randrange(400_000) for _ in range(many)]
    board.cut_after(*cuts)
    board.cut()
    client = there.put(given)
    there.get(client, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == given.read_bytes()
    assert len((board.folder / "cuts").read_text().split()) <= many // 2, "it was cut often"
    assert not list((board.root / "parts").iterdir())


def test_a_get_survives_cuts_and_leaves_nothing_half_made(board, tmp_path, monkeypatch):
    given = tmp_path / "given.bin"
    given.write_bytes(random.Random(3).randbytes(1_000_000))
    there = board.device()
    client = there.put(given)
    board.cut_after(300, 200_000, 450_000)
    board.cut()
    there.get(client, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == given.read_bytes()
    there._link._patience_s = 0.2
    board.cut_after(*[500_000] * 9)
    board.cut()
    board.cut_after(*[600] * 9)
    with pytest.raises(DeviceError):
        there.get(client, tmp_path / "again.bin")
    assert not list(tmp_path.glob("again*"))
    (board.folder / "cuts").unlink()


def test_a_full_disk_is_told_and_the_part_removed(board, tmp_path):
    """The limit on a file's size stands in for a full disk: write() fails there in the same way."""
    given = tmp_path / "given.bin"
    given.write_bytes(b"x" * 2_000_000)
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nulimit -f 1500\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    install_python_ignoring_sigxfsz = board.device(python=wrapper)
    there = install_python_ignoring_sigxfsz
    (tmp_path / "small.bin").write_bytes(b"small")
    with pytest.raises(DeviceError, match=r"disk is full: a file of 2000000 bytes does not fit .* nothing of it was kept"):
        there.put(given)
    assert not list((board.root / "parts").iterdir())
    assert there.run(["cat", there.put(tmp_path / "small.bin")]).stdout == "small", "the board goes on"


@pytest.mark.slow
def test_a_file_altered_on_its_way_is_never_used(board, tmp_path, monkeypatch):
    given = tmp_path / "given.bin"
    given.write_bytes(b"x" * 1000)
    there = board.device()
    monkeypatch.setattr(ssh, "sha256", lambda path: "0" * 64)
    with pytest.raises(DeviceError, match="a file was altered on its way: sent as 000000000000, arrived as"):
        there.put(given)
    assert not list((board.root / "parts").iterdir()) and not list((board.root / "blobs").iterdir())


def test_no_python_is_told_with_what_to_do(board):
    with pytest.raises(UserError, match=r"wrong Python: no Python answers to '/no/such' there; install 3\.10 or newer"):
        board.device(python="/no/such").deploy_command()


def test_an_old_python_is_told(board):
    old = "/root/.pyenv/versions/3.8.18/bin/python"
    found = next((p for p in [old, "/usr/bin/python3.8", "/usr/bin/python3.9"] if os.access(p, os.X_OK)), None)
    if found is None:
        pytest.skip("no Python older than 3.10 on this machine")
    with pytest.raises(UserError, match=r"wrong Python: .* is Python 3\.[89]\.\d+, 3\.10 or newer is needed"):
        board.device(python=found).deploy_command()


def test_a_python_without_a_runtime_is_told_how_to_get_one(board, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(UserError, match=r"lacks ModuleNotFoundError.*numpy.* and a runtime .*EDGE_WHEELS=wheels"):
        board.device(python=bare).deploy_command()


@pytest.mark.slow
def test_what_a_login_script_says_is_not_taken_for_an_answer(board, tmp_path):
    noisy = board.folder / "bin/ssh"
    noisy.write_text(noisy.read_text().replace("unset PYTHONPATH;", "unset PYTHONPATH; echo Welcome;"))
    there = board.device()
    assert there.run(["echo", "clean"]).stdout == "clean\n"
    with RemoteWorker(there) as worker:
        assert worker.facts()["device"]["cores"] >= 1


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("ssh: connect to host board port 22: Connection refused", "is the board on, and its sshd running"),
        ("root@board: Permission denied (publickey).", "ssh-copy-id"),
        ("Host key verification failed.", "connect once by hand"),
        ("ssh: Could not resolve hostname board: Name or service not known", "check the name"),
    ],
)
def test_what_ssh_says_is_told_with_a_hint_and_at_once(board, words, hint):
    board.fail(words)
    started = time.monotonic()
    with pytest.raises(DeviceError) as told:
        board.device().deploy_command()
    assert words in str(told.value) and hint in str(told.value)
    assert time.monotonic() - started < ssh.GRACE_S, "at once, not after patience"


@pytest.mark.slow
def test_a_changed_host_key_in_the_middle_is_told_and_not_tried_again(board):
    there = board.device()
    there.run(["true"])
    board.fail("@@@@@\nWARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\n")
    board.cut()
    with pytest.raises(DeviceError, match="ssh-keygen -R"):
        there.run(["true"])


@pytest.mark.slow
def test_sshd_gone_is_told_after_patience(board, monkeypatch):
    monkeypatch.setattr(ssh, "GRACE_S", 0.5)
    there = board.device()
    there.run(["true"])
    board.fail("ssh: connect to host board port 22: Connection refused")
    board.cut()
    started = time.monotonic()
    with pytest.raises(DeviceError, match="Connection refused; nothing listens there"):
        there.put(Path(__file__))
    assert time.monotonic() - started < HANG_S


def test_one_run_at_a_time_and_the_second_is_told_who(board):
    first, second = board.device(), board.device()
    first.run(["true"])
    with pytest.raises(
        DeviceError, match=r"ssh://board is in use by \w+ on .* \(process \d+\), for \d+ s, last seen \d+ s ago"
    ):
        second.run(["true"])
    assert "process" in second.status()["lock"], "to look is allowed"
    with pytest.raises(DeviceError, match="in use by"):
        second.clean()
    first.close()
    assert second.run(["echo", "mine"]).stdout == "mine\n"


def test_a_run_that_was_killed_here_does_not_block_the_next(board):
    """Its folder is left with a lock that nobody holds."""
    first = board.device()
    first.run(["true"])
    os.close(os.dup(first._connection.alive.fileno()))
    first._connection.alive.close()  # what the end of its process does
    assert board.device().run(["echo", "mine"]).stdout == "mine\n"
    first._holds = False


def test_an_agent_that_was_killed_leaves_no_lock_once_its_run_is_over(board):
    """Found by a kill on a board: the run ended well, and the next one was told that the board is in use."""
    first = board.device()
    first.run(["true"])
    first._link._process.kill()  # the connection, and the agent with it
    first._link._process.wait()
    first.close()
    assert board.device().run(["echo", "mine"]).stdout == "mine\n"


def test_status_and_clean(board, tmp_path):
    there = board.device()
    there.put(Path(__file__))
    found = there.status()
    assert found["size_bytes"]["code"] < 2 * 2**20, "under 2 MB of ours"
    assert found["code"] == [install.payload()[0]] and "process" in found["lock"]
    there.clean()
    assert not board.root.exists()
    assert there.run(["echo", "again"]).stdout == "again\n", "a clean board is a new one"


@pytest.mark.parametrize(
    "case", ["a user's folder with our names", "one hidden file", "a link to an empty folder", "work is a link"]
)
def test_a_folder_that_is_not_ours_is_refused_by_every_use_and_left_as_it_is(board, tmp_path, case):
    CASES[case](board.root)
    before = snapshot(board.root.parent)
    uses = [
        lambda there: there.put(Path(__file__)),
        lambda there: there.path(Path("made")),
        lambda there: there.run(["true"]),
        lambda there: there.start_worker(),
        lambda there: there.status(),
        lambda there: there.clean(),
    ]
    for use in uses:
        with pytest.raises(
            UserError, match=r"ssh://board: .* is not used, and nothing in it was removed: .*empty \(\?root=FOLDER"
        ):
            use(board.device())
    after = {path: held for path, held in snapshot(board.root.parent).items() if "/pids/" not in path}
    assert after == {path: held for path, held in before.items() if "/pids/" not in path}


def test_a_root_of_an_earlier_version_goes_on_and_is_cleaned(board):
    old_root(board.root)
    there = board.device()
    assert there.run(["echo", "as before"]).stdout == "as before\n"
    assert not (board.root / "code/0123456789abcdef").exists(), "versions of old go, as before"
    (board.root / "notes").write_text("put here by hand")
    there.clean()
    assert [path.name for path in board.root.iterdir()] == ["notes"]


@pytest.mark.slow
def test_the_device_side_holds_no_torch_and_is_sent_once(board):
    there = board.device()
    there.deploy_command()
    (code,) = (board.root / "code").iterdir()
    assert (code / "deploy/worker/server.py").exists() and (code / "profiles/cpu.toml").exists()
    assert not (code / "compress").exists()
    (code / "kept").write_text("")
    there.close()
    board.device().deploy_command()
    assert (code / "kept").exists()
    (board.root / "code/0123456789abcdef").mkdir()
    code.rename(board.root / "code/older")
    there = board.device()
    there.deploy_command()
    assert len(list((board.root / "code").iterdir())) == 3, "another run may be using its version"
    there.run(["true"])
    assert [p.name for p in (board.root / "code").iterdir()] == [code.name], "other versions go when the board is ours"


@pytest.fixture
def model(tmp_path):
    return tiny_onnx(tmp_path / "model.onnx")


def plan():
    return engine("onnxruntime").plan(load("cpu"), "fp32", engine("onnxruntime").affinity().version)


def test_a_worker_there_gives_what_one_here_gives_though_it_is_cut_all_the_time(board, model, tmp_path):
    inputs = np.random.default_rng(0).normal(size=(5, 1, 16, 16)).astype(np.float32)
    outputs, cuts = {}, [random.Random(4).randrange(200, 3000) for _ in range(8)]
    for there in (device("local"), board.device()):
        there.run(["true"])
        if there.url != "local":
            board.cut_after(*cuts)
            board.cut()
        with RemoteWorker(there) as worker:
            worker.build(model, plan(), tmp_path / there.url[:3] / "engine")
            worker.open(tmp_path / there.url[:3] / "engine")
            worker.warm({"input": inputs})
            outputs[there.url] = worker.infer({"input": inputs})["output"]
            timed = worker.time(0.1)
            assert len(timed) >= 11 and timed.load.wall_s >= 0.1 and timed.load.others_s is not None
            assert worker.conditions().load_average is not None and worker.look(0.05).wall_s >= 0.05
    assert len((board.folder / "cuts").read_text().split()) < 4, "it was cut often"
    np.testing.assert_array_equal(outputs["local"], outputs["ssh://board"])
    np.testing.assert_allclose(outputs["local"], inputs.reshape(5, 256) @ tiny_weights(), rtol=1e-5)
    left = [p for p in (board.root / "work").rglob("*") if p.is_file()]
    assert left == [], "what a worker made is fetched and forgotten"


def test_one_worker_there_builds_and_answers_for_many_engines(board, model, tmp_path):
    inputs = np.random.default_rng(0).normal(size=(3, 1, 16, 16)).astype(np.float32)
    pool, processes = WorkerPool(board.device()), []
    with pool.open():
        for name in ("one", "other"):
            with pool.worker() as worker:
                worker.build(model, plan(), tmp_path / name / "engine")
                worker.open(tmp_path / name / "engine")
                found = worker.infer({"input": inputs})["output"]
                processes.append(worker.process)
            np.testing.assert_allclose(found, inputs.reshape(3, 256) @ tiny_weights(), rtol=1e-5)
            board.cut()
    assert processes[0] is processes[1] and processes[0].poll() == 0
    assert [p for p in (board.root / "work").rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_a_job_ends_by_itself_when_its_client_is_gone_for_good(board, monkeypatch):
    monkeypatch.setattr(ssh, "GRACE_S", 3.0)
    there = board.device()
    with RemoteWorker(there) as worker:
        worker.facts()
        os.kill(worker.process.pid, signal.SIGKILL)
        board.cut()
        assert there.status()["jobs"]
        wait_until(lambda: there.status()["jobs"] == [])


def test_a_board_that_was_restarted_is_told_and_what_was_built_is_kept(board, model, tmp_path):
    there = board.device()
    with RemoteWorker(there) as worker:
        worker.build(model, plan(), tmp_path / "engine")
        for pid in board.processes():  # the processes go, the files stay
            if pid != os.getpid() and "relay" not in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"'facts' was not finished: .*the job is not on the board any more"):
            worker.facts()
    sent = count_appends(there)
    with RemoteWorker(there) as worker:
        assert worker.open(tmp_path / "engine")["batch"] == 1
    assert sent == [(tmp_path / "engine/engine.json").stat().st_size] or sent == [], "the engine itself was still there"


@pytest.mark.slow
def test_a_request_that_hangs_is_stopped_there_too(board, monkeypatch):
    from deploy.worker import client

    there = board.device()
    with RemoteWorker(there) as worker:
        worker.facts()
        monkeypatch.setitem(client.LIMIT_S, "facts", 0.3)
        (job,) = (board.root / "jobs").iterdir()
        children = f"/proc/{(job / 'pid').read_text()}/task/{(job / 'pid').read_text()}/children"
        os.kill(int(Path(children).read_text()), signal.SIGSTOP)
        with pytest.raises(EngineError, match=r"did not end 'facts' within 0\.3 s; it was stopped"):
            worker.facts()
    assert there.status()["jobs"] == []


@pytest.mark.slow
def test_an_interrupted_client_leaves_no_job(board):
    there = board.device()
    with pytest.raises(KeyboardInterrupt), RemoteWorker(there):
        raise KeyboardInterrupt
    assert there.status()["jobs"] == []


@pytest.mark.slow
def test_wheels_make_a_venv_where_python_lacks_something(board, tmp_path, monkeypatch):
    """A wheel of our own stands in for numpy and a runtime: what is proven is the way, on a Python that has nothing."""
    import zipfile

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("numpy", "onnxruntime"):
        with zipfile.ZipFile(wheels / f"{name}-9.9-py3-none-any.whl", "w") as wheel:
            about = f"{name}-9.9.dist-info"
            wheel.writestr(f"{name}/__init__.py", '__version__ = "9.9"\n')
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
            wheel.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("EDGE_WHEELS", str(wheels))
    bare = next((p for p in ("/usr/bin/python3", "/usr/bin/python3.11") if lacks_numpy(p)), None)
    if bare is None:
        pytest.skip("no Python without numpy on this machine")
    assert board.device(python=bare).deploy_command()[0] == str(board.root / "venv/bin/python")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.10", "3.12"])
def test_a_board_with_the_oldest_and_a_newer_python(board, model, tmp_path, version):
    found = [shutil.which(f"python{version}"), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    runs = [p for p in found if p and subprocess.run([p, "-c", ""], capture_output=True, check=False).returncode == 0]
    if not runs:
        pytest.skip(f"no Python {version} on this machine")
    subprocess.run([runs[-1], "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "onnxruntime"], check=True)
    there = board.device(python=python)
    inputs = np.random.default_rng(0).normal(size=(5, 1, 16, 16)).astype(np.float32)
    with RemoteWorker(there) as worker:
        worker.build(model, plan(), tmp_path / "engine")
        worker.open(tmp_path / "engine")
        outputs = worker.infer({"input": inputs})["output"]
    np.testing.assert_allclose(outputs, inputs.reshape(5, 256) @ tiny_weights(), rtol=1e-5)
    assert there.status()["python"].split()[1].startswith(version)


def lacks_numpy(python):
    import subprocess

    done = (
        subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False) if Path(python).exists() else None
    )
    return done is not None and done.returncode == 1


@pytest.mark.slow
def test_compress_device_shows_and_removes(board, compress_cli):
    url = f"ssh://board?root={board.root}&python={sys.executable}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = compress_cli("device", "status", "--device", f"cpu@{url}", env=environment)
    assert shown.returncode == 0, shown.stderr
    assert str(board.root) in shown.stdout and "in use   no" in shown.stdout
    assert compress_cli("device", "clean", "--device", url, env=environment).returncode == 0
    assert not board.root.exists()


def test_a_profile_is_that_of_the_board_it_is_given_for(board):
    from compress.pipeline.target import resolve

    url = f"ssh://board?root={board.root}&python={sys.executable}"
    target = resolve(f"cpu@{url}")
    assert "onnxruntime" in [runtime.engine for runtime in target.profile.runtimes]
    target.device.close()
    if (arch := os.uname().machine) != "aarch64":
        with pytest.raises(UserError, match=f"wrong architecture: ssh://board is {arch} .*; profile arm64 is for aarch64"):
            resolve(f"arm64@{url}")
