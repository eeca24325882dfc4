"""A model before and after a stage, compared in the form that would ship: on the fastest runtime of the profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from compress.pipeline.cached_model import CachedModel
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import Variant
from compress.pipeline.gate import Interval, ModelMetrics, points, undecided, within_accuracy
from compress.pipeline.paired import drop_in_points
from compress.recipe.spec import Budget
from deploy.measure.timing import Latency

GATE_LONGER = (1, 4)
"""How many times ``gate_seconds`` a stage is raced, the next only where the rounds of the one before do not agree."""
RIVAL = 1.5
"""A runtime on which the teacher is more than so many times slower than on the fastest is left out of the gate's races."""

MayShip = Callable[[Variant], bool]


@final
@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model before and after a stage, timed against each other.

    Attributes:
        speedup: interval of the gain, by the rounds of the longest race that was needed.
        drop: interval of the drop below the teacher in points, of the same validation samples; None where nothing tells
            it.
        samples: of validation.
        doubts: why that race is not a clean measurement.
    """

    before: ModelMetrics
    after: ModelMetrics
    speedup: Interval
    drop: Interval | None
    samples: int
    doubts: tuple[str, ...]


@final
class Comparer:
    """Comparisons of one run: of its teacher, budget and device.

    Args:
        scale: of the task's metric.
        seconds: that each form is timed for, at first.
    """

    def __init__(self, teacher: CachedModel, evaluator: Evaluator, budget: Budget, scale: float, seconds: float) -> None:
        self._evaluator, self._budget, self._scale, self._seconds = evaluator, budget, scale, seconds
        self._teacher_forms = forms = evaluator.required_forms(teacher)
        self._reference = evaluator.judge(forms[0], "validation")
        self._engines = _rivals(forms, evaluator, seconds)

    @property
    def teacher_accuracy(self) -> float:
        """Return the teacher's metric on validation."""
        return self._reference.metric.value

    def compare(self, made: CachedModel, standing: CachedModel) -> Comparison | None:
        """Measure ``made`` against ``standing``; None where the stage changed nothing, or no runtime takes it.

        What a model trained in int8 has to beat is the float model; post-training int8 is as fast as it on the same runtime
        by nature. Where the rounds of a race do not agree on whether it gained, it is run again, longer.
        """
        if not made.changed:
            return None
        after = self._forms(made)
        if not after:
            return None
        engines = {v.engine for v in after}
        before = [
            v for v in self._forms(standing) if made.recipe is None or v.precision != "int8" or v.engine not in engines
        ]
        latencies, speedup, doubts = raced(before, after, self._evaluator, self._seconds, self._may_ship)
        judged = self._evaluator.judge(after[0], "validation")
        return Comparison(
            before=self._metrics(before, latencies, standing),
            after=self._metrics(after, latencies, made),
            speedup=speedup,
            drop=drop_in_points(self._reference, judged, self._scale),
            samples=judged.metric.samples,
            doubts=doubts,
        )

    def fastest_lines(self) -> list[str]:
        """Say on which runtime the untouched teacher is fastest within the budget's accuracy, and by how much, in a line.

        The race is the gate's own, timed once; nothing is said where one runtime alone takes the model.
        """
        forms, evaluator = self._teacher_forms, self._evaluator
        if len({variant.engine for variant in forms}) < 2:
            return []
        latencies = evaluator.race(forms, self._seconds)
        by_time = sorted(forms, key=lambda variant: latencies[variant].p50 or float("inf"))
        allowed = [variant for variant in by_time if self._keeps(variant)]
        best = allowed[0]
        other = next((variant for variant in allowed if variant.engine != best.engine), None)
        if other is None:
            return [f"{best.form} alone keeps the budget's accuracy: {latencies[best].p50:.3f} ms"]
        low, high = evaluator.faster(other, best, forms, self._seconds)
        lines = [
            f"of {len(forms)} forms {best.form} is the fastest within the budget's accuracy: {latencies[best].p50:.3f} ms, "
            f"{low:.2f} to {high:.2f} times as fast as {other.form}, the fastest elsewhere"
        ]
        engines = [runtime.engine for runtime in evaluator.profile.runtimes]
        if low > 1 and best.engine != engines[0]:
            order = ",".join([best.engine, *(name for name in engines if name != best.engine)])
            lines.append(
                f"what a stage costs is measured on {engines[0]}, the profile's first, and int8 is trained for it; "
                f"--engines {order} begins with the fastest"
            )
        return lines

    def _forms(self, made: CachedModel) -> list[Variant]:
        """List the forms of a model on the runtimes that may be the fastest; all of them where it has none there."""
        forms = self._evaluator.forms(made)
        return [v for v in forms if v.engine in self._engines or v.engine == forms[0].engine]

    def _may_ship(self, variant: Variant) -> bool:
        """Decide whether a form keeps the budget's accuracy, or may yet: training wins int8 back on the first runtime."""
        first = self._evaluator.profile.runtimes[0].engine
        return variant.engine == first or self._keeps(variant)

    def _keeps(self, variant: Variant) -> bool:
        """Return whether a form keeps the budget's accuracy."""
        accuracy = self._evaluator.judge(variant, "validation").metric.value
        return within_accuracy(points(self.teacher_accuracy - accuracy, self._scale), self._budget)

    def _metrics(self, forms: Sequence[Variant], latencies: dict[Variant, Latency], made: CachedModel) -> ModelMetrics:
        evaluator, best = self._evaluator, shipped(forms, latencies, self._may_ship)
        free = [v for v in evaluator.forms(made) if v.precision == "int8" and made.recipe is None]
        return ModelMetrics(
            accuracy=evaluator.judge(forms[0], "validation").metric.value,
            latency_ms=latencies[best].p50 or float("inf"),
            form=best.form,
            shipped_accuracy=evaluator.judge(best, "validation").metric.value,
            size_bytes=evaluator.size_bytes(best),
            free_accuracy=evaluator.judge(free[0], "validation").metric.value if free else None,
            stored_bytes=evaluator.stored_bytes(best),
            packed=made.packed,
        )


def raced(
    before: Sequence[Variant], after: Sequence[Variant], evaluator: Evaluator, seconds: float, may_ship: MayShip
) -> tuple[dict[Variant, Latency], Interval, tuple[str, ...]]:
    """Race all forms; return latencies, interval of the gain and doubts of the longest race that was needed."""
    both = [*before, *after]
    for longer in GATE_LONGER:
        latencies = evaluator.race(both, longer * seconds)
        fastest = (shipped(before, latencies, may_ship), shipped(after, latencies, may_ship))
        speedup = evaluator.faster(*fastest, both, longer * seconds)
        if not undecided(*speedup):
            break
    return latencies, speedup, evaluator.doubts(both, longer * seconds)


def shipped(forms: Sequence[Variant], latencies: dict[Variant, Latency], may_ship: MayShip) -> Variant:
    """Return the form that would ship: the fastest that may; where none may, the fastest."""
    by_time = sorted(forms, key=lambda variant: latencies[variant].p50 or float("inf"))
    return next((variant for variant in by_time if may_ship(variant)), by_time[0])


def _rivals(forms: Sequence[Variant], evaluator: Evaluator, seconds: float) -> set[str]:
    """Return the runtimes on which the teacher's fastest form is at most ``RIVAL`` times slower than on the fastest."""
    if len({variant.engine for variant in forms}) == 1:
        return {forms[0].engine}
    latencies = evaluator.race(forms, seconds)
    least = min(latency.p50 or float("inf") for latency in latencies.values())
    return {v.engine for v, latency in latencies.items() if (latency.p50 or float("inf")) <= RIVAL * least}
