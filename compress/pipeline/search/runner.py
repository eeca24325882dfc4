"""One trial: a recipe's stages in order, without a gate, and what comes of them on the device."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from compress.execution.cache import StepCache
from compress.execution.progress import Progress
from compress.models import trust
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import Variant
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.races import RaceOptions
from compress.pipeline.search.rungs import Limits
from compress.recipe.spec import Recipe
from compress.report.search_record import Point
from compress.stages.base import Stage
from deploy.devices import Device
from profiles.device import DeviceProfile
from profiles.errors import UserError

UNTRAINED = 0.0
WHY_NOT = {
    "memory": "its system does not tell the peak of a process",
    "energy": "it has no power rails that can be read",
}
Timed = tuple[float, float, float]
"""Milliseconds, and the least and the most by the rounds of a race."""


@final
class TrialRunner:
    """Runs trials of one recipe on one device; everything that trials share is made once.

    Attributes:
        cache: its ``asked`` and ``made`` are those of the trial under way.
        free: the untouched teacher in every form.
        limits: what the recipe's budget allows.
    """

    def __init__(
        self,
        base: Recipe,
        profile: DeviceProfile,
        device: Device,
        cache: StepCache,
        progress: Progress,
        options: RaceOptions,
    ) -> None:
        self._profile, self._device, self._progress, self._options = profile, device, progress, options
        self._seconds, self.cache = base.measure.gate_seconds, cache
        self._sides: dict[str, tuple[ModelBuilder, Evaluator]] = {}
        builder, evaluator = self._side(base)
        builder.check()
        teacher = builder.teacher()
        builder.choose_calibration(teacher)
        self.task = builder.task
        with evaluator.pool.open():
            forms = evaluator.required_forms(teacher)
            self._reference = forms[0]
            self._reference_ms = evaluator.race(forms, self._seconds)[self._reference].p50 or math.inf
            times = self._times(forms, evaluator)
            self.free = tuple(self._point(variant, times[variant], evaluator) for variant in forms)
        best = {is_int8: _fastest(times, is_int8=is_int8) for is_int8 in (True, False)}
        self.forms = tuple(form for form in best.values() if form)
        first, budget = self.free[forms.index(self._reference)], base.budget
        self.limits = Limits(
            accuracy=first.accuracy - budget.accuracy_drop_points * builder.task.full_scale / 100,
            latency_ms=budget.latency_ms_p50,
            size_bytes=None if budget.size_mib is None else budget.size_mib * 2**20,
            stored_bytes=None if budget.stored_mib is None else budget.stored_mib * 2**20,
            peak_mib=budget.peak_mib,
            load_ms=budget.load_ms,
        )

    def check(self, objectives: Sequence[str]) -> None:
        """Check that the device measures what a search looks for.

        Raises:
            UserError: it has no power rails, or does not tell how much memory a process takes.
        """
        first = self.free[0]
        lacking = [name for name, cost in (("memory", first.peak_mib), ("energy", first.energy_mj)) if cost is None]
        faults = [
            f"[search] objectives: {name} is not measured on {self._device.url}: {WHY_NOT[name]}; leave it out"
            for name in lacking
            if name in objectives
        ]
        if faults:
            raise UserError(*faults)

    def run(self, recipe: Recipe, share: float, runtimes: str | None = None) -> Point:
        """Make the model of a recipe with a share of its epochs, 0 for no training, and measure it.

        Args:
            runtimes: engine that alone counts.

        Returns:
            Its fastest form within the budget's accuracy; else its most accurate one.

        Raises:
            UserError, StageError, EngineError: it cannot be made, or no runtime takes it.
        """
        trust.allow(*recipe.factories)
        builder, evaluator = self._side(recipe)
        teacher = builder.teacher()
        builder.choose_calibration(teacher)
        made = builder.student(teacher, recipe.student)
        for stage in recipe.stages:
            cheaper = with_share(stage, share)
            if cheaper is not None:
                made = builder.attempt(cheaper, made, teacher, evaluator.target(made))
        with evaluator.pool.open():
            variants = self._variants(made, evaluator, runtimes)
            times = self._times(variants, evaluator)
            order = sorted(variants, key=lambda variant: times[variant])
            if share == UNTRAINED:
                return self._point(order[0], times[order[0]], evaluator, judged=False)
            points: list[Point] = []
            for variant in order:
                points.append(self._point(variant, times[variant], evaluator))
                if points[-1].accuracy >= self.limits.accuracy:
                    return points[-1]
        return max(points, key=lambda point: point.accuracy)

    def _side(self, recipe: Recipe) -> tuple[ModelBuilder, Evaluator]:
        """Return builder and evaluator for recipes that differ in student and stages alone."""
        told = {key: value for key, value in recipe.as_json().items() if key not in ("student", "stages", "name")}
        key = json.dumps(told, sort_keys=True, default=str)
        if key not in self._sides:
            builder = ModelBuilder(recipe, self._profile, self.cache, self._progress)
            evaluator = Evaluator(builder, self._device, self._profile, self.cache, self._progress, self._options)
            self._sides[key] = (builder, evaluator)
        return self._sides[key]

    def _variants(self, made: CachedModel, evaluator: Evaluator, runtimes: str | None) -> list[Variant]:
        """Return the model in the forms in which the teacher is fastest, or in all where it has none of these."""
        every = evaluator.forms(made)
        found = [v for v in every if (v.engine == runtimes if runtimes else v.form in self.forms)]
        if not (found or every) or (runtimes and not found):
            raise UserError(
                f"no runtime of device {self._profile.name}{f' called {runtimes}' if runtimes else ''} takes the model"
            )
        return found or every

    def _times(self, variants: Sequence[Variant], evaluator: Evaluator) -> dict[Variant, Timed]:
        """Race forms against the teacher's first one; return milliseconds, and between what they lie."""
        every = list(dict.fromkeys([self._reference, *variants]))
        raced, times = evaluator.race(every, self._seconds), {}
        for variant in variants:
            share = raced[variant].min / raced[self._reference].min
            least, most = evaluator.faster(self._reference, variant, every, self._seconds)
            bounds = sorted([share, 1 / most, 1 / least])
            times[variant] = (self._reference_ms * share, self._reference_ms * bounds[0], self._reference_ms * bounds[-1])
        return times

    def _point(self, variant: Variant, timed: Timed, evaluator: Evaluator, *, judged: bool = True) -> Point:
        latency_ms, low_ms, high_ms = timed
        footprint = evaluator.footprint(variant)
        return Point(
            form=variant.form,
            accuracy=evaluator.judge(variant, "validation").metric.value if judged else 0.0,
            latency_ms=latency_ms,
            low_ms=low_ms,
            high_ms=high_ms,
            stored_bytes=evaluator.stored_bytes(variant),
            size_bytes=evaluator.size_bytes(variant),
            peak_mib=footprint.peak_mib,
            load_ms=footprint.load_ms,
            energy_mj=evaluator.energy_mj(variant),
        )


