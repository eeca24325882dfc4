"""Several processes train one model over gloo: what losses remember is shared, and a training goes on with others."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from compress.training.schedule import Schedule
from compress.training.sharding import check_launcher, check_spreadable
from profiles.errors import UserError
from tests.compress.training.several import LOSSES, SPREAD_LOSSES, train
from tests.conftest import HANG_S, ROOT


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **more}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def together(folder, count, *words):
    """What each of ``count`` processes tells of its training."""
    several = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-m", "tests.compress.training.several", str(folder), *words]
    each = [environment(**several, RANK=str(n), LOCAL_RANK=str(n)) for n in range(count)]
    running = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for env in each]
    errors = [process.communicate(timeout=HANG_S)[1] for process in running]
    assert [process.returncode for process in running] == [0] * count, "".join(errors)[-3000:]
    return told(folder, count)


def told(folder, count):
    return [json.loads((folder / f"rank-{n}.json").read_text()) for n in range(count)]


@pytest.mark.slow
def test_losses_remember_the_same_in_two_processes_and_what_does_not_is_refused(tmp_path):
    first, second = together(tmp_path, 2, "--epochs", "1", "--alone")
    assert first["steps"] == [1, 2, 3, 4] == second["steps"], "the schedule of one process"
    assert first["kept"] == second["kept"]
    assert "in 0.mean what its own process alone has seen, and 2 processes train" in first["error"] == second["error"]
    for told in (first["sharded"], second["sharded"]):
        assert told["apart"] < 1e-5 and 0.4 < told["held"] < 0.6, "each holds half of the teacher, which says the same"
        assert told["one"] == pytest.approx(told["other"], rel=1e-3), "and teaches the same"
    one = train(tmp_path / "one", 1, LOSSES)
    assert set(one["kept"]) == set(first["kept"])
    for name in ("known", "counts"):
        exact = [key for key in one["kept"] if key.endswith(f".{name}") or key == name]
        assert exact and all(one["kept"][key] == first["kept"][key] for key in exact), "each sample counts once"
    (taid,) = [key for key in one["kept"] if key.endswith("state")]
    assert first["kept"][taid][0] == pytest.approx(one["kept"][taid][0], abs=1e-3)
    assert first["loss"] == pytest.approx(one["loss"], rel=0.2), "batch norms see half a batch each"


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_would_spread_the_student_is_refused(variable, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=r"launched with (FSDP|DeepSpeed), .* shard = true in \[teacher\] or a stage"):
        check_launcher()


@pytest.mark.slow
def test_one_of_four_processes_is_killed_and_two_go_on_to_the_accuracy_of_one(tmp_path):
    one = train(tmp_path / "one", 8, LOSSES)
    words = [str(tmp_path), "--epochs", "8"]
    launch = ["torch.distributed.run", "--nproc_per_node=4", f"--master_port={free_port()}"]
    command = [sys.executable, "-m", *launch, "-m", "tests.compress.training.several", *words, "--die-at", "18"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode != 0 and not list(tmp_path.glob("rank-*.json"))
    assert re.search(r"exitcode\s*: -9", done.stderr), done.stderr[-2000:]
    left = subprocess.run(["pgrep", "-f", f"several {tmp_path}"], capture_output=True, text=True, check=False).stdout
    assert left == "", "the others have ended too"
    first, second = together(tmp_path, 2, *words[1:])
    assert first["kept"] == second["kept"] and first["steps"] == second["steps"]
    assert 17 <= first["steps"][0] <= 19 and first["steps"][-1] == 32 == one["steps"][-1], "on from the checkpoint"
    assert one["accuracy"] > 90 and first["accuracy"] > one["accuracy"] - 5


@pytest.mark.slow
def test_a_student_spread_over_four_processes_learns_what_one_learns_and_one_killed_ends_all(tmp_path):
    """FSDP2: each holds a quarter; the launcher ends the others; two go on from the checkpoint, which holds it whole."""
    one = train(tmp_path / "one", 8, SPREAD_LOSSES, spread=True)
    words = ["--epochs", "8", "--spread"]
    (tmp_path / "four").mkdir()
    four = together(tmp_path / "four", 4, *words)
    assert all(each["steps"] == one["steps"] for each in four), "the schedule of one process"
    assert all(each["weights"] == four[0]["weights"] and each["kept"] == four[0]["kept"] for each in four)
    assert one["held"] == 1 and all(0.15 < each["held"] < 0.4 for each in four)
    assert all(each["classes"] == one["classes"] for each in four), "layers have their own classes again"
    assert one["accuracy"] > 90 and four[0]["accuracy"] > one["accuracy"] - 5
    launch = ["torch.distributed.run", "--nproc_per_node=4", f"--master_port={free_port()}"]
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-m", *launch, "-m", "tests.compress.training.several", str(tmp_path / "killed"), *words]
    command += ["--die-at", "18"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode != 0 and re.search(r"exitcode\s*: -9", done.stderr), done.stderr[-2000:]
    left = subprocess.run(["pgrep", "-f", f"several {tmp_path}"], capture_output=True, text=True, check=False).stdout
    assert left == "", "the others have ended too"
    first, second = together(tmp_path / "killed", 2, *words)
    assert first["weights"] == second["weights"] and 17 <= first["steps"][0] <= 19 and first["steps"][-1] == 32
    assert 0.4 < first["held"] < 0.6 and first["accuracy"] > one["accuracy"] - 5


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        ({"optimizer": "muon"}, {}, "optimizer = 'muon' turns whole kernels"),
        ({}, {"is_program": True}, "a captured program, which stays whole"),
        ({}, {"reads_gradients": True}, "a weight by gradient_share reads gradients"),
    ],
)
def test_what_cannot_be_spread_is_told(options, given, words):
    asked = {"is_program": False, "reads_gradients": False, **given}
    with pytest.raises(UserError, match=words):
        check_spreadable("distill", Schedule(epochs=1, shard=True, **options), **asked)
