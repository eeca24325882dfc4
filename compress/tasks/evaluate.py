"""Evaluation of a predict function on a split, with a progress bar."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from compress.data import Samples
from compress.execution.progress import Progress
from compress.tasks import Task
from compress.tasks.base import Predict
from deploy.engines.inputs import Inputs, count


def evaluate(task: Task, predict: Predict, samples: Samples, progress: Progress, name: str) -> float:
    """Evaluate ``predict`` on all samples by the task's metric, with a progress bar; larger is better."""
    with progress.task(name, len(samples)) as bar:

        def watched(inputs: Inputs) -> list[npt.NDArray[Any]]:
            outputs = predict(inputs)
            bar.advance(count(inputs))
            return outputs

        return task.evaluate(watched, samples).value
