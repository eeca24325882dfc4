"""A training of blobs whose losses remember, in one of several processes: python -m tests.compress.training.several FOLDER

It writes rank-N.json: what the losses remember, steps, loss and accuracy on test. With ``--die-at STEP`` the last process
kills itself there; with ``--spread`` each process holds a part of the student.
"""

import argparse
import io
import json
import os
import signal
from pathlib import Path

import torch
from torch import nn

from compress.execution import distributed
from compress.execution.progress import StreamProgress
from compress.losses import LOSSES as LOSSES_TABLE
from compress.methods.distillation.loss_specs import parse_losses
from compress.methods.distillation.objective import Objective
from compress.tasks.classification import Classification
from compress.training import state
from compress.training.schedule import Schedule
from compress.training.sharding import sharded
from compress.training.trainer import Trainer
from profiles.errors import UserError
from tests.conftest import blob_splits, count_parameters, small_model

LOSSES = [
    {"use": "task", "weight": {"use": "gradient_share", "share": 0.3, "every": 2}},
    "ps_kd",
    "taid",
    "nd",
    "tgeo",
    "codebook",
    {"use": "self_gt"},
]

SPREAD_LOSSES = ["task", "kd", "cwd", "ps_kd"]
"""Losses of logits, of layers inside and one that remembers."""


class Alone(nn.Module):
    """A loss that remembers what its own process has seen, as somebody might write it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, student_logits: torch.Tensor) -> torch.Tensor:
        self.mean += student_logits.detach().mean()
        return student_logits.square().mean()


def train(
    folder: Path, epochs: int, losses: list[object], die_at: int = -1, *, shard: bool = False, spread: bool = False
) -> dict[str, object]:
    """Train, and describe what came of it."""
    data, student, teacher = blob_splits(), small_model(1), small_model(2, width=1.0)
    told = io.StringIO()
    teacher = sharded(teacher.eval(), torch.device("cpu")) if shard else teacher
    trainer, example = Trainer(0, StreamProgress(told)), torch.from_numpy(data.train.load([0, 1]).inputs)
    objective = Objective(parse_losses(losses), Classification(), student, teacher, example, len(data.train))
    state.CHECKPOINT_SECONDS = 0.0
    begun = [state.RunState.check]

    def check(run: state.RunState, *given: object) -> None:
        begun[0](run, *given)
        if run.step == die_at and distributed.index() == distributed.count() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        steps.append(run.step)
        held.append(sum(_own(p).numel() for p in student.parameters()) / count_parameters(student))

    steps: list[int] = []
    held: list[float] = []
    state.RunState.check = check
    try:
        schedule = Schedule(epochs=epochs, batch_size=32, shard=spread, ema=0.9 if spread else 0.0)
        result = trainer.fit("blobs", student, objective, data.train, schedule, folder)
    finally:
        state.RunState.check = begun[0]
    state_dict = {name: value for name, value in objective.parts.state_dict().items() if ".running_" not in name}
    kept = {name: value.double().flatten()[:4096].tolist() for name, value in state_dict.items()}
    accuracy = Classification().evaluate(trainer.predictor(student), data.test).value
    told = {"kept": kept, "steps": steps, "loss": result.loss, "accuracy": accuracy, "weights": _weights(student)}
    return {**told, "held": held[-1], "classes": sorted({type(layer).__name__ for layer in student.modules()})}


def _own(parameter: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a parameter."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _weights(module: nn.Module) -> list[float]:
    return [float(value.detach().double().abs().sum()) for value in module.parameters()]


def teach_sharded(folder: Path) -> dict[str, object]:
    """Train with a teacher that is whole, and with one that is spread; say how much of that each process holds."""
    whole = small_model(2, width=1.0).eval().requires_grad_(False)
    spread, images = sharded(whole, torch.device("cpu")), torch.linspace(-1, 1, 4 * 256).reshape(4, 1, 16, 16)
    with torch.no_grad():
        apart = float((whole(images) - spread(images)).abs().max())
    held = sum(p.to_local().numel() for p in spread.parameters()) / sum(p.numel() for p in whole.parameters())
    one, other = (train(folder / f"sharded-{shard}", 1, ["task", "kd", "cwd"], shard=shard) for shard in (False, True))
    return {"apart": apart, "held": held, "one": one["weights"], "other": other["weights"]}


def main() -> None:
    """Train as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--die-at", type=int, default=-1)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--spread", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    try:
        losses = SPREAD_LOSSES if asked.spread else LOSSES
        told = train(asked.folder / "training", asked.epochs, losses, asked.die_at, spread=asked.spread)
        told |= {"sharded": teach_sharded(asked.folder)} if asked.alone else {}
        if asked.alone:
            LOSSES_TABLE["alone"] = "tests.compress.training.several:Alone"
            train(asked.folder / "alone", 1, ["alone"])
    except UserError as error:
        told["error"] = error.faults[0]
    (asked.folder / f"rank-{distributed.index()}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
