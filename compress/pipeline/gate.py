"""accept / soften / reject: what a stage's measured result is worth.

A stage is accepted when the model stays within the budget's accuracy and the stage bought something on
the engine. What it bought is judged in the form that would ship: the fastest precision of the first
runtime, before against after, since a model that is faster in fp32 may buy nothing in int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.methods.cost_model import LEAST_GAIN
from compress.recipe.spec import Budget

LEAST_POINTS = 0.1
COLLAPSE_POINTS = 10.0

Verdict = Literal["accepted", "softened", "rejected"]


@dataclass(frozen=True, kw_only=True)
class ModelMetrics:
    """Where a model stands, on validation and on the engine.

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
    """The gate's word on a stage; ``softened`` means that a milder setting is tried instead."""

    verdict: Verdict
    reason: str


def decide(before: ModelMetrics, after: ModelMetrics, teacher: float, budget: Budget, *, can_soften: bool) -> Decision:
    """Judge a stage that led from ``before`` to ``after``; ``teacher`` is the teacher's accuracy on validation."""
    drop = teacher - after.accuracy
    size = f", {before.stored_bytes / 1024:.0f} -> {after.stored_bytes / 1024:.0f} KiB in the bundle" if after.packed else ""
    speed = f"{before.latency_ms:.3f} -> {after.latency_ms:.3f} ms ({_gain(before, after):.2f}x, {after.form}){size}"
    if drop > budget.accuracy_drop_points + 1e-9:
        too_much = f"{after.accuracy:.2f} on validation is {drop:.2f} points under the teacher's {teacher:.2f}"
        reason = f"{too_much}; the budget is {budget.accuracy_drop_points:g}; {speed}"
        return Decision(verdict="softened" if can_soften else "rejected", reason=reason)
    cost = f"validation {before.accuracy:.2f} -> {after.accuracy:.2f} (teacher {teacher:.2f})"
    if after.form.endswith("int8") and before.free_accuracy is not None and after.free_accuracy is None:
        cost += f", untrained int8 {before.free_accuracy:.2f}"
    if bought := _bought(before, after, budget):
        return Decision(verdict="accepted", reason=f"{bought}: {speed}; {cost}{_warning(after, teacher, budget)}")
    return Decision(verdict="rejected", reason=f"bought nothing: {speed}, {LEAST_GAIN:.2f}x asked; {cost}")


def undecided(low: float, high: float) -> bool:
    """Whether a model that became between ``low`` and ``high`` times faster may or may not have gained, or lost."""
    return low < LEAST_GAIN <= high or low * LEAST_GAIN < 1 <= high * LEAST_GAIN


def _gain(before: ModelMetrics, after: ModelMetrics) -> float:
    return before.latency_ms / after.latency_ms


def _bought(before: ModelMetrics, after: ModelMetrics, budget: Budget) -> str:
    """What the stage bought, in a word; empty for nothing."""
    if after.packed:
        return "smaller to store" if after.stored_bytes * LEAST_GAIN <= before.stored_bytes else ""
    if _gain(before, after) >= LEAST_GAIN:
        return "faster"
    not_slower = _gain(before, after) * LEAST_GAIN >= 1
    if budget.size_mib is not None and before.size_bytes > budget.size_mib * 2**20 and not_slower:
        return "smaller" if after.size_bytes < before.size_bytes / LEAST_GAIN else ""
    if not_slower and after.accuracy >= before.accuracy + LEAST_POINTS:
        return "more accurate"
    return ""


def _warning(after: ModelMetrics, teacher: float, budget: Budget) -> str:
    """Says so when a good float model falls apart in the form that is fastest."""
    drop = teacher - after.shipped_accuracy
    if drop <= budget.accuracy_drop_points + 1e-9:
        return ""
    falls = "collapses" if after.accuracy - after.shipped_accuracy > COLLAPSE_POINTS else "falls"
    return f"; as {after.form} without training it {falls} to {after.shipped_accuracy:.2f}, which quantize has to win back"
