"""compress cascade: two models as one, the margin chosen on validation, judged on test, timed in turns."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from compress.execution.cache import check_writable
from compress.execution.locks import only_writer
from compress.execution.progress import Progress, keep_telling, progress_here
from compress.pipeline.check.accuracy import answer
from compress.pipeline.check.compare import built, feed_of
from compress.pipeline.check.labelled import of_recipe, of_runs
from compress.pipeline.check.sides import Side, open_side
from compress.pipeline.check.timing import race_once
from compress.pipeline.paired import drop_interval
from compress.pipeline.target import resolve, runtime_versions
from compress.report.cascade_record import CascadeReport, Times
from compress.tasks.classification import Classification
from deploy.bundle import cascade as cascades
from deploy.bundle import manifest as manifests
from deploy.bundle.cascade import LARGE, SMALL, margins
from deploy.files.folders import replaced_folder
from deploy.measure.timing import ROUNDS
from profiles.errors import UserError, one_line

ALL = 2.0
"""No margin is as large: all samples go on."""
RACES = 2


def cascade(
    small: str | Path,
    large: str | Path,
    *,
    device: str = "cpu",
    recipe: str | None = None,
    most_less: float = 0.0,
    seconds: float = 10.0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> CascadeReport:
    """Let a small model answer where it is sure, and a large one elsewhere.

    Args:
        small, large: runs, bundles or ONNX files of one task.
        recipe: names task and data; without one those of a run, where they are built in.
        most_less: points that the cascade may be below the large model on validation.
        seconds: that both are timed for, together.
        out: where both bundles and the margin go, for ``deploy.bundle.cascade.load``; nowhere without.

    Raises:
        UserError: they are no classifiers of one sample at a time, there are no labelled samples, or ``out`` is asked of
            ONNX files.
    """
    progress, target = progress or progress_here(), resolve(device)
    target.tell_warnings(progress.say)
    versions = runtime_versions(target.device)
    if out is not None:
        check_writable(Path(out))
    with keep_telling(progress), ExitStack() as stack:
        two = {
            name: open_side(Path(given), target.profile, versions, stack) for name, given in ((SMALL, small), (LARGE, large))
        }
        labelled = of_recipe(recipe, [side.folder for side in two.values()]) if recipe else of_runs(list(two.values()))
        _check(two, None if labelled is None else labelled[0], out)
        assert labelled is not None
        task, data = labelled
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines = {name: built(side, target, scratch / name) for name, side in two.items()}

        def told(samples: Samples) -> dict[str, npt.NDArray[Any]]:
            answers = {n: answer(engines[n], target.device, task, samples, progress, n) for n in (SMALL, LARGE)}
            scores = {name: np.asarray(each.scores) for name, each in answers.items()}
            return {**scores, "margin": margins(answers[SMALL].outputs[0])}

        validation = told(data.validation)
        margin = choose_margin(validation["margin"], validation[SMALL], validation[LARGE], most_less / 100)
        test = told(data.test)
        calls: dict[str, list[float]] = {SMALL: [], LARGE: []}
        doubts: dict[str, None] = {}
        block_s = seconds / RACES / ROUNDS / len(two)
        feed = feed_of(data.test)
        with progress.task("cascade: races", RACES) as bar:
            for _ in range(RACES):
                raced = race_once(engines, target.device, feed, block_s)
                for name, times in raced.times.items():
                    calls[name] += times.called
                doubts |= dict.fromkeys(raced.doubts)
                bar.advance(1)
    found = _report(two, device, task.metric, task.unit, margin, validation["margin"], test, calls, tuple(doubts))
    if out is not None:
        with only_writer(Path(out)):
            _write(two, Path(out), margin)
    return found


def choose_margin(sure: npt.NDArray[Any], small: npt.NDArray[Any], large: npt.NDArray[Any], most_less: float = 0.0) -> float:
    """Choose the least margin from which the small model may answer, so that both together lose no more than ``most_less``.

    Args:
        sure: margin of the small model's answer to each sample.
        small, large: whether each model is right, 0 or 1 for each sample.
        most_less: share of the samples.

    Returns:
        Samples with a smaller margin go on to the large model; ``ALL`` where all have to.

    Example: the small model is wrong where it is least sure:
        >>> choose_margin(np.array([0.1, 0.3, 0.6, 0.9]), np.array([0, 1, 1, 1]), np.array([1, 1, 1, 1]))
        0.3
    """
    order = np.argsort(sure, kind="stable")
    went_on = np.concatenate([[0.0], np.cumsum(large[order])])
    stayed = np.concatenate([np.cumsum(small[order][::-1])[::-1], [0.0]])
    sorted_margins = np.concatenate([sure[order], [ALL]])
    least = large.sum() - most_less * len(sure) - 1e-9
    for count in range(len(sure) + 1):
        is_a_cut = count == 0 or sorted_margins[count] > sorted_margins[count - 1]
        if is_a_cut and went_on[count] + stayed[count] >= least:
            return 0.0 if count == 0 else float(sorted_margins[count])
    raise AssertionError("all samples gone on are the large model's own accuracy")


def compose(small: list[float], large: list[float], went_on: float, seed: int = 0) -> Times:
    """Compose the times of a cascade of single inferences of both models, where a share of the samples goes on."""
    rng, count = np.random.default_rng(seed), 20_000
    drawn = rng.choice(small, count) + np.where(rng.random(count) < went_on, rng.choice(large, count), 0.0)
    mean = float(np.mean(small)) + went_on * float(np.mean(large))
    worst = max(small) + (max(large) if went_on > 0 else 0.0)
    return Times(mean=mean, p50=float(np.median(drawn)), p90=float(np.quantile(drawn, 0.9)), worst=worst)


def _report(
    two: Mapping[str, Side],
    device: str,
    metric: str,
    unit: str,
    margin: float,
    validation: npt.NDArray[Any],
    test: Mapping[str, npt.NDArray[Any]],
    calls: Mapping[str, list[float]],
    doubts: tuple[str, ...],
) -> CascadeReport:
    goes_on = test["margin"] < margin
    both = np.where(goes_on, test[LARGE], test[SMALL])
    low, high = drop_interval(test[LARGE], both)
    share = float(goes_on.mean())
    own = {name: compose(times, times, 0.0) for name, times in calls.items()}
    return CascadeReport(
        small=two[SMALL].given,
        large=two[LARGE].given,
        device=device,
        margin=margin,
        went_on_validation=float((validation < margin).mean()),
        went_on=share,
        metric=metric,
        unit=unit,
        accuracy={
            name: 100 * float(right.mean())
            for name, right in ((SMALL, test[SMALL]), (LARGE, test[LARGE]), ("cascade", both))
        },
        drop=(100 * low, 100 * float(test[LARGE].mean() - both.mean()), 100 * high),
        times={**own, "cascade": compose(calls[SMALL], calls[LARGE], share)},
        samples=len(both),
        doubts=doubts,
    )


def _check(two: Mapping[str, Side], task: Any, out: str | Path | None) -> None:
    faults: list[str] = []
    if task is None:
        faults.append("there are no labelled samples to choose the margin on: --recipe names a recipe with them")
    elif not isinstance(task, Classification):
        faults.append("a cascade is of classifiers: how sure other outputs are, nothing says")
    faults += [
        f"{side.given}: runs {side.plan.batch} samples at once, and a cascade one"
        for side in two.values()
        if side.plan.batch != 1
    ]
    if out is not None:
        for name in two:
            if others := manifests.unlisted(Path(out, name)):
                named = one_line(", ".join(others[:3]), 100)
                faults.append(f"--out {out}: {name} in it has files that are of no bundle ({named}); give another folder")
        faults += [
            f"{side.given}: an ONNX file; --out takes runs or bundles" for side in two.values() if side.folder is None
        ]
    if faults:
        raise UserError(*faults)


def _write(two: Mapping[str, Side], out: Path, margin: float) -> None:
    """Copy both bundles, and write the margin."""
    for name, side in two.items():
        assert side.folder is not None
        with replaced_folder(out / name) as part:
            shutil.copytree(side.folder, part, dirs_exist_ok=True)
    cascades.write(out, margin)
