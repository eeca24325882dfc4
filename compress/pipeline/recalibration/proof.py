"""The old and the new engine, on the device: against the float graph behind their pairs, and against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy.typing as npt

from compress.data import Samples
from compress.execution.progress import Progress
from compress.pipeline.bundle import GOLDEN_SAMPLES
from compress.pipeline.check.accuracy import Answers, compare_answers
from compress.pipeline.given import GivenForModel
from compress.pipeline.recalibration.opened import OpenedBundle
from compress.pipeline.target import ResolvedTarget
from compress.report.check_record import Finding
from deploy.bundle import golden
from deploy.engines.inputs import Inputs, as_feed, input_names, join, rows
from deploy.export.divergence import LEAST_COSINE
from deploy.measure.parity import parity
from deploy.onnx_graph.run import onnx_session
from deploy.qdq.strip import strip
from deploy.worker.client import RemoteWorker
from profiles.errors import UserError, one_line

BATCH = 256
Arrays = dict[str, npt.NDArray[Any]]
SPLIT = "the samples held out"


@final
@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was measured on the samples that were held out.

    Attributes:
        golden: inputs and the new engine's outputs, as golden.npz has them.
        before, after: least cosine of the old and the new engine's outputs with the float graph's.
        accuracy: of the new engine against the old one; None without labels.
        altered: why the old engine is not the one that was proven; empty where it is.
    """

    golden: Arrays
    before: float
    after: float
    accuracy: Finding | None
    altered: tuple[str, ...]

    def reasons(self) -> list[str]:
        """Return why the new engine is not good enough to be written; empty where it is."""
        least, found = LEAST_COSINE["int8"], []
        if self.after < min(least, self.before):
            words = f"{self.after:.5f}, {self.before:.5f} before"
            found.append(f"cosine with the float graph is {words}; {least} or no less than before is needed")
        if self.accuracy is not None and self.accuracy.answer == "worse":
            found.append(f"it is less accurate than the old one: {self.accuracy.words}")
        return found


def prove(
    opened: OpenedBundle,
    new: Path,
    held: Samples,
    given: GivenForModel,
    target: ResolvedTarget,
    scratch: Path,
    most_less: float,
    progress: Progress,
) -> Proof:
    """Build both engines on the device and run them on ``held``.

    Args:
        new: the file of the new engine.
        most_less: points that the new engine may be less accurate.

    Raises:
        UserError: the bundle's golden samples are none.
        EngineError: the runtime refused a model.
    """
    plan, arrays = opened.side.plan, _golden_arrays(opened.folder)
    reference = onnx_session(strip(opened.pairs).model)
    outputs, answers, altered = dict[str, list[Any]](), dict[str, Answers](), tuple[str, ...]()
    adapt = opened.side.engine_inputs
    inputs = adapt(join([batch.inputs for batch in held.batches(BATCH)]))
    with progress.task("proof: old and new engine", 2) as bar:
        for name, model in (("old", opened.side.model), ("new", new)):
            with RemoteWorker(target.device) as worker:
                worker.build(model, plan, scratch / name)
                names = input_names(worker.open(scratch / name))

                def predict(given: Inputs, worker: RemoteWorker = worker, names: list[str] = names) -> list[Any]:
                    return list(worker.infer(as_feed(given, names)).values())

                def judged(given: Inputs, predict: Callable[[Inputs], list[Any]] = predict) -> list[Any]:
                    return predict(adapt(given))

                if name == "old":
                    altered = _golden_faults(arrays, predict, plan.precision)
                outputs[name] = predict(inputs)
                if given.task is not None:
                    metric, scores = given.task.evaluate_samples(judged, held)
                    answers[name] = Answers(metric=metric, outputs=outputs[name], scores=scores)
            bar.advance(1, name)
    expected = reference(inputs)
    before, after = (min(parity(a, b).cosine for a, b in zip(expected, outputs[n], strict=True)) for n in ("old", "new"))
    first = rows(inputs, slice(GOLDEN_SAMPLES))
    packed = golden.pack(as_feed(first, names) if isinstance(first, Mapping) else first, _first(outputs["new"]))
    accuracy = None
    if given.task is not None:
        accuracy = compare_answers(answers["old"], answers["new"], given.task, held, most_less, SPLIT)
    return Proof(golden=packed, before=before, after=after, accuracy=accuracy, altered=altered)


def _first(outputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    return [output[:GOLDEN_SAMPLES] for output in outputs]


def _golden_arrays(folder: Path) -> Arrays:
    try:
        return golden.read(folder / "golden.npz")
    except ValueError as error:
        raise UserError(f"{folder}: {one_line(str(error), 200)}; get the bundle again") from None


def _golden_faults(arrays: Arrays, predict: Callable[[Inputs], list[Any]], precision: str) -> tuple[str, ...]:
    """Return why the old engine's outputs are not the golden ones."""
    inputs, expected = golden.unpack(arrays)
    try:
        return tuple(golden.faults(golden.compare(expected, predict(inputs)), precision))
    except ValueError as error:
        return (one_line(str(error), 200),)
