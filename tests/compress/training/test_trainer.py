import io
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from compress.execution.progress import StreamProgress
from compress.methods.distillation.objective import Objective, parse_losses
from compress.models.checkpoint import load_tensors
from compress.tasks.classification import Classification
from compress.training.schedule import Schedule
from compress.training.state import CHECKPOINT
from compress.training.trainer import LAYOUT, Trainer
from profiles.errors import UserError
from tests.conftest import ROOT, small_model


def fit(module, data, folder, quiet, example, losses=("task",), **settings):
    schedule = Schedule(**{"epochs": 3, "batch_size": 32, "learning_rate": 0.1, **settings})
    teacher = None if losses == ("task",) else small_model(7, width=1.0)
    objective = Objective(parse_losses(losses), Classification(), module, teacher, example, len(data.train))
    return Trainer(0, quiet).fit("test", module, objective, data.train, schedule, folder)


def test_it_learns(data, tmp_path, quiet, example):
    module = small_model()
    fit(module, data, tmp_path, quiet, example, epochs=8)
    metric = Classification().evaluate(Trainer(0, quiet).predictor(module), data.test)
    assert metric.value > 90
    assert (metric.unit, metric.samples) == ("%", 64)


def test_sgd_is_doubted_where_nothing_normalises(data, tmp_path, example):
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 4))

    def said(module, **settings):
        stream = io.StringIO()
        fit(
            module,
            data,
            tmp_path / str(len(list(tmp_path.iterdir()))),
            StreamProgress(stream),
            example,
            epochs=1,
            **settings,
        )
        return stream.getvalue()

    assert "test: SGD with a rate of 0.1 can drive a network without normalisation layers to zero" in said(plain)
    assert "SGD" not in said(plain, optimizer="adamw") + said(plain, learning_rate=5e-4) + said(small_model())


def test_the_rate_rises_then_falls_to_zero():
    schedule = Schedule(epochs=1, learning_rate=1.0, warmup=0.1)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


def test_a_linear_rate_falls_by_the_same_each_step():
    schedule = Schedule(epochs=1, learning_rate=1.0, warmup=0.2, schedule="linear")
    rates = [schedule.rate(step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_the_same_seed_gives_the_same_bytes(data, tmp_path, quiet, example):
    states = []
    for name in "ab":
        module = small_model()
        fit(module, data, tmp_path / name, quiet, example)
        states.append(module.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


RESUMED = """
import io, json, os, signal, sys, torch
from pathlib import Path
import compress.training.state as run_state, compress.training.trainer as training
from compress.execution.progress import StreamProgress
from tests.compress.training.test_trainer import fit
from tests.conftest import blob_splits, small_model
run_state.CHECKPOINT_SECONDS = 0.0
step = training.Trainer._step
def dies(self, *a):
    if a[2].step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *a)
training.Trainer._step = dies
data = blob_splits()
settings = json.loads(sys.argv[3])
quiet = StreamProgress(io.StringIO())
fit(small_model(), data, Path(sys.argv[1]), quiet, torch.from_numpy(data.train.images[:2]), **settings)
"""


LEARNT = ["task", "taid", "ps_kd", "tgeo", "nd", "codebook", "mdcs", "visible_tokens"]
LEARNT_WEIGHT = {"use": "cwd", "weight": {"use": "gradient_share", "every": 1}}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),  # the next one resumes all of this and more
        {"optimizer": "adamw", "learning_rate": 0.003, "ema": 0.9, "losses": [*LEARNT, LEARNT_WEIGHT]},
        pytest.param({"optimizer": "muon"}, marks=pytest.mark.slow),
    ],
    ids=["plain", "with parts of losses", "muon"],
)
def test_killed_in_the_middle_of_an_epoch_and_resumed_it_ends_the_same(settings, data, tmp_path, quiet, example):
    whole = small_model()
    fit(whole, data, tmp_path / "whole", quiet, example, **settings)
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", RESUMED, str(killed), "6", json.dumps(settings)]
    process = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert process.returncode == -signal.SIGKILL
    _, about = load_tensors(killed / CHECKPOINT)
    assert about["step"] == 6, "four steps an epoch: killed inside the second"
    resumed = small_model(99)
    fit(resumed, data, killed, quiet, example, **settings)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_a_damaged_checkpoint_is_told_and_the_training_begins_anew(data, tmp_path, example, monkeypatch):
    """Damaged anywhere: the training ends as it would have, and says so in one line; undamaged, it goes on from there."""

    def trained(folder):
        stream, module = io.StringIO(), small_model()
        result = fit(module, data, folder, StreamProgress(stream), example, epochs=1, optimizer="adamw", learning_rate=0.003)
        assert result.steps == 4
        return module.state_dict(), stream.getvalue()

    monkeypatch.setattr("compress.training.state.CHECKPOINT_SECONDS", 0.0)
    whole, said = trained(tmp_path)
    assert "damaged" not in said
    file = tmp_path / CHECKPOINT
    content = file.read_bytes()
    assert load_tensors(file)[1]["step"] == 3
    assert "damaged" not in trained(tmp_path)[1]
    places = np.random.default_rng(0).integers(0, len(content), 8)
    flipped = [content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :] for i in [3, 40, *places]]
    for damaged in [*flipped, *(content[:i] for i in [0, 7, *places[:3]])]:
        file.write_bytes(damaged)
        (tmp_path / LAYOUT).write_bytes(b"channels_l\xff\x00")
        found, said = trained(tmp_path)
        assert said.count("is damaged, or an earlier version's; the training begins anew") == 1
        assert all(torch.equal(value, whole[name]) for name, value in found.items())


