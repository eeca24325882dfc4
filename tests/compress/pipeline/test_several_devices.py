"""One run for several devices: what they share is made once, and a device that fails takes nothing from the others."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import compress
from compress.pipeline.gate import ModelMetrics
from compress.pipeline.gating import Gating
from compress.pipeline.results import Attempt
from compress.pipeline.target import _names, resolve_all
from compress.recipe.spec import Budget
from compress.stages.prune import Prune
from deploy.devices import DeviceError
from profiles.errors import UserError
from tests.conftest import SMALL_RECIPE

PROFILE = """
title = "this machine, {engine} alone, channels by {multiple}"
threads = 1
channel_multiple = {multiple}
[[runtime]]
engine = "{engine}"
precisions = ["fp32"]
"""
NO_VERDICT = SimpleNamespace(verdict="-")
LOST = "arm64@ssh://nobody@127.0.0.1:9"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_KEYS", str(tmp_path / "no-keys"))
    for multiple, engine in ((8, "onnxruntime"), (4, "openvino")):
        (tmp_path / f"by{multiple}.toml").write_text(PROFILE.format(multiple=multiple, engine=engine))
    prune = '[[stage]]\nuse = "prune"\nratio = 0.4\nepochs = 1\nbatch_size = 32\n'
    text = SMALL_RECIPE.format(epochs=2, budget=100.0).partition('[[stage]]\nuse = "quantize"')[0].replace("0.1", "0.02")
    (tmp_path / "small.toml").write_text(text + prune)
    return tmp_path


def trainings(folder, kind):
    return sorted(path.name for path in (folder / "runs/.steps").glob(f"{kind}-*") if path.is_dir())


def test_a_device_that_is_away_takes_nothing_from_the_others(folder):
    (folder / "free.toml").write_text((folder / "small.toml").read_text().partition("[[stage]]")[0])
    report = compress.run("free.toml", device=["by8.toml", LOST])
    assert list(report.reports) == ["by8"] and list(report.faults) == ["arm64"] and report.training_s["by8"] > 0
    assert report.one_for_all["by8"] == report.reports["by8"].verdict.best == "teacher/onnxruntime/fp32"
    assert json.loads((folder / "runs/free-devices/devices.json").read_text())["faults"]["arm64"].startswith("ssh://nobody@")
    assert (folder / "runs/free-devices/by8/bundle/manifest.json").is_file()


@pytest.mark.slow
def test_two_devices_share_trainings(folder):
    devices = ["by8.toml", "by4.toml"]
    report = compress.run("small.toml", device=devices)
    assert list(report.reports) == ["by8", "by4"]
    assert report.same_machine == (("by8", "by4"),) and "by8 and by4 are one machine" in str(report)
    assert len(trainings(folder, "teacher")) == len(trainings(folder, "distill")) == 1
    out = folder / "runs/small-devices"
    for device, own in report.reports.items():
        assert (out / device / "bundle/manifest.json").is_file() and (out / device / "report.html").is_file()
        assert {row.title for row in own.rows if row.kind == "baseline"} == {"teacher"}
    for device, name in report.one_for_all.items():
        folder_for_all = out / device / report.shared_bundles[device]
        about = json.loads((folder_for_all / "report.json").read_text())
        assert about["verdict"]["best"] == name and (folder_for_all / "manifest.json").is_file()
        assert f"{device}/{folder_for_all.name}" in str(report) or report.has_one_best
    lent = [row for row in report.reports["by4"].rows if row.name.startswith("prune of by8")]
    assert lent and lent[0].decision in ("accepted", "rejected") and report.training_s["by8"] > 0
    if lent[0].decision == "accepted":
        assert len(trainings(folder, "prune")) == 1 and report.training_s["by4"] == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs/.steps").glob("*/step.json")}
    again = compress.run("small.toml", device=devices)
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs/.steps").glob("*/step.json")} == before
    assert again.as_json()["devices"] == {
        device: {**told, "training_s": 0.0} for device, told in report.as_json()["devices"].items()
    }


def test_what_is_wrong_with_devices_is_told_before_anything_runs(folder):
    with pytest.raises(UserError) as raised:
        compress.run("small.toml", device=["by8.toml", "by8.toml", "bored4"])
    assert [fault.partition(":")[0] for fault in raised.value.faults] == ["--device by8.toml", "no device 'bored4'"] or len(
        raised.value.faults
    ) == 2
    with pytest.raises(DeviceError):
        resolve_all([LOST])
    with pytest.raises(UserError, match="given: none"):
        compress.run("small.toml", device=[])
    with pytest.raises(UserError, match="the search on one device; given: cpu, by8.toml"):
        compress.run("small.toml", device=["cpu", "by8.toml"], trial=3)


def test_folders_are_named_by_profile_and_by_address_where_that_is_not_enough():
    given = ["cpu", "arm64@ssh://me@one:22", "arm64@ssh://me@two", "boards/lab.toml@adb://12"]
    assert list(_names(given).values()) == ["cpu", "arm64-ssh-me-one-22", "arm64-ssh-me-two", "lab"]
    assert len(set(_names(["lab.toml", "other/lab.toml"]).values())) == 2


def metrics(accuracy, latency_ms):
    return ModelMetrics(accuracy=accuracy, latency_ms=latency_ms, form="a fp32", shipped_accuracy=accuracy, size_bytes=1)


def model(key):
    return SimpleNamespace(step=SimpleNamespace(key=key), changed=True, notes=())


def gated(lent, own=(90.0, 0.5)):
    """Names and verdicts of a stage's attempts; ``lent`` and ``own`` are accuracy and time after it, from 90 and 1 ms."""
    after = {f"lent-{number}": each for number, each in enumerate(lent)}
    made, start = [], model("start")

    def compare(found, standing):
        values = after.get(found.step.key, own)
        if values is None:
            return None
        speedup = (1 / values[1], 1 / values[1])
        common = {"speedup": speedup, "drop": None, "samples": 100, "doubts": ()}
        return SimpleNamespace(before=metrics(90.0, 1.0), after=metrics(*values), **common)

    builder = SimpleNamespace(
        recipe=SimpleNamespace(budget=Budget(accuracy_drop_points=1.0)), task=SimpleNamespace(full_scale=100.0)
    )
    builder.attempt = lambda stage, *rest: made.append(stage) or model("own")
    gating = Gating(
        teacher=model("teacher"),
        builder=builder,
        evaluator=SimpleNamespace(target=lambda start: None, pool=SimpleNamespace(open=lambda: open(Path(__file__)))),
        comparer=SimpleNamespace(compare=compare, teacher_accuracy=90.0),
        progress=SimpleNamespace(say=lambda line: None),
    )
    others = [
        Attempt(
            name="prune", stage=Prune(), start="start", made=model(key), decision=SimpleNamespace(verdict="-"), form=None
        )
        for key in after
    ]
    tried = gating.attempts(Prune(ratio=0.1), start, start, [("board", other) for other in others])
    return [(attempt.name, attempt.decision.verdict) for attempt in tried], len(made)


def test_what_another_device_made_is_judged_first_and_its_own_is_trained_only_where_that_may_do_better():
    assert gated([]) == ([("prune", "accepted")], 1)
    assert gated([(89.5, 0.5)]) == ([("prune of board", "accepted")], 0), "it will do here too"
    assert gated([(89.5, 1.0)]) == ([("prune of board", "rejected"), ("prune", "accepted")], 1), "no faster here"
    assert gated([(80.0, 0.5)]) == ([("prune of board", "rejected")], 0), "its own would lose as much"
    assert gated([(80.0, 0.5), (89.5, 0.6)])[0][-1] == ("prune of board", "accepted"), "the milder one"
    assert gated([None]) == ([("prune", "accepted")], 1), "no runtime here takes it"
    assert gated([(80.0, 0.5), (89.5, 1.0)])[1] == 1
