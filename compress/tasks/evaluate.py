"""The metric of a function on a split, with a bar of the samples that are done."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from compress.data import Samples
from compress.execution.progress import Progress
from compress.tasks import Task
from compress.tasks.base import Predict


def evaluate(task: Task, predict: Predict, samples: Samples, progress: Progress, name: str) -> float:
    """The task's metric of ``predict`` over all samples; larger is better."""
    with progress.task(name, len(samples)) as bar:

        def watched(inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
            made = predict(inputs)
            bar.advance(len(inputs))
            return made

        return task.evaluate(watched, samples).value