class Breaks(Classification):
    """A classification whose loss is NaN from its tenth step on."""

    steps = 0

    def loss(self, outputs, targets):
        self.steps += 1
        return super().loss(outputs, targets) * (math.nan if self.steps >= 10 else 1.0)


def test_a_loss_that_is_not_finite_stops_it_and_the_last_good_state_is_kept(data, tmp_path, quiet, example):
    module = small_model()
    objective = Objective(parse_losses(["task"]), Breaks(), module, None, example)
    words = r"test: the loss is not finite in step 10 of 12 \(task\); the state after step 8 is kept.*lower learning_rate"
    with pytest.raises(UserError, match=words):
        Trainer(0, quiet).fit("test", module, objective, data.train, Schedule(epochs=3, batch_size=32), tmp_path)
    good, about = load_tensors(tmp_path / CHECKPOINT)
    assert about["step"] == 8
    assert all(torch.isfinite(tensor).all() for tensor in good.values())


def test_a_small_data_set_is_one_batch(data, tmp_path, quiet, example):
    assert fit(small_model(), data, tmp_path, quiet, example, batch_size=10_000).steps == 3


def test_progress_tells_steps_and_time_left(data, tmp_path, example, monkeypatch):
    import io

    from compress.execution import progress

    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    stream = io.StringIO()
    fit(small_model(), data, tmp_path, progress.StreamProgress(stream), example)
    assert "test: 12/12" in stream.getvalue()
    assert "s left" in stream.getvalue()
    assert math.isfinite(float(stream.getvalue().split("loss ")[-1]))


def test_augmentation_depends_on_its_generator_alone(data):
    from tests.conftest import blobs

    samples = blobs()
    samples._shift = 2
    first, again, other = (samples.load(np.arange(8), np.random.default_rng(s)).inputs for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == other.shape == (8, 1, 16, 16)


def test_an_average_of_weights_is_the_result(data, tmp_path, quiet, example):
    plain, averaged = small_model(), small_model()
    fit(plain, data, tmp_path / "a", quiet, example, epochs=2)
    fit(averaged, data, tmp_path / "b", quiet, example, epochs=2, ema=0.9)
    start = small_model().state_dict()["conv1.weight"]
    moved, less = (m.state_dict()["conv1.weight"] - start for m in (plain, averaged))
    assert 0 < less.norm() < moved.norm()


def test_accumulating_is_the_same_step_up_to_batch_statistics(data, tmp_path, quiet, example):
    whole, parts = (small_model() for _ in range(2))
    for module in (whole, parts):
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.0
    first = fit(whole, data, tmp_path / "a", quiet, example, epochs=1)
    second = fit(parts, data, tmp_path / "b", quiet, example, epochs=1, accumulate=2)
    assert first.steps == second.steps
    assert first.loss == pytest.approx(second.loss, rel=0.2)


def test_patience_takes_the_best_and_stops(data, tmp_path, quiet, example):
    module = small_model()
    metrics = iter([10.0, 30.0, 20.0, 25.0, 99.0])
    seen = []

    def validate(candidate):
        seen.append({k: v.clone() for k, v in candidate.state_dict().items()})
        return next(metrics)

    schedule = Schedule(epochs=10, batch_size=32, patience=2)
    objective = Objective(parse_losses(["task"]), Classification(), module, None, example)
    done = Trainer(0, quiet).fit("x", module, objective, data.train, schedule, tmp_path, validate=validate)
    assert done.steps == 4 * 4, "two epochs without a better metric after the second"
    assert all(torch.equal(v, seen[1][k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "learning_rate": 3e-3},
        pytest.param({"optimizer": "muon"}, marks=pytest.mark.slow),
        {"schedule": "linear"},
        {"schedule": "one_cycle"},
        {"schedule": "constant"},
    ],
)
def test_every_optimizer_and_shape_learns(settings, data, tmp_path, quiet, example):
    module = small_model()
    fit(module, data, tmp_path, quiet, example, epochs=8, **settings)
    assert Classification().evaluate(Trainer(0, quiet).predictor(module), data.test).value > 80


def test_trackers_write(data, tmp_path, quiet, example):
    pytest.importorskip("tensorboard")
    trainer = Trainer(0, quiet, ("tensorboard",), tmp_path / "tracked")
    module = small_model()
    objective = Objective(parse_losses(["task"]), Classification(), module, None, example)
    trainer.fit("x", module, objective, data.train, Schedule(epochs=1, batch_size=32), tmp_path)
    assert list((tmp_path / "tracked").rglob("events.out.tfevents*"))
