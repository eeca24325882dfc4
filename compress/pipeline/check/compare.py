"""compress check: two models, one device, two questions."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from compress.execution.progress import Progress, keep_telling, progress_here
from compress.pipeline.check import kept
from compress.pipeline.check.accuracy import answer, compare_answers, compare_golden
from compress.pipeline.check.labelled import Labelled, of_recipe, of_runs
from compress.pipeline.check.sides import Side, open_side
from compress.pipeline.check.timing import NEW, OLD, time_until_told
from compress.pipeline.target import ResolvedTarget, resolve, runtime_versions
from compress.report.check_record import Check, Finding
from deploy.engines.inputs import pad_batch
from deploy.latency.bench import noise
from deploy.worker.client import RemoteWorker
from profiles.errors import UserError

SPLIT = "test"
MOST_LESS = 0.5
FIRST = 64
"""Samples that models are timed on, at most."""


def check(
    old: str | Path | None,
    new: str | Path,
    *,
    device: str = "cpu",
    most_slower: float = 3.0,
    most_less: float | None = None,
    recipe: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
    seconds: float = 60.0,
    keep: bool = False,
    lock_clocks: bool = False,
    progress: Progress | None = None,
) -> Check:
    """Compare two models on a device: is the new one slower, is it less accurate?

    Args:
        old, new: a run's folder, a bundle, or an ONNX file; for ``old`` None is the last one kept of the new one's name.
        device: ``PROFILE[@URL]``.
        most_slower: per cent that the new one may be slower.
        most_less: points that it may be less accurate; 0.5 without.
        recipe: names task and data that both are judged on; without one those of the run, where they are built in.
        engine, precision: of ONNX files.
        seconds: that both may be timed for, together.
        keep: keep the new one as the last, unless it is worse.
        lock_clocks: hold the device's clocks while it measures.

    Raises:
        UserError: something is not there, or cannot run on the device; all at once.

    Example:
        >>> found = compress.check("teacher.onnx", "int8.onnx", seconds=1, engine="onnxruntime")
        >>> [finding.question for finding in found.findings]
        ['latency', 'accuracy']
    """
    started, progress = time.monotonic(), progress or progress_here()
    target = resolve(device)
    target.tell_warnings(progress.say)
    versions = runtime_versions(target.device)
    with keep_telling(progress), ExitStack() as stack:
        two, labelled = _sides(old, new, target, versions, recipe, stack, engine, precision)
        if two[OLD] is None:
            progress.say(f"no model called {two[NEW].name!r} was kept for {target.profile.name}: nothing to compare with")
            return _first(two[NEW], target, keep=keep, device=device, progress=progress)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines = {name: built(side, target, scratch / name) for name, side in two.items()}
        accuracy = _accuracy(two, engines, target, labelled, most_less, progress)
        feed = feed_of(None if labelled is None else labelled[1].test)
        latency, doubts = time_until_told(
            engines, target.device, most_slower, seconds, feed, progress, lock_clocks=lock_clocks
        )
        found = Check(
            old=two[OLD].given,
            new=two[NEW].given,
            device=device,
            findings=(latency, accuracy),
            doubts=doubts,
            seconds=time.monotonic() - started,
        )
        if keep and found.answer != "worse":
            progress.say(f"kept as the last: {kept.keep(target.profile.name, two[NEW], found)}")
    return found


def _sides(
    old: str | Path | None,
    new: str | Path,
    target: ResolvedTarget,
    versions: Mapping[str, str],
    recipe: str | None,
    stack: ExitStack,
    engine: str | None,
    precision: str | None,
) -> tuple[dict[str, Any], Labelled | None]:
    """Read both models, and the labelled samples that there are; the faults of all come together."""
    faults: list[str] = []

    def tried(act: Callable[[], Any]) -> Any:
        try:
            return act()
        except UserError as error:
            faults.extend(error.faults)
            return None

    def side(given: str | Path) -> Any:
        return tried(lambda: open_side(Path(given), target.profile, versions, stack, engine, precision))

    newer = side(new)
    if old is None:
        old = kept.last(target.profile.name, newer.name) if newer else None
    two = {OLD: None if old is None else side(old), NEW: newer}
    folders = [side.folder for side in two.values() if side is not None]
    labelled = tried(lambda: of_recipe(recipe, folders)) if recipe else None
    if faults:
        raise UserError(*faults)
    return two, labelled or of_runs(list(two.values()))


def built(side: Side, target: ResolvedTarget, folder: Path) -> Path:
    """Build the engine of a model on the device; return its folder."""
    with RemoteWorker(target.device) as worker:
        worker.build(side.model, side.plan, folder)
    return folder


def _accuracy(
    two: Mapping[str, Side],
    engines: Mapping[str, Path],
    target: ResolvedTarget,
    labelled: Labelled | None,
    most_less: float | None,
    progress: Progress,
) -> Finding:
    limit = MOST_LESS if most_less is None else most_less
    if labelled is not None:
        task, samples = labelled[0], labelled[1].test
        old, new = (answer(engines[name], target.device, task, samples, progress, name) for name in (OLD, NEW))
        return compare_answers(old, new, task, samples, limit, SPLIT)
    folder = two[OLD].folder
    if folder is not None:
        return compare_golden(folder, engines[NEW], target.device, two[NEW].plan.precision, limit)
    told = "neither a run nor a bundle nor a --recipe has samples for it"
    about: dict[str, Any] = {"question": "accuracy", "limit": limit, "unit": "points", "compared": told}
    if most_less is None:
        return Finding(answer="not compared", **about)
    return Finding(answer="cannot tell", needed="labelled samples: --recipe names a recipe with them", **about)


def feed_of(samples: Samples | None) -> Callable[[Mapping[str, Any]], npt.NDArray[Any]]:
    """Return what models are timed on: first samples where they fit, else noise."""
    rows = None if samples is None else samples.load(np.arange(min(len(samples), FIRST))).inputs

    def feed(spec: Mapping[str, Any]) -> npt.NDArray[Any]:
        shape = tuple(spec["shape"])
        first = rows.get(spec["name"]) if isinstance(rows, Mapping) else rows
        if first is not None and first.shape[1:] == shape[1:]:
            return np.asarray(pad_batch(first[: shape[0]], shape[0]))
        return np.asarray(noise(np.random.default_rng(0), shape, spec["dtype"]))

    return feed


def _first(side: Side, target: ResolvedTarget, *, keep: bool, device: str, progress: Progress) -> Check:
    told, needed = "nothing was kept to compare with", "--keep, which keeps this one as the first"
    about: dict[str, Any] = {"limit": 0.0, "compared": told}
    about |= {"answer": "not compared"} if keep else {"answer": "cannot tell", "needed": needed}
    questions = (("latency", "%"), ("accuracy", "points"))
    findings = tuple(Finding(question=question, unit=unit, **about) for question, unit in questions)
    if keep:
        progress.say(f"kept as the first: {kept.keep(target.profile.name, side, None)}")
    return Check(old="last", new=side.given, device=device, findings=findings)
