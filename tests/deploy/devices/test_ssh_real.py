"""The user's own OpenSSH against a real sshd on this machine, and against a board when EDGE_DEVICE names one."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pytest

from deploy.devices import DeviceError, device, ssh
from deploy.engines import engine
from deploy.measure.parity import parity
from deploy.worker.client import RemoteWorker
from profiles.device import Facts, check_arch, load
from profiles.errors import UserError
from tests.deploy.tiny import tiny_onnx, tiny_weights

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


class Server:
    """An sshd of the test's own: its port, its keys, its configuration for clients."""

    def __init__(self, folder):
        self.folder, self.config = folder, folder / "ssh_config"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.make_key("host")
        self.make_key("user")
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )
        self.know("host")
        self.config.write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {self.port}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        )
        self.process = None
        self.start()

    def make_key(self, name):
        (self.folder / name).unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
        subprocess.run(command, check=True)

    def know(self, *keys):
        lines = [f"[127.0.0.1]:{self.port} {(self.folder / f'{key}.pub').read_text()}" for key in keys]
        (self.folder / "known_hosts").write_text("".join(lines))

    def start(self):
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=subprocess.DEVNULL)
        while self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        pytest.skip("sshd does not start here")

    def stop(self):
        """The server and every connection it has."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        for pid in (self.process.pid, *map(int, found.stdout.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path, monkeypatch):
    if SSHD is None or os.getuid() != 0 or not Path("/run/sshd").is_dir():
        pytest.skip("no sshd on this machine that may be started")
    made = Server(tmp_path)
    monkeypatch.setenv("EDGE_SSH_CONFIG", str(made.config))
    yield made
    made.stop()


@pytest.fixture
def there(server, tmp_path):
    made = device(f"ssh://board?root={tmp_path / 'home'}&python={sys.executable}")
    yield made
    made.close()


def test_files_and_commands_over_a_real_connection(there, tmp_path):
    given = tmp_path / "given.bin"
    given.write_bytes(os.urandom(500_000))
    remote = there.put(given)
    assert there.run(["cksum", remote]).stdout.split()[:2] == there.run(["cksum"], stdin=given.read_bytes()).stdout.split()
    there.get(remote, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == given.read_bytes()
    with RemoteWorker(there) as worker:
        assert worker.facts()["device"]["cores"] >= 1


@pytest.mark.slow
def test_sshd_goes_and_comes_back_in_the_middle(server, there):
    there.run(["true"])
    with RemoteWorker(there) as worker:
        worker.facts()
        server.stop()
        threading.Timer(1.0, server.start).start()
        assert worker.facts()["device"]["cores"] >= 1
    assert there.run(["echo", "back"]).stdout == "back\n"
    assert there.status()["jobs"] == []


def test_what_ssh_refuses_is_told_with_what_to_do(server, there, monkeypatch):
    server.know()
    with pytest.raises(DeviceError, match=r"Host key verification failed.*connect once by hand"):
        there.deploy_command()
    server.make_key("other")
    server.know("other")
    with pytest.raises(DeviceError, match=r"Host key verification failed|IDENTIFICATION HAS CHANGED"):
        there.deploy_command()
    server.know("host")
    server.make_key("user")
    with pytest.raises(DeviceError, match=r"Permission denied \(publickey\).*ssh-copy-id"):
        there.deploy_command()
    server.stop()
    with pytest.raises(DeviceError, match=r"Connection refused; nothing listens there"):
        there.deploy_command()
    with pytest.raises(DeviceError, match=r"no such host"):
        device("ssh://no-such-host.invalid").deploy_command()
    monkeypatch.setenv("EDGE_SSH_CONFIG", "/no/such/file")
    with pytest.raises(DeviceError, match=r"EDGE_SSH_CONFIG names no file"):
        there.deploy_command()


@pytest.mark.slow
def test_no_connection_and_no_folder_is_left_after_close(there):
    there.run(["true"])
    folder = there._connection.folder
    there.close()
    assert not folder.exists()
    assert subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, check=False).stdout == b""


def with_setting(url, name, value):
    """A board's URL with one of its settings another."""
    address, _, query = url.partition("?")
    return f"{address}?{urlencode({**dict(parse_qsl(query)), name: value})}"


@pytest.fixture
def board():
    if not os.environ.get("EDGE_DEVICE"):
        pytest.skip("EDGE_DEVICE names no board")
    made = device(os.environ["EDGE_DEVICE"])
    yield made
    made.close()


@pytest.fixture
def model(tmp_path):
    return tiny_onnx(tmp_path / "model.onnx")


def plan(facts):
    return engine("onnxruntime").plan(load("cpu"), "fp32", facts["engines"]["onnxruntime"]["version"])


