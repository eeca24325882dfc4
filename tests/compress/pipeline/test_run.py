"""The whole path on a small recipe, in processes of its own: run, run again, kill, over budget."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys

import pytest

from compress.cli.main import entry
from compress.execution.locks import only_writer
from compress.models import plan as surgery
from deploy.bundle import manifest
from deploy.bundle.bundle import verify
from tests.conftest import HANG_S, ROOT, SMALL_RECIPE, wait_until

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "EDGE_KEYS": str(ROOT / "no-keys")}


def start(folder, *arguments):
    command = [sys.executable, "-m", "compress", "run", "small.toml", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts():
    """What a shell starts in the background ignores them, and so does what that starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def finish(folder, *arguments):
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=HANG_S)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run, in its folder."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.toml").write_text(SMALL_RECIPE.format(epochs=8, budget=5.0))
    code, out, err = finish(folder)
    assert code == 0, err
    return folder, out, err


def test_the_report_holds_every_baseline_and_every_row_is_measured(done):
    folder, _, _ = done
    report = json.loads((folder / "runs/small-cpu/report.json").read_text())
    free = {(r["engine"], r["precision"]) for r in report["rows"] if r["kind"] == "baseline"}
    promised = {(r["engine"], p) for r in report["device"]["runtimes"] for p in r["precisions"]}
    assert free == promised
    for row in report["rows"]:
        assert row["latency_ms"]["p50"] > 0
        assert row["latency_ms"]["samples"] >= 11
        assert row["metric"]["samples"] == 64
        assert row["parity"]["cosine"] > 0.98, row["name"]
        assert row["size_bytes"] > 0
        assert row["macs"] > 0
    assert {r["stage"] for r in report["rows"]} == {None, "distill", "quantize"}
    for row in report["rows"]:
        assert (row["decision"] is None) == (row["stage"] is None)
        assert (row["reason"] is None) == (row["stage"] is None)
    assert report["environment"]["versions"]["torch"]
    assert report["environment"]["device"]["processor"]


def test_fp32_engines_give_what_the_module_gives(done):
    folder, _, _ = done
    report = json.loads((folder / "runs/small-cpu/report.json").read_text())
    for row in report["rows"]:
        if row["precision"] == "fp32":
            assert row["parity"]["max_abs"] < 1e-3, row["name"]
            assert row["parity"]["top1_agreement"] == 1.0


def test_the_table_goes_to_stdout_and_progress_to_stderr(done):
    _, out, err = done
    assert "Best:" in out
    assert "teacher" in out
    assert "distill" in err
    assert "Best:" not in err


def test_the_bundle_proves_itself(done):
    folder, _, _ = done
    check = verify(folder / "runs/small-cpu/bundle")
    assert check.max_abs == 0.0
    assert check.top1_agreement == 1.0


def test_every_artifact_replays_from_factory_plan_and_weights(done):
    folder, _, _ = done
    models = list((folder / "runs/.steps").glob("*/surgery.json"))
    assert len(models) == 4, "teacher, student, distill, quantize"
    for model in models:
        plan, module = surgery.load(model.parent)
        assert not module.training
        assert plan.factory == "compress.models:resnet"


def test_no_pickle_anywhere(done):
    folder, _, _ = done
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert not suffixes & {".pt", ".pth", ".pkl", ".bin", ".th"}


def test_a_second_run_computes_nothing_and_the_report_says_the_same(done):
    folder, out, _ = done
    before = (folder / "runs/small-cpu/report.json").read_bytes()
    made = {path: path.stat().st_mtime_ns for path in (folder / "runs/.steps").glob("*/step.json")}
    code, text, _ = finish(folder, "--json")
    assert code == 0
    assert json.loads(text) == json.loads(before)
    assert (folder / "runs/small-cpu/report.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs/.steps").glob("*/step.json")} == made
    command = [sys.executable, "-m", "compress", "report", "runs/small-cpu"]
    shown = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert shown.returncode == 0
    assert "Best:" in shown.stdout and shown.stdout.split()[-12:] == out.split()[-12:]


@pytest.mark.slow
def test_killed_anywhere_and_started_again_no_finished_step_is_repeated(done, tmp_path):
    folder, _, _ = done
    (tmp_path / "small.toml").write_text((folder / "small.toml").read_text())
    finished: dict[str, int] = {}
    for _ in range(4):
        process = start(tmp_path)
        seen = len(finished)
        wait_until(lambda: process.poll() is not None or len(_steps(tmp_path)) >= seen + 3)  # noqa: B023  # at once
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = _steps(tmp_path)
        assert {name: now[name] for name in finished} == finished, "a finished step was made again"
        finished = now
    code, _, err = finish(tmp_path)
    assert code == 0, err
    now = _steps(tmp_path)
    assert {name: now[name] for name in finished} == finished
    for model in (folder / "runs/.steps").glob("*/model.safetensors"):
        twin = tmp_path / "runs/.steps" / model.parent.name / model.name
        assert twin.read_bytes() == model.read_bytes(), "the same inputs give the same bytes"


def _steps(folder):
    """When each finished step was finished; a folder that is about to be renamed is none yet."""
    found = [path for path in (folder / "runs/.steps").glob("*/step.json") if path.parent.suffix != ".part"]
    return {path.parent.name: path.stat().st_mtime_ns for path in found if path.exists()}


