"""How long and how fast a training goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["sgd", "adamw", "muon"]
Shape = Literal["cosine", "linear", "one_cycle", "constant"]
ONE_CYCLE_WARMUP = 0.3


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The settings of a training; ``TrainedStage`` explains each."""

    epochs: int
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    bias_rate: float = 1.0
    schedule: Shape = "cosine"
    warmup: float = 0.05
    clip: float = 5.0
    ema: float = 0.0
    accumulate: int = 1
    patience: int = 0
    realisations: int = 0
    self_mix: float = 0.0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of ``steps``: a linear rise, then the shape's fall."""
        share = max(self.warmup, ONE_CYCLE_WARMUP) if self.schedule == "one_cycle" else self.warmup
        rising = max(1, round(share * steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - rising) / max(1, steps - rising)
        return self.learning_rate * (1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))
