"""The gate: accept, soften or reject a stage by what was measured. docs/gate.md explains the rule.

A stage is accepted when the model stays within the budget's accuracy and the stage bought something on
the engine. What it bought is judged in the form that would ship: the fastest runtime and precision,
before against after, since a model that is faster in fp32 may buy nothing in int8
(``compress.pipeline.comparison``). The final verdict chooses by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.methods.cost_model import LEAST_GAIN, is_gain
from compress.pipeline.paired import samples_needed
from compress.recipe.spec import Budget

LEAST_POINTS = 0.1
"""More accurate on validation by so much, and no slower, counts as a gain."""
COLLAPSE_POINTS = 10.0
"""A form that loses more than this to the float model is said to collapse."""
ROUNDING_POINTS = 1e-9
"""A drop of the whole budget is within it; this covers the rounding of its subtraction."""

Interval = tuple[float, float]
"""Lower and upper bound."""
Verdict = Literal["accepted", "softened", "rejected"]


@dataclass(frozen=True, kw_only=True)
class ModelMetrics:
    """Measurements of a model, on validation and on the engine.

    Attributes:
        accuracy: of the form that is trained: float before quantisation, int8 after it.
        latency_ms: p50 of the fastest form.
        form: engine and precision of the fastest form.
        shipped_accuracy: of the fastest form.
        free_accuracy: of its post-training int8, where it has one.
        stored_bytes: what the fastest form takes in a bundle.
        packed: whether it takes so little because its weights are indices, so that nothing but storage changed.
    """

    accuracy: float
    latency_ms: float
    form: str
    shipped_accuracy: float
    size_bytes: int
    free_accuracy: float | None = None
    stored_bytes: int = 0
    packed: bool = False


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Outcome of the gate for a stage; ``softened`` means that a milder setting is tried instead."""

    verdict: Verdict
    reason: str


def decide(
    before: ModelMetrics,
    after: ModelMetrics,
    teacher: float,
    budget: Budget,
    *,
    can_soften: bool,
    speedup: Interval | None = None,
    scale: float = 100.0,
    drop_interval: Interval | None = None,
    samples: int = 0,
) -> Decision:
    """Judge a stage that led from ``before`` to ``after``.

    Args:
        teacher: the teacher's accuracy on validation.
        speedup: interval of how many times faster ``after`` is, by the rounds of the longest race; without one the
            ratio of the medians is taken for exact.
        scale: of the task's metric; a point is a hundredth of it.
        drop_interval: of the drop below the teacher in points, by the ``samples`` of validation; None where unknown.
    """
    drop = points(teacher - after.accuracy, scale)
    size = f", {before.stored_bytes / 1024:.0f} -> {after.stored_bytes / 1024:.0f} KiB in the bundle" if after.packed else ""
    speed = f"{before.latency_ms:.3f} -> {after.latency_ms:.3f} ms ({_gain(before, after):.2f}x, {after.form}){size}"
    doubt = f"; by its rounds between {speedup[0]:.2f}x and {speedup[1]:.2f}x" if speedup and undecided(*speedup) else ""
    between = "" if drop_interval is None else f"; {drop_interval[0]:.2f} to {drop_interval[1]:.2f} by {samples} samples"
    noise = _noise(drop_interval, samples, budget)
    if not within_accuracy(drop, budget):
        too_much = f"{after.accuracy:.2f} on validation is {drop:.2f} points under the teacher's {teacher:.2f}"
        reason = f"{too_much}{between}; the budget is {budget.accuracy_drop_points:g}; {speed}{doubt}{noise}"
        return Decision(verdict="softened" if can_soften else "rejected", reason=reason)
    below = "" if drop_interval is None else f", {drop:.2f} points below it{between}"
    cost = f"validation {before.accuracy:.2f} -> {after.accuracy:.2f} (teacher {teacher:.2f}{below})"
    if after.form.endswith("int8") and before.free_accuracy is not None and after.free_accuracy is None:
        cost += f", untrained int8 {before.free_accuracy:.2f}"
    if gain := gained(before, after, budget, speedup=speedup, scale=scale):
        warning = _warning(after, teacher, budget, scale)
        return Decision(verdict="accepted", reason=f"{gain}: {speed}; {cost}{warning}{doubt}{noise}")
    nothing = "not shown to be faster" if doubt else "bought nothing"
    return Decision(verdict="rejected", reason=f"{nothing}: {speed}, {LEAST_GAIN:.2f}x asked; {cost}{doubt}{noise}")


def _noise(drop: Interval | None, samples: int, budget: Budget) -> str:
    """Say that validation cannot tell a drop of the whole budget from none, and how many samples could; else empty."""
    if drop is None or budget.accuracy_drop_points <= 0:
        return ""
    needed = samples_needed(drop, samples, budget.accuracy_drop_points)
    if needed <= samples:
        return ""
    off = (drop[1] - drop[0]) / 2
    told = f"{samples} validation samples tell the drop to {off:.1f} points, the budget is {budget.accuracy_drop_points:g}"
    return f"; {told}: about {needed} would tell it from noise"


def points(difference: float, scale: float) -> float:
    """Return a difference of a metric in points, hundredths of the metric's scale."""
    return difference * 100.0 / scale


def within_accuracy(drop: float, budget: Budget) -> bool:
    """Decide whether a drop in points below the teacher is within the budget."""
    return drop <= budget.accuracy_drop_points + ROUNDING_POINTS


def undecided(low: float, high: float) -> bool:
    """Decide whether a race that ended between ``low`` and ``high`` times faster leaves open who gained."""
    return low < LEAST_GAIN <= high or low * LEAST_GAIN < 1 <= high * LEAST_GAIN


def _gain(before: ModelMetrics, after: ModelMetrics) -> float:
    return before.latency_ms / after.latency_ms


def gained(
    before: ModelMetrics, after: ModelMetrics, budget: Budget, *, speedup: Interval | None = None, scale: float = 100.0
) -> str:
    """Name what ``after`` has gained over ``before``: faster, smaller or more accurate; empty for nothing.

    Args:
        budget: size counts only while it asks for less than ``before`` takes.
        speedup: as in ``decide``; a gain is shown by its lower bound, and so is that nothing is slower.
        scale: of the task's metric.
    """
    if after.packed:
        return "smaller to store" if is_gain(before.stored_bytes, after.stored_bytes) else ""
    least = speedup[0] if speedup else _gain(before, after)
    if least >= LEAST_GAIN:
        return "faster"
    if least * LEAST_GAIN < 1.0:
        return ""
    if budget.size_mib is not None and before.size_bytes > budget.size_mib * 2**20:
        return "smaller" if is_gain(before.size_bytes, after.size_bytes) else ""
    more = points(after.accuracy - before.accuracy, scale)
    return "more accurate" if more >= LEAST_POINTS - ROUNDING_POINTS else ""


def _warning(after: ModelMetrics, teacher: float, budget: Budget, scale: float) -> str:
    """Warn when a good float model falls apart in the form that is fastest."""
    if within_accuracy(points(teacher - after.shipped_accuracy, scale), budget):
        return ""
    falls = "collapses" if points(after.accuracy - after.shipped_accuracy, scale) > COLLAPSE_POINTS else "falls"
    return f"; as {after.form} without training it {falls} to {after.shipped_accuracy:.2f}, which quantize has to win back"