def test_ctrl_c_is_exit_130_and_resumable(done, tmp_path):
    folder, _, _ = done
    (tmp_path / "small.toml").write_text((folder / "small.toml").read_text())
    process = start(tmp_path)
    wait_until(lambda: len(_steps(tmp_path)) >= 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_over_budget_is_exit_3_and_still_reports(done, tmp_path):
    folder, _, _ = done
    text = (folder / "small.toml").read_text().replace("[budget]", "[budget]\nlatency_ms_p50 = 0.000001")
    (tmp_path / "small.toml").write_text(text)
    (tmp_path / "runs").mkdir()
    os.symlink(folder / "runs/.steps", tmp_path / "runs/.steps")
    code, out, _ = finish(tmp_path)
    assert code == 3
    assert "OVER BUDGET" in out


@pytest.mark.slow
def test_until_stops_after_the_stage(done, tmp_path):
    folder, _, _ = done
    (tmp_path / "small.toml").write_text((folder / "small.toml").read_text())
    (tmp_path / "runs").mkdir()
    os.symlink(folder / "runs/.steps", tmp_path / "runs/.steps")
    code, out, err = finish(tmp_path, "--until", "distill", "--out", "elsewhere")
    assert code == 0, err
    report = json.loads((tmp_path / "elsewhere/report.json").read_text())
    assert {r["stage"] for r in report["rows"]} == {None, "distill"}


def test_an_unsigned_bundle_is_told_with_what_to_do(done):
    folder, _, err = done
    made, _, signature = manifest.read(folder / "runs/small-cpu/bundle")
    assert (made.name, made.key, signature) == ("small", None, None)
    assert f"bundle small {made.version} is not signed, and devices refuse such: `compress keys new`" in err
    assert (made.target.arch, made.target.system) == (platform.machine(), platform.system())
    assert made.versions[f"device/{made.target.engine}"] == made.target.runtime_version
    assert {"edge-compress", "python", "torch", "onnx"} <= set(made.versions)


def test_the_bundle_is_signed_and_shipped(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EDGE_KEYS", str(tmp_path / "keys"))
    bundle = tmp_path / "bundle"
    shutil.copytree(done[0] / "runs/small-cpu/bundle", bundle)
    there = ["--device", f"cpu@local://{tmp_path / 'home'}"]
    ship = ["ship", str(bundle), *there, "--latency-tolerance", "50", "--json"]
    assert entry(ship) == 2
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["refused"]
    assert [entry(["keys", "new"]), entry(["sign", str(bundle)])] == [0, 0]
    capsys.readouterr()
    assert entry(ship) == 0
    (shipped,) = json.loads(capsys.readouterr().out)
    assert shipped["state"] == "shipped" and shipped["proof"]["golden"]["max_abs"] == 0.0
    best = json.loads((bundle / "report.json").read_text())["verdict"]["best"]
    rows = json.loads((bundle / "report.json").read_text())["rows"]
    assert shipped["proof"]["reference_ms"] == next(r["latency_ms"]["p50"] for r in rows if r["name"] == best)
    assert entry(["status", *there]) == 0
    assert " small " in capsys.readouterr().out
    assert entry(["rollback", *there]) == 2
    assert "there is no release before" in capsys.readouterr().err


def test_a_folder_that_another_writes_to_is_told_at_once_and_stays_as_it_is(done, tmp_path):
    folder, _, _ = done
    out = folder / "runs/small-cpu"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with only_writer(out):
        code, _, err = finish(folder)
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2 and f"process {os.getpid()}" in line and "runs/small-cpu is being written to by" in line
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_of_many_runs_into_one_folder_one_writes(done, tmp_path):
    """Each is done or told; those that are done followed one another, and what is there is whole."""
    folder, _, _ = done
    ended = [(process.returncode, process.stderr) for process in at_once(10, folder)]
    assert {code for code, _ in ended} == {0, 2}
    for code, err in ended:
        errors = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(errors) == (code == 2) and all("is being written to by process" in line for line in errors)
    assert verify(folder / "runs/small-cpu/bundle").top1_agreement == 1.0
    assert json.loads((folder / "runs/small-cpu/report.json").read_text())["verdict"]
    assert not list((folder / "runs/small-cpu").glob(".*"))


def at_once(count, folder):
    processes = [start(folder) for _ in range(count)]
    for process in processes:
        out, err = process.communicate(timeout=HANG_S)
        yield subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_a_finished_runs_rows_are_timed_again_from_its_engines_alone(done, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(done[0], folder)
    monkeypatch.chdir(folder)
    before = json.loads((folder / "runs/small-cpu/report.json").read_text())
    made = set(_steps(folder))
    assert entry(["report", "runs/small-cpu", "--measure"]) == 0
    after = json.loads((folder / "runs/small-cpu/report.json").read_text())
    assert [step.split("-")[0] for step in set(_steps(folder)) - made] == ["race"]
    changing = {"latency_ms", "energy_mj", "peak_mib", "load_ms", "first_ms", "path_ms"}
    for old, new in zip(before["rows"], after["rows"], strict=True):
        assert {k: v for k, v in old.items() if k not in changing} == {k: v for k, v in new.items() if k not in changing}
        assert old["latency_ms"] != new["latency_ms"], "timed anew"
        assert old["path_ms"] is None is new["path_ms"], "data of one's own do not say what makes inputs of files"
    assert after["environment"]["conditions"] != before["environment"]["conditions"]
    shutil.rmtree(folder / "runs/.steps" / after["rows"][0]["raced_as"])
    assert entry(["report", "runs/small-cpu", "--measure"]) == 2


@pytest.mark.slow
def test_measuring_again_times_all_anew_and_trains_nothing(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "copy")
    made = set(_steps(tmp_path / "copy"))
    code, _, err = finish(tmp_path / "copy", "--measure-again")
    new = {step.split("-")[0] for step in set(_steps(tmp_path / "copy")) - made}
    assert "race" in new and not new & {"teacher", "distill", "quantize", "student"}
    assert code == 0 or "--measure-again trains nothing" in err, "the gate may decide otherwise on a busy machine"
