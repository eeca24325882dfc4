"""Races of a real engine, kept under their conditions; a Raspberry Pi's command says what a test makes it say."""

import io
import os

import numpy as np
import pytest

from compress.execution.cache import Step, StepCache
from compress.execution.progress import StreamProgress
from compress.pipeline.races import MOST_TRIES, RaceOptions, Races
from deploy.devices import device
from deploy.engines import engine
from deploy.measure import load, timing
from deploy.worker.client import RemoteWorker
from deploy.worker.pool import WorkerPool
from profiles.device import load as load_profile
from profiles.errors import UserError
from tests.deploy.tiny import tiny_onnx


@pytest.fixture
def built(tmp_path):
    plan = engine("onnxruntime").plan(load_profile("cpu"), "fp32", engine("onnxruntime").affinity().version)
    with RemoteWorker(device("local")) as worker:
        worker.build(tiny_onnx(tmp_path / "model.onnx"), plan, tmp_path / "step/engine")
    return Step(folder=tmp_path / "step", key="engine-1", facts={}, seconds=0.0)


@pytest.fixture
def throttled(tmp_path, monkeypatch):
    """Says of all later readings whether the board is throttled; nothing else of this machine counts."""
    pi, state = tmp_path / "vcgencmd", tmp_path / "state"
    pi.write_text(f"#!/bin/sh\necho throttled=$(cat {state})\n")
    pi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for module, name in ((load, "MOST_OTHERS"), (load, "MOST_STOLEN"), (load, "MOST_INTERRUPTIONS_PER_S")):
        monkeypatch.setattr(module, name, float("inf"))
    for name in ("MOST_OVER_MINIMUM", "MOST_CV"):
        monkeypatch.setattr(timing, name, float("inf"))
    return lambda is_hot: state.write_text("0x4" if is_hot else "0x0")


def races(root, **options):
    """Races of a new run that shares the steps of the runs before."""
    there, quiet = device("local"), StreamProgress(io.StringIO())
    setting = {"power_mode": options.pop("power_mode", None)}
    return Races(
        there,
        WorkerPool(there),
        StepCache(root / "steps", quiet),
        quiet,
        device_key={},
        setting=setting,
        feed=lambda samples: np.zeros((samples, 1, 16, 16), np.float32),
        options=RaceOptions(**{"quiet_seconds": 5.0, **options}),
    )


def count(root):
    return len(list((root / "steps").glob("race-*/step.json")))


def test_a_race_in_doubt_is_timed_again_once_the_device_is_quiet_and_a_clean_one_is_kept(tmp_path, built, throttled):
    throttled(True)
    hot = races(tmp_path)
    assert hot.run([built], 0.01).doubts == ("throttled now (1 before, 1 after)",)
    assert hot.run([built], 0.01).doubts and count(tmp_path) == 1, "once a run"
    assert races(tmp_path, quiet_seconds=0.0).run([built], 0.01).doubts and count(tmp_path) == 1, "as it was asked"
    throttled(False)
    assert races(tmp_path).run([built], 0.01).doubts == () and count(tmp_path) == 2
    kept = races(tmp_path).run([built], 0.01)
    assert kept.doubts == () and count(tmp_path) == 2, "clean: never timed again"
    assert races(tmp_path, power_mode="15W").run([built], 0.01) is not kept and count(tmp_path) == 3, "another setting"
    throttled(True)
    again = races(tmp_path, again=True).run([built], 0.01)
    assert count(tmp_path) == 4 and again.doubts == (), "timed again as asked; the clean one counts"
    assert again.latency(built) == kept.latency(built)


@pytest.mark.slow
def test_what_is_never_clean_is_timed_three_times_and_then_taken(tmp_path, built, throttled):
    throttled(True)
    for tries in (1, 2, 3, 4):
        races(tmp_path).run([built], 0.01)
        assert count(tmp_path) == min(tries, MOST_TRIES)


def test_measuring_again_trains_nothing(tmp_path):
    cache = StepCache(tmp_path, StreamProgress(io.StringIO()), trains=False)
    with pytest.raises(UserError, match="^prune: not there, and --measure-again trains nothing; .* run without it"):
        cache.step("prune", {}, lambda folder: None, together=True)
    assert cache.step("race", {}, lambda folder: {"ms": 1.0}).facts == {"ms": 1.0}
    assert cache.find("race", {}).facts == {"ms": 1.0} and cache.find("race", {"other": 1}) is None
