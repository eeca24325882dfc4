"""Of two ways to take ranges, the one that is right more often on validation."""

from __future__ import annotations

from collections.abc import Mapping

from compress import processes
from compress.data import Samples
from compress.judged import judged
from compress.onnx_session import onnx_session
from compress.progress import Progress
from compress.quantization.post_training import Quantised, Ranges
from compress.tasks import Task

WAYS: tuple[Ranges, Ranges] = ("norm", "minmax")
LEAST_BETTER = 0.5
"""Points on validation that make the second way the better one; the first is nearer to the float model's outputs."""


def better(
    found: Mapping[Ranges, Quantised], task: Task, validation: Samples, progress: Progress
) -> tuple[Ranges, tuple[str, ...]]:
    """Which of ``WAYS`` to take, by what each made of a model, and a note where it is the second."""
    first, second = WAYS
    right = {
        way: judged(task, onnx_session(found[way].onnx()), validation, progress, f"int8 over {way}: evaluate")
        for way in WAYS
    }
    if not processes.from_main(right[second] - right[first] >= LEAST_BETTER):
        return first, ()
    told = f"activations are quantised over {second}: {right[second]:.2f} on validation, over {first} {right[first]:.2f}"
    return second, (told,)