@pytest.mark.slow
def test_a_board_from_bare_to_measured_and_clean(board, model, tmp_path):
    board.clean()
    inputs = np.random.default_rng(0).normal(size=(64, 1, 16, 16)).astype(np.float32)
    with RemoteWorker(board) as worker:
        facts = worker.facts()
        worker.build(model, plan(facts), tmp_path / "engine")
    assert board.status()["size_bytes"]["code"] < 2 * 2**20
    with RemoteWorker(board) as worker:
        worker.open(tmp_path / "engine")
        outputs = worker.infer({"input": inputs})["output"]
        worker.warm({"input": inputs})
        assert len(worker.time(0.1)) >= 11
    apart = parity(inputs.reshape(64, 256) @ tiny_weights(), outputs)
    assert apart.cosine > 0.9999 and apart.top1_agreement == 1.0
    root = board.status()["root"]
    board.clean()
    assert board._shell(f"ls -d {root} 2>/dev/null; true") == ""


@pytest.mark.slow
def test_a_board_is_not_what_another_profile_is_for(board):
    with RemoteWorker(board) as worker:
        said = worker.facts()["device"]
    other = "x86_64" if said["arch"] != "x86_64" else "aarch64"
    profile = load("arm64")
    with pytest.raises(UserError, match=f"wrong architecture: {board.url} is {said['arch']}"):
        check_arch(
            type(profile)(**{**vars(profile), "arch": (other,)}),
            Facts.from_json(said),
            board.url,
        )


@pytest.mark.slow
def test_a_board_whose_connection_is_cut_again_and_again(board, model, tmp_path):
    """Every connection of this machine to it, the shared one included, is killed while a worker is asked."""
    board.run(["true"])
    over = threading.Event()

    def saw():
        while not over.wait(7.0):
            found = subprocess.run(["pgrep", "-x", "ssh"], capture_output=True, text=True, check=False).stdout
            for pid in map(int, found.split()):
                with contextlib.suppress(OSError):
                    if str(board._connection.folder) in Path(f"/proc/{pid}/cmdline").read_text():
                        os.kill(pid, signal.SIGKILL)

    cutter = threading.Thread(target=saw)
    cutter.start()
    try:
        with RemoteWorker(board) as worker:
            for _ in range(3):
                worker.build(model, plan(worker.facts()), tmp_path / "engine")
                worker.open(tmp_path / "engine")
                outputs = worker.infer({"input": np.ones((3, 1, 16, 16), np.float32)})["output"]
                assert outputs.shape == (3, 4)
    finally:
        over.set()
        cutter.join()
    assert board.status()["jobs"] == []


@pytest.mark.slow
def test_a_board_whose_disk_is_full(board, tmp_path):
    """A small file system of memory stands in, where the board lets us make one."""
    room = "/tmp/edge-compress-room"
    board.run(["mkdir", "-p", room])
    if board.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", room]).code:
        pytest.skip("no file system may be made there")
    small = device(with_setting(os.environ["EDGE_DEVICE"], "root", room))
    try:
        (tmp_path / "large").write_bytes(os.urandom(3_000_000))
        with pytest.raises(DeviceError, match="the disk is full: a file of 3000000 bytes"):
            small.put(tmp_path / "large")
        assert small.run(["ls", f"{room}/parts"]).stdout == ""
    finally:
        small.close()
        board.run(["umount", "-l", room])


@pytest.mark.slow
def test_a_board_two_want(board):
    board.run(["true"])
    other = device(os.environ["EDGE_DEVICE"])
    with pytest.raises(DeviceError, match="in use by"):
        other.run(["true"])
    other.close()


@pytest.mark.slow
def test_a_board_that_was_restarted_between_build_and_measure(board, model, tmp_path, monkeypatch):
    monkeypatch.setattr(ssh, "GRACE_S", 20.0)
    with RemoteWorker(board) as worker:
        worker.build(model, plan(worker.facts()), tmp_path / "engine")
        board.run(["sh", "-c", "kill -9 $(cat jobs/*/pid)"])
        with pytest.raises(DeviceError, match="not on the board any more"):
            worker.facts()
    with RemoteWorker(board) as worker:
        assert worker.open(tmp_path / "engine")["batch"] == 1


@pytest.mark.slow
def test_a_board_with_another_python(board):
    url = os.environ["EDGE_DEVICE"]
    if board.run(["/usr/bin/python3", "-c", "import numpy"]).code != 1:
        pytest.skip("its /usr/bin/python3 has numpy, or is missing")
    with pytest.raises(UserError, match=r"no Python there can do the work: /usr/bin/python3 .*EDGE_WHEELS"):
        device(with_setting(url, "python", "/usr/bin/python3")).deploy_command()
    with pytest.raises(UserError, match=r"wrong Python: no Python answers to '/no/such'"):
        device(with_setting(url, "python", "/no/such")).deploy_command()
