"""Training settings, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal, final

from annotated_types import Ge, Gt, Le, Lt

Optimizer = Literal["sgd", "adamw", "muon"]
Shape = Literal["cosine", "linear", "one_cycle", "constant"]
ONE_CYCLE_WARMUP = 0.3


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a training as a recipe gives them: of the teacher, and of each stage that trains.

    Attributes:
        learning_rate: at the end of the warm-up, for ``batch_size`` samples a step.
        schedule: how the rate falls after the warm-up; ``one_cycle`` warms up over three tenths of the steps.
        warmup: fraction of all steps.
        clip: largest norm of the gradient.
        ema: decay of an exponential moving average of the weights, which then is the result; 0 for none.
        accumulate: batches a step; the step's batch is still ``batch_size``.
        patience: stop when the metric on validation has not risen for so many epochs, and take the best; 0 for never.
        realisations: epochs after which order and augmentation repeat, so that the teacher's outputs are computed
            once and kept; 0 for never.
        self_mix: share of the images in which a region shows what another one of it shows (SelfMix); for class labels.
        cut_mix: share of the images in which a region shows what another image of the batch shows (CutMix); of those the
            teacher is asked, and no loss may read a label.
        shard: whether several processes hold and train a part of the model each (FSDP2); for one that does not fit.
    """

    epochs: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(1)] = 128
    optimizer: Optimizer = "sgd"
    learning_rate: Annotated[float, Gt(0)] = 0.1
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    schedule: Shape = "cosine"
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.05
    clip: Annotated[float, Gt(0)] = 5.0
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    accumulate: Annotated[int, Ge(1)] = 1
    patience: Annotated[int, Ge(0)] = 0
    realisations: Annotated[int, Ge(0)] = 0
    self_mix: Annotated[float, Ge(0), Le(1)] = 0.0
    cut_mix: Annotated[float, Ge(0), Le(1)] = 0.0
    shard: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class Schedule(Training):
    """Settings of one training alone."""

    @classmethod
    def of(cls, given: Training) -> Schedule:
        """Pick the training settings from a stage or a recipe's teacher."""
        return cls(**{field.name: getattr(given, field.name) for field in fields(cls)})

    def rate(self, step: int, steps: int) -> float:
        """Compute the learning rate of a step, counted from 0, of ``steps``: a linear rise, then the shape's fall."""
        share = max(self.warmup, ONE_CYCLE_WARMUP) if self.schedule == "one_cycle" else self.warmup
        rising = max(1, round(share * steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - rising) / max(1, steps - rising)
        return self.learning_rate * (1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))

    @property
    def teacher_inputs(self) -> tuple[object, ...]:
        """Return the settings that decide which inputs the teacher sees."""
        return (self.batch_size, self.accumulate, self.realisations, self.self_mix, self.cut_mix)