def with_share(stage: Stage, share: float) -> Stage | None:
    """Return a stage with a share of its epochs, rounded up; without any, what of it changes the model's structure.

    Distillation changes none: untrained it is left out.
    """
    fields = stage.fields()
    epochs = fields.get("epochs")
    if epochs is None or share >= 1:
        return stage
    if share > UNTRAINED:
        return replace(stage, epochs=math.ceil(share * epochs))  # type: ignore[type-var]  # every stage is a dataclass
    if stage.name == "distill":
        return None
    untrained: dict[str, Any] = {"epochs": 0}
    untrained |= {"sparse_epochs": 0} if "sparse_epochs" in fields else {}
    untrained |= {"attempt": "post_training"} if "attempt" in fields else {}
    return replace(stage, **untrained)  # type: ignore[type-var]


def has_tenth(stages: Sequence[Stage], share: float) -> bool:
    """Whether a share of the epochs is less than all of them."""
    return any(with_share(stage, share) != stage for stage in stages)


def _fastest(times: dict[Variant, Timed], *, is_int8: bool) -> str:
    """Return the fastest form in integers, or not; empty where there is none."""
    found = [variant for variant in times if (variant.precision == "int8") == is_int8]
    return min(found, key=lambda variant: times[variant]).form if found else ""
