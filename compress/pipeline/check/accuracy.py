"""Whether a new model is less accurate: both answer the same samples, and the answers are compared in pairs.

- Each sample right or wrong: samples lost and won by the new model; score interval of the difference, McNemar's exact test.
- Other metrics: of both on the same samples drawn with replacement, many times; the spread of the difference.
- Without labelled samples: the golden samples of a bundle, which can show that two models answer alike, and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data import Batch, Samples
from compress.data.base import Indices
from compress.execution.progress import Bar, Progress
from compress.pipeline.check.sides import GOLDEN
from compress.pipeline.intervals import Interval, mcnemar, paired_difference
from compress.report.check_record import Finding
from compress.tasks import Metric, Task
from deploy.bundle import golden
from deploy.devices import Device
from deploy.engines.inputs import ONE, Inputs, as_feed, by_name, input_names, sample_shapes
from deploy.engines.inputs import count as rows_in
from deploy.worker.client import RemoteWorker

CONFIDENCE = 0.95
"""Of each bound."""
RESAMPLES, LEAST_RESAMPLES = 400, 60
MOST_RESAMPLING_S = 120.0


@final
@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model answered on a split.

    Attributes:
        outputs: of shape (samples, ...), in the model's order.
        scores: of each sample, as a share of the metric's scale; None where the metric is no mean over samples.
    """

    metric: Metric
    outputs: list[npt.NDArray[Any]]
    scores: npt.NDArray[Any] | None = None


def answer(engine: Path, device: Device, task: Task, samples: Samples, progress: Progress, name: str) -> Answers:
    """Run a built engine on every sample of a split, and evaluate it."""
    parts: list[list[npt.NDArray[Any]]] = []
    with RemoteWorker(device) as worker, progress.task(f"answers of the {name} model", len(samples)) as bar:
        predict = _Recorder(worker, input_names(worker.open(engine)), parts, bar)
        metric, scores = task.evaluate_samples(predict, samples)
    task.check_metric(metric)
    return Answers(metric=metric, outputs=[np.concatenate(each) for each in zip(*parts, strict=True)], scores=scores)


def compare_answers(
    old: Answers, new: Answers, task: Task, samples: Samples, most_less: float, split: str, seed: int = 0
) -> Finding:
    """Compare two models' answers on the same labelled samples.

    Args:
        most_less: points that the new one may be less accurate; a point is a hundredth of the metric's scale.
    """
    count, name = len(samples), old.metric.name
    figures = f"{name} {old.metric.value:.2f} -> {new.metric.value:.2f} {old.metric.unit} on {count} samples of {split}"
    if old.scores is not None and new.scores is not None and np.isin([old.scores, new.scores], (0, 1)).all():
        lost, won = int((old.scores > new.scores).sum()), int((new.scores > old.scores).sum())
        interval = paired_difference(lost, won, count, CONFIDENCE)
        facts: dict[str, Any] = {"lost": lost, "won": won, "mcnemar_p": mcnemar(lost, won)}
        compared = f"{figures}: {lost} lost, {won} won, McNemar p = {facts['mcnemar_p']:.3g}"
        is_same = lost == won == 0
    else:
        interval, resamples = _bootstrap(old, new, task, samples, seed)
        compared, facts = f"{figures}: bootstrap of {resamples} resamples", {"resamples": resamples}
        is_same = all(np.array_equal(a, b) for a, b in zip(old.outputs, new.outputs, strict=True))
    values = {"samples": count, "old": old.metric.value, "new": new.metric.value, **facts}
    if is_same:
        alike = f"{figures}: no answer differs in what the metric reads"
        return _finding("fine", most_less, alike, values, interval)
    low, middle, high = (100 * each for each in (interval.low, interval.middle, interval.high))
    told = Interval(low, middle, high).against(most_less)
    needed = _needed(count, middle, high - low, most_less) if told == "cannot tell" else ""
    return _finding(told, most_less, compared, values, interval, needed)


def compare_golden(folder: Path, engine: Path, device: Device, precision: str, most_less: float) -> Finding:
    """Compare a new engine's outputs with the golden ones of the old model's bundle in ``folder``."""
    arrays = golden.read(folder / GOLDEN)
    inputs, expected = golden.unpack(arrays)
    with RemoteWorker(device) as worker:
        got = list(worker.infer(as_feed(inputs, input_names(worker.open(engine)))).values())
    samples = rows_in(inputs)
    try:
        found = golden.compare(expected, got)
        faults, facts = golden.faults(found, precision), found.as_json()
    except ValueError as error:
        faults, facts = [str(error)], {}
    about = f"{samples} golden samples, which have no labels"
    if not faults:
        told = f"answers as the old model did on {about} (cosine {facts['cosine']:.5f}, {facts['flips']} largest changed)"
        return _finding("fine", most_less, told, facts)
    needed = "labelled samples: --recipe names a recipe with them"
    return _finding("cannot tell", most_less, f"answers otherwise on {about}: {faults[0]}", facts, needed=needed)


