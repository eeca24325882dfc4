"""Stages that train with the teacher attached, and the recovery of a model that works already."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, final

from annotated_types import Ge, Gt
from pydantic import BeforeValidator
from torch import nn

from compress.execution import distributed
from compress.methods.distillation.objective import LossSpec, parse_losses
from compress.methods.distillation.query_budget import QueriedSignals
from compress.stages.base import Context, Stage
from compress.training.schedule import Schedule, Training

Losses = Annotated[tuple[LossSpec, ...], BeforeValidator(parse_losses)]
STEPS, MILD = 100, 0.001
"""From so many steps on a recovery has its full rate: what the first of fewer destroy, the last cannot repair. Rates up to
``MILD`` destroy nothing. Digits, half of the channels gone, 97.8 %: 7 steps at 0.02 end at 92.5 %, at 0.0014 at 98.3."""
RECOVERY = parse_losses(
    [{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}, "attention", {"use": "cwd", "weight": 3.0}]
)
"""Of what is in docs/losses.md and docs/benchmarks.md: ``cwd`` is what trainings of minutes gain most from."""


@dataclass(frozen=True, kw_only=True)
class TrainedStage(Training, Stage):
    """Stage that trains with the teacher attached.

    Attributes:
        losses: what the student learns from; ``compress losses`` lists them.
    """

    epochs: Annotated[int, Ge(0)] = 10
    learning_rate: Annotated[float, Gt(0)] = 0.05
    losses: Losses = RECOVERY

    @final
    def train(
        self,
        module: nn.Module,
        context: Context,
        part: str = "",
        epochs: int | None = None,
        answers: QueriedSignals | None = None,
    ) -> nn.ModuleList | None:
        """Train ``module`` in place as the fields say, 0 epochs leave it as it is; returns what ``Context.train`` does.

        Args:
            part, epochs: where a stage trains several times: which of them it is, and its share of the epochs.
            answers: what the teacher said, where it was asked before.
        """
        schedule = Schedule.of(self) if epochs is None else replace(Schedule.of(self), epochs=epochs)
        if not schedule.epochs:
            return None
        return context.train(self.name, module, self.losses, schedule, part, answers)

    @final
    def recover(self, module: nn.Module, context: Context, part: str = "", epochs: int | None = None) -> tuple[str, ...]:
        """Train a module that works already, in place as ``train`` does; what it was stays where that is better.

        Short trainings can end below a good start, by the metric on validation. Of less than ``STEPS`` steps they have as
        much less of a rate above ``MILD``.

        Returns:
            Notes where the rate is lower, and where it stays as it was.
        """
        epochs = self.epochs if epochs is None else epochs
        if not epochs:
            return ()
        schedule, notes = self._recovery(len(context.data.train), epochs)
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        before = context.judge(module, f"{self.name}: before training")
        context.train(self.name, module, self.losses, schedule, part, trained=True)
        after = context.judge(module, f"{self.name}: after training")
        if not distributed.from_main(after < before):
            return notes
        module.load_state_dict(kept)
        note = f"training ended at {after:.2f} on validation, {before - after:.2f} below where it started: kept as it was"
        return (*notes, f"{note}; more epochs or a lower learning_rate (now {self.learning_rate:g}) may help")

    def _recovery(self, samples: int, epochs: int) -> tuple[Schedule, tuple[str, ...]]:
        """Return the schedule of a recovery on so many samples, and a note where its rate is lower than the field."""
        steps = epochs * max(1, samples // self.batch_size)
        rate = min(self.learning_rate, max(MILD, self.learning_rate * steps / STEPS))
        schedule = replace(Schedule.of(self), epochs=epochs, learning_rate=rate)
        note = f"trained for {steps} steps, so at a rate of {rate:.2g}: learning_rate is for {STEPS} and more"
        return schedule, (note,) if rate < self.learning_rate else ()
