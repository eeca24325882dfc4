"""What is before the engine, folded into its file where that is faster: layout and normalisation of pictures' bytes.

The row to ship is built again from files that take bytes (``deploy.onnx_graph.take_bytes``), and the whole paths of all
forms are timed in turns on the device. One that gives the same outputs and whose total is shown to be faster, by its rounds,
is what ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy.typing as npt
import onnx

from compress.execution.progress import Progress, follow
from compress.methods.cost_model import LEAST_GAIN
from compress.pipeline.cache_keys import code_key
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import Variant
from compress.pipeline.whole_path import WholePath, taking_bytes
from compress.report.record import FoldedForm
from deploy.bundle import golden as goldens
from deploy.engines import EngineError
from deploy.engines.inputs import Inputs, as_feed, input_names
from deploy.measure.path_times import PathLatency, path_latency_from
from deploy.measure.timing import ROUNDS, ratio_interval
from deploy.onnx_graph.take_bytes import FORMS, take_bytes
from deploy.processing.preprocessing.pixels import normalise_from
from deploy.worker.client import RemoteWorker
from deploy.worker.whole_path import race_paths
from profiles.errors import UserError, one_line

PLAIN = "plain"
FOLDABLE = ("image", "fitted", "figure")
"""Preprocessings that end with bytes of the input's size."""

WORDS = {"nodes": "normalisation and layout are nodes of the file", "convolution": "the first convolution normalises"}


@final
@dataclass(frozen=True, kw_only=True)
class Folded:
    """The form that ships in the place of the plain one.

    Attributes:
        form: of ``deploy.onnx_graph.take_bytes.FORMS``.
        model: its file; ``engine`` the folder of its engine.
        path: what is around it.
        before, after: the whole path of the plain form and of this, in one race.
        speedup: interval of how many times less time the whole path takes, by the rounds.
    """

    form: str
    model: Path
    engine: Path
    path: WholePath
    before: PathLatency
    after: PathLatency
    speedup: tuple[float, float]

    def infer(self, evaluator: Evaluator, inputs: Inputs) -> list[npt.NDArray[Any]]:
        """Run its engine on bytes (samples, height, width, channels)."""
        with evaluator.pool.worker() as worker:
            return list(worker.infer(as_feed(inputs, input_names(worker.open(self.engine)))).values())

    def record(self) -> FoldedForm:
        """Return what a report holds of it."""
        return FoldedForm(form=self.form, before=self.before, after=self.after, speedup=self.speedup)


def fold(best: Variant, evaluator: Evaluator, progress: Progress, seconds: float) -> tuple[Folded | None, str]:
    """Race the whole path of a variant with its preprocessing folded in against the plain one; with a line for the report.

    Returns:
        The form to ship where it is faster, else None; and what was found, empty where there is nothing to fold.
    """
    plan, path = evaluator.plan(best), evaluator.whole_path(best, "validation")
    about = path.preprocessing
    if plan.format.exporter or about.get("use") not in FOLDABLE or evaluator.packed(best) is not None:
        return None, ""
    built, source = evaluator.built(best), evaluator.model_path(best)
    paths = {PLAIN: path, **{form: taking_bytes(path) for form in FORMS}}
    decided = {
        "engine": built.key,
        "path": path.key(),
        "seconds": seconds,
        "code": code_key(take_bytes, race_paths, fold),
    }

    def make(folder: Path) -> dict[str, Any]:
        evaluator.pool.clear()
        engines, left_out = {PLAIN: built.folder / "engine"}, {}
        model, normalise = onnx.load(str(source)), normalise_from(about)
        with RemoteWorker(evaluator.device) as worker:
            for form in FORMS:
                made = take_bytes(model, normalise, form)
                if made is None:
                    continue
                (folder / form).mkdir()
                onnx.save(made, str(folder / form / plan.model_file))
                try:
                    worker.build(folder / form / plan.model_file, plan, folder / form / "engine")
                    engines[form] = folder / form / "engine"
                except EngineError as error:
                    left_out[form] = one_line(str(error), 200)
        try:
            return {**_raced(engines, paths, evaluator, progress, seconds, left_out, plan.precision), "left_out": left_out}
        except UserError as error:
            return {"path_ms": {}, "ratio": {}, "left_out": {PLAIN: str(error)}}

    step = evaluator.cache.step("folded", decided, make)
    return _chosen(step.folder, step.facts, paths, plan.model_file)


def _raced(
    engines: Mapping[str, Path],
    paths: Mapping[str, WholePath],
    evaluator: Evaluator,
    progress: Progress,
    seconds: float,
    left_out: dict[str, str],
    precision: str,
) -> dict[str, Any]:
    with ExitStack() as stack:
        workers: dict[str, RemoteWorker] = {}
        expected: list[npt.NDArray[Any]] = []
        for form, engine in engines.items():
            worker = stack.enter_context(RemoteWorker(evaluator.device))
            names = input_names(worker.open(engine))
            outputs = list(worker.infer(as_feed(paths[form].inputs(), names)).values())
            expected = expected or outputs
            if fault := _unlike(expected, outputs, precision):
                left_out[form] = fault
                continue
            paths[form].describe_to(worker)
            workers[form] = worker
        with progress.task("measure what is folded in", ROUNDS) as bar:
            times = race_paths(workers, seconds, follow(bar)) if len(workers) > 1 else {}
    totals = {form: each.medians() for form, each in times.items()}
    ratio = {form: list(ratio_interval(totals[PLAIN], totals[form])) for form in totals if form != PLAIN}
    return {"path_ms": {form: asdict(each.summary()) for form, each in times.items()}, "ratio": ratio}


def _unlike(expected: list[npt.NDArray[Any]], outputs: list[npt.NDArray[Any]], precision: str) -> str:
    """Say how far outputs are from the plain form's; empty where they are the same within an engine's rounding."""
    try:
        return "; ".join(goldens.faults(goldens.compare(expected, outputs), precision))
    except ValueError as error:
        return str(error)


def _chosen(
    folder: Path, facts: Mapping[str, Any], paths: Mapping[str, WholePath], model_file: str
) -> tuple[Folded | None, str]:
    found = {form: path_latency_from(each) for form, each in facts["path_ms"].items()}
    if PLAIN not in found:
        return None, "; ".join(f"not folded: {reason}" for reason in facts["left_out"].values())
    plain = found[PLAIN]
    form = min((each for each in found if each != PLAIN), key=lambda each: found[each].total.p50)
    low, high = facts["ratio"][form]
    told = (
        f"bytes in ({WORDS[form]}): the whole path takes {found[form].total.p50:.3f} ms, plain {plain.total.p50:.3f} "
        f"({low:.2f}x to {high:.2f}x)"
    )
    if low < LEAST_GAIN:
        return None, f"{told}: not shown to be faster, so the bundle takes normalised floats"
    folded = Folded(
        form=form,
        model=folder / form / model_file,
        engine=folder / form / "engine",
        path=paths[form],
        before=plain,
        after=found[form],
        speedup=(low, high),
    )
    return folded, f"{told}: the bundle has it so"