def _finding(
    told: Any, most_less: float, compared: str, facts: Mapping[str, Any], found: Interval | None = None, needed: str = ""
) -> Finding:
    bounds = {} if found is None else {"low": 100 * found.low, "middle": 100 * found.middle, "high": 100 * found.high}
    return Finding(
        question="accuracy",
        answer=told,
        limit=most_less,
        unit="points",
        compared=compared,
        needed=needed,
        facts=facts,
        **bounds,
    )


def _needed(count: int, middle: float, width: float, most_less: float) -> str:
    """Say how many samples it would take, since a bound comes closer by the root of their number."""
    distance = abs(middle - most_less)
    wanted = math.inf if distance == 0 else count * (width / 2 / distance) ** 2
    if wanted > 1000 * count:
        return "the difference is as large as what is allowed; allow more, or less"
    return f"about {wanted:.0f} samples like these {count}"


@final
class _Recorder:
    """A worker's engine as a function of arrays, whose outputs are kept."""

    def __init__(self, worker: RemoteWorker, names: list[str], parts: list[list[npt.NDArray[Any]]], bar: Bar) -> None:
        self._worker, self._names, self._parts, self._bar = worker, names, parts, bar

    def __call__(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        outputs = list(self._worker.infer(as_feed(inputs, self._names)).values())
        self._parts.append(outputs)
        self._bar.advance(rows_in(inputs))
        return outputs


def _bootstrap(old: Answers, new: Answers, task: Task, samples: Samples, seed: int) -> tuple[Interval, int]:
    """Return the interval of the loss as a share of the scale, and from how many resamples."""
    rng, ended = np.random.default_rng(seed), time.monotonic() + MOST_RESAMPLING_S
    targets = _Targets(samples)
    by_sample = None if old.scores is None or new.scores is None else old.scores - new.scores
    losses: list[float] = []
    while len(losses) < RESAMPLES and (len(losses) < LEAST_RESAMPLES or time.monotonic() < ended):
        drawn = rng.integers(0, len(samples), len(samples))
        if by_sample is not None:
            losses.append(float(by_sample[drawn].mean()))
            continue
        values = [task.evaluate(_Replayed(each.outputs, drawn), targets.at(drawn)).value for each in (old, new)]
        losses.append((values[0] - values[1]) / task.full_scale)
    middle = (old.metric.value - new.metric.value) / task.full_scale
    reach = NormalDist().inv_cdf(CONFIDENCE) * float(np.std(losses, ddof=1))
    return Interval(middle - reach, middle, middle + reach), len(losses)


@final
class _Replayed:
    """Kept outputs as a function of arrays: the next samples of ``drawn`` each time it is called, in order."""

    def __init__(self, outputs: list[npt.NDArray[Any]], drawn: Indices) -> None:
        self._outputs, self._drawn, self._at = outputs, drawn, 0

    def __call__(self, inputs: Inputs) -> list[npt.NDArray[Any]]:
        rows = self._drawn[self._at : self._at + rows_in(inputs)]
        self._at += rows_in(inputs)
        return [output[rows] for output in self._outputs]


def _joined(targets: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Join the targets of batches; rows of boxes are filled up to the most, with label -1."""
    if targets[0].ndim < 3 or len({each.shape[1:] for each in targets}) == 1:
        return np.concatenate(targets)
    most = max(each.shape[1] for each in targets)
    filled = np.full((sum(map(len, targets)), most, targets[0].shape[2]), -1, targets[0].dtype)
    at = 0
    for each in targets:
        filled[at : at + len(each), : each.shape[1]] = each
        at += len(each)
    return filled


@final
class _Targets(Samples):
    """Targets of a split at drawn indices; the inputs are zeros of the same shape, which take no memory."""

    def __init__(self, samples: Samples, drawn: Indices | None = None, targets: Any = None, shape: Any = None) -> None:
        if targets is None:
            batches = list(samples.batches(256))
            shape, targets = sample_shapes(batches[0].inputs), _joined([batch.targets for batch in batches])
        self._samples, self._targets, self._shape, self.classes = samples, targets, shape, samples.classes
        self._drawn = np.arange(len(targets)) if drawn is None else drawn

    def at(self, drawn: Indices) -> _Targets:
        return _Targets(self._samples, drawn, self._targets, self._shape)

    def __len__(self) -> int:
        return len(self._drawn)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        rows = self._drawn[indices]
        named = isinstance(self._shape, Mapping)
        zeros = {name: np.broadcast_to(np.float32(0), (len(rows), *s)) for name, s in by_name(self._shape).items()}
        return Batch(zeros if named else zeros[ONE], self._targets[rows])

    def fingerprint(self) -> str:
        return f"{self._samples.fingerprint()}-{self._drawn.tolist()}"
