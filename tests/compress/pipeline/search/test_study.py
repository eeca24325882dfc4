"""A study that processes share: what a dead one had is given out again, nothing is lost, nothing done twice."""

import collections
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from compress.pipeline.search.study import (
    WORKER,
    Stopped,
    _is_dead,
    _retry,
    _worker,
    find_study,
    open_study,
    take_back,
    work,
)
from compress.recipe.search import SearchSpec
from profiles.errors import UserError
from tests.conftest import ROOT

optuna = pytest.importorskip("optuna")

SPEC = SearchSpec()


def begun(folder, base="a", heartbeat_s=1):
    return open_study(f"sqlite:///{folder}/study.db", "toy", SPEC, 1, base, heartbeat_s=heartbeat_s)


def values(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    if x > 0.9:
        raise Stopped(reason="x is too large")
    return [x, 1 - x]


def test_a_killed_process_loses_its_trial_to_the_next_one(tmp_path):
    study, said = begun(tmp_path, heartbeat_s=60), []
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    lost = study.ask()
    lost.suggest_float("x", 0.0, 1.0)
    lost.set_user_attr(WORKER, _worker().replace(f" {os.getpid()} ", f" {gone.pid} "))
    work(study, values, 4, math.inf, said.append)
    states = [trial.state.name for trial in study.get_trials()]
    assert states[0] == "FAIL" and len(states) == 5 and set(states[1:]) <= {"COMPLETE", "PRUNED"}
    assert study.get_trials()[1].params == lost.params, "the same again"
    assert "trial 0: its process died; it is given out again" in said
    work(study, values, 4, math.inf, said.append)
    assert len(study.get_trials()) == 5, "four are done"


def test_what_is_stopped_keeps_its_reason_and_a_bug_gives_its_trial_back(tmp_path):
    study = begun(tmp_path)
    study.enqueue_trial({"x": 0.95})
    work(study, values, 1, math.inf, print)
    assert study.get_trials()[0].user_attrs["reason"] == "x is too large"

    def breaks(trial):
        trial.suggest_float("x", 0.0, 1.0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work(study, breaks, 2, math.inf, print)
    waiting = study.get_trials()[-1]
    assert waiting.state.name == "WAITING" and waiting.system_attrs["fixed_params"] == study.get_trials()[1].params


def test_a_trial_whose_process_died_before_it_had_a_name_is_given_out_after_a_minute(tmp_path, monkeypatch):
    """No heartbeat tells of it: that begins later. Seen on PostgreSQL, where the others waited for it without end."""
    study, said = begun(tmp_path, heartbeat_s=60), []
    study.ask()
    take_back(study, said.append)
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING"], "it may be about to name itself"
    monkeypatch.setattr("compress.pipeline.search.study.LEAST_GRACE_S", -1)
    work(study, values, 1, math.inf, said.append)
    states = [trial.state.name for trial in study.get_trials()]
    assert states[0] == "FAIL" and states[1] in ("COMPLETE", "PRUNED") and len(states) == 2
    assert "trial 0: its process died; it is given out again" in said


@pytest.mark.parametrize("then", ["ends", "asks"])
def test_a_trial_that_another_process_gave_out_again_is_done_once(tmp_path, then):
    """While it runs here: what it came to here is dropped, and it is not given out a second time."""
    study, said, lost = begun(tmp_path, heartbeat_s=60), [], []

    def slow(trial):
        x = trial.suggest_float("x", 0.0, 0.5)
        if not lost:
            lost.append(trial.number)
            (running,) = (each for each in study.get_trials() if each.number == trial.number)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            _retry(study, running)
            assert _worker() not in study.get_trials()[-1].user_attrs.values(), "nobody has it yet"
            if then == "asks":
                trial.suggest_float("y", 0.0, 1.0)
        return [x, 1 - x]

    work(study, slow, 3, math.inf, said.append)
    done = [trial.params["x"] for trial in study.get_trials() if trial.state.name == "COMPLETE"]
    assert len(done) == len(set(done)) == 3 and study.get_trials()[0].params["x"] in done
    assert [trial.state.name for trial in study.get_trials()].count("FAIL") == 1
    assert any("trial 0: given out again while it ran here" in line for line in said)


def test_another_recipe_or_no_study_is_refused(tmp_path):
    begun(tmp_path)
    with pytest.raises(UserError, match="of another recipe"):
        begun(tmp_path, base="b")
    assert find_study(f"sqlite:///{tmp_path}/study.db", "toy").study_name == "toy"
    with pytest.raises(UserError, match="there are: toy"):
        find_study(f"sqlite:///{tmp_path}/study.db", "other")
    with pytest.raises(UserError, match="no search was kept"):
        find_study(f"sqlite:///{tmp_path}/none.db", "toy")
    with pytest.raises(UserError, match="an address such as"):
        open_study("study.db", "toy", SPEC, 1, "a")


def test_a_busy_machine_has_a_minute(tmp_path):
    for heartbeat_s, grace_s in ((1, 60), (30, 120)):
        study = open_study(f"sqlite:///{tmp_path}/{heartbeat_s}.db", "toy", SPEC, 1, "a", heartbeat_s=heartbeat_s)
        assert study._storage._backend.grace_period == grace_s


def test_a_process_is_known_by_its_start_too():
    host, pid, started = _worker().split(" ")
    assert not _is_dead(f"{host} {pid} {started}")
    assert _is_dead(f"{host} {pid} 1") and not _is_dead(f"elsewhere {pid} 1")


WORKING = """
import math, sys, time
from compress.pipeline.search.study import open_study, work
from compress.recipe.search import SearchSpec
study = open_study(sys.argv[1], "toy", SearchSpec(), None, "a", heartbeat_s=1)  # one seed would have both try the same
def run(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    time.sleep(0.15)
    print(trial.number, flush=True)
    return [x, 1 - x]
work(study, run, int(sys.argv[2]), math.inf, lambda line: None)
"""


def start(url, most):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", WORKING, url, str(most)], env=environment, stdout=subprocess.PIPE, text=True
    )


def killed_ten_times(url, most):
    """Two processes, of which one is killed at ten moments and started anew; returns how often each trial ended."""
    study = open_study(url, "toy", SPEC, 1, "a", heartbeat_s=1)
    steady = start(url, most)
    for number in range(10):
        other = start(url, most)
        other.stdout.readline()  # it has done one, and goes on
        time.sleep(0.03 * number)
        other.send_signal(signal.SIGKILL)
        other.communicate()
    last = start(url, most)
    outputs = [process.communicate(timeout=600)[0] for process in (steady, last)]
    assert steady.returncode == last.returncode == 0
    trials = study.get_trials()
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert len(done) >= most and not [t for t in trials if t.state.name in ("RUNNING", "WAITING")], "nothing is lost"
    again = collections.Counter(trial.params["x"] for trial in done)
    assert set(again.values()) == {1}, "nothing is done twice"
    return trials, outputs


@pytest.mark.slow
def test_two_processes_on_one_sqlite_file_one_killed_ten_times(tmp_path):
    trials, _ = killed_ten_times(f"sqlite:///{tmp_path}/study.db", 150)
    assert [trial for trial in trials if trial.state.name == "FAIL"], "some were killed in the middle of a trial"


@pytest.fixture
def postgres():
    """Address of a database of its own server, as Debian's package postgresql has it."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL here")
    user = "postgres" if os.getuid() == 0 else None  # the server does not run as root
    folder, tools = Path(tempfile.mkdtemp()), found[-1].parent
    if user:
        shutil.chown(folder, user)

    def call(name, *arguments):
        command = [tools / name, "-D", folder / "data", *arguments]
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    call("initdb", "-A", "trust", "-U", "searcher")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call("pg_ctl", "-w", "-l", folder / "log", "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
    yield f"postgresql+psycopg://searcher@127.0.0.1:{port}/postgres"
    call("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.mark.slow
def test_two_processes_on_a_postgresql_one_killed_ten_times(postgres):
    trials, _ = killed_ten_times(postgres, 150)
    assert [trial for trial in trials if trial.state.name == "FAIL"], "some were killed in the middle of a trial"


@pytest.mark.slow
def test_two_processes_on_one_journal(tmp_path):
    url = f"journal://{tmp_path}/study.log"
    study = open_study(url, "toy", SPEC, 1, "a")
    workers = [start(url, 20) for _ in range(2)]
    for worker in workers:
        worker.communicate(timeout=600)
    done = [trial.params["x"] for trial in study.get_trials() if trial.state.name == "COMPLETE"]
    assert len(done) == len(set(done)) >= 20
