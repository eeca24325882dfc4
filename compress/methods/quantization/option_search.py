"""Choice among options of post-training quantisation by the metric on validation."""

from __future__ import annotations

from collections.abc import Mapping

from compress.data import Samples
from compress.data.base import evenly_spaced
from compress.data.subset import Subset
from compress.execution import distributed
from compress.execution.progress import Progress
from compress.methods.quantization.post_training import PostTraining, QuantizedModel
from compress.tasks import Task
from compress.tasks.evaluate import evaluate
from deploy.onnx_graph.run import onnx_session

LEAST_BETTER = 0.5
"""Points on validation that make another way better than the first, which is nearest to the float model's outputs."""
MOST_JUDGED = 2000


def choose_options(
    models: Mapping[PostTraining, QuantizedModel], task: Task, validation: Samples, progress: Progress
) -> tuple[PostTraining, tuple[str, ...]]:
    """Choose the options whose quantised model has the best metric, with a note where they are not the first.

    Judged in ONNX Runtime here, on ``MOST_JUDGED`` samples from all over validation: the gate asks the engine.
    """
    few = Subset(validation, evenly_spaced(len(validation), MOST_JUDGED))
    own = [
        evaluate(task, onnx_session(f.onnx()), few, progress, f"int8 {_text(way)}: evaluate") for way, f in models.items()
    ]
    right = dict(zip(models, distributed.from_main(own), strict=True))
    first, best = next(iter(models)), max(right, key=lambda way: right[way])
    if right[best] - right[first] < LEAST_BETTER:
        return first, ()
    note = f"int8 {_text(best)}: {right[best]:.2f} on {len(few)} samples of validation; {_text(first)} {right[first]:.2f}"
    return best, (note,)


def _text(way: PostTraining) -> str:
    return f"over {way.ranges}, biases {'corrected' if way.biases else 'as they are'}"
