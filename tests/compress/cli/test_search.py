"""compress search from the command line, and a run of one of its trials."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import HANG_S, ROOT, SMALL_RECIPE

pytest.importorskip("optuna")

SEARCH = """
[search]
stages = [["distill"], ["distill", "quantize"]]
"student.width" = {{ choices = [0.25, 0.5, 0.75] }}
"distill.losses" = {{ choices = [["task"], ["task", "kd"]] }}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "small.toml").write_text((SMALL_RECIPE + SEARCH).format(epochs=4, budget=50.0))
    return tmp_path


def test_what_the_recipe_cannot_have_is_said_before_anything_is_done(recipe, compress_here):
    wrong = (recipe / "small.toml").read_text() + '"quantize.attempts" = [1, 2]\n"student.depht" = [0.1, 0.2]\n'
    (recipe / "wrong.toml").write_text(wrong)
    done = compress_here("search", "wrong.toml")
    assert done.returncode == 2 and "quantize.attempts" in done.stderr and "did you mean 'attempt'" in done.stderr
    assert not list(recipe.glob("runs/*/search.json"))
    done = compress_here("run", "small.toml", "--trial", "3")
    assert done.returncode == 2 and "no search was kept" in done.stderr


def test_what_a_search_needs_is_told_before_anything_is_resolved(recipe, compress_here, monkeypatch):
    monkeypatch.setattr("compress.pipeline.search.requirements.find_spec", lambda module: None)
    for words in (("search", "small.toml", "--device", "nowhere"), ("run", "small.toml", "--trial", "3")):
        done = compress_here(*words)
        assert done.returncode == 2 and "needs optuna, plotly, tomli-w: pip install" in done.stderr


ONE_RUNTIME = """
title = "one runtime, floats alone"
threads = 1
channel_multiple = 8
[[runtime]]
engine = "onnxruntime"
precisions = ["fp32"]
"""


@pytest.mark.slow
def test_a_small_search_leaves_its_front(recipe, compress_here, monkeypatch):
    monkeypatch.setenv("COMPRESS_QUIET_SECONDS", "0")
    plain = SMALL_RECIPE.format(epochs=1, budget=100.0)
    plain = plain[: plain.rindex("[[stage]]")]  # distillation alone, whose one epoch has no tenth
    (recipe / "tiny.toml").write_text(plain + '[search]\n"student.width" = { choices = [0.5, 0.25] }\n')
    (recipe / "one.toml").write_text(ONE_RUNTIME)
    done = compress_here("search", "tiny.toml", "--device", "one.toml", "--trials", "2", "--json")
    assert done.returncode == 0, done.stderr
    (front,) = json.loads(done.stdout)["fronts"]
    first, second = front["trials"]
    assert first["values"] == {"student.width": 0.5} and first["state"] == "finished", "the recipe itself comes first"
    assert "width = 0.5" in first["recipe"] and first["point"]["low_ms"] <= first["point"]["latency_ms"]
    assert second["values"] == {"student.width": 0.25} or second["reason"] == "the same as trial 0"
    assert [point["form"] for point in front["free"]] == ["onnxruntime fp32"]
    assert first["point"]["peak_mib"] > 1 and first["point"]["load_ms"] > 0 and first["point"]["energy_mj"] is None
    page = (recipe / "runs/tiny-search/search.html").read_text()
    assert "const DATA" in page and json.loads((recipe / "runs/tiny-search/search.json").read_text())["name"] == "tiny"
    again = compress_here("search", "tiny.toml", "--device", "one.toml", "--trials", "2", "--json")
    assert json.loads(again.stdout)["fronts"] == [front] and "trial 2:" not in again.stderr, "nothing is done again"
    text = (recipe / "tiny.toml").read_text().replace("[search]", '[search]\nobjectives = ["accuracy", "energy"]')
    (recipe / "rails.toml").write_text(text)
    done = compress_here("search", "rails.toml", "--device", "one.toml", "--trials", "2")
    assert done.returncode == 2 and "energy is not measured on local: it has no power rails" in done.stderr
    lost = "arm64@ssh://nobody@127.0.0.1:9"
    memory = (recipe / "rails.toml").read_text().replace('"energy"', '"memory"')
    (recipe / "memory.toml").write_text(memory)
    done = compress_here("search", "memory.toml", "--device", lost, "--device", "one.toml", "--trials", "2", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and list(found["faults"]) == [lost]
    assert [front["device"] for front in found["fronts"]] == ["one.toml"]
    assert found["fronts"][0]["objectives"] == ["accuracy", "memory"] and found["fronts"][0]["front"]


def start(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COMPRESS_QUIET_SECONDS": "0"}
    command = [sys.executable, "-m", "compress", *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    out, err = process.communicate(timeout=HANG_S)
    assert process.returncode in (0, 3), err
    return out, err


@pytest.mark.slow
def test_two_processes_search_one_is_killed_and_a_point_of_the_front_is_run(recipe):
    words = ("search", "small.toml", "--trials", "8", "--join", f"sqlite:///{recipe}/study.db", "--json")
    first = start(recipe, *words)
    for line in first.stderr:  # trained a while: killed in the middle
        if "trial 1" in line:
            break
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    two = [start(recipe, *words) for _ in range(2)]
    told = [finish(process) for process in two]
    (front,) = json.loads(told[0][0])["fronts"]
    assert len(front["trials"]) >= 8 and front["front"], "all are done, whoever did them"
    assert any("its process died; it is given out again" in err for _, err in told)
    stopped = [trial for trial in front["trials"] if trial["state"] == "stopped"]
    assert all(trial["reason"] for trial in stopped)
    ended = [trial["recipe"].partition("\n")[2] for trial in front["trials"] if trial["share"] == 1.0]
    assert len(ended) == len(set(ended)), "none was trained twice"
    number = front["front"][0]
    out, err = finish(start(recipe, "run", "small.toml", "--trial", str(number), "--join", words[5], "--json"))
    report = json.loads(out)
    assert report["recipe"]["name"] == f"small-trial-{number}"
    (trial,) = [trial for trial in front["trials"] if trial["number"] == number]
    assert [stage["use"] for stage in report["recipe"]["stages"]] == trial["stages"]
    assert (recipe / f"runs/small-trial-{number}-cpu/bundle/manifest.json").is_file()
    assert (recipe / "runs/small-search/search.html").is_file()
