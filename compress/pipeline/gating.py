"""Attempts of a stage on one device, each judged by the gate; milder ones while too much is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from compress.execution.progress import Progress
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.comparison import Comparer, Comparison
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.gate import Decision, decide, points, within_accuracy
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.results import Attempt
from compress.stages.base import Stage

MOST_NOTES = 4


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Gating:
    """What attempts on a device are made and judged with."""

    teacher: CachedModel
    builder: ModelBuilder
    evaluator: Evaluator
    comparer: Comparer
    progress: Progress

    def attempts(
        self, stage: Stage, start: CachedModel, standing: CachedModel, lent: Sequence[tuple[str, Attempt]] = ()
    ) -> list[Attempt]:
        """Try ``stage``; what other devices' attempts at it made is judged first, and saves training where it will do.

        Args:
            lent: attempts on other devices at ``start``, with the device's name.

        Returns:
            What was tried; the last is what it comes to. Where all that is lent lost too much, the stage's own is not tried:
            it would lose as much.
        """
        judged: list[Attempt] = []
        is_lossy = bool(lent)
        for device, other in sorted(lent, key=lambda each: each[1].decision.verdict != "accepted"):
            with self.evaluator.pool.open():
                compared = self.comparer.compare(other.made, standing)
                if compared is None:
                    is_lossy = False
                    continue  # no runtime here takes it, or it is no change
                decision = self._judge(other.made, compared, can_soften=False)
            name = f"{other.name} of {device}"
            self.progress.say(f"{name}, which is there already")
            judged.append(self._attempt(name, other.stage, start, other.made, compared, decision, device))
            if decision.verdict == "accepted":
                return judged
            is_lossy &= not within_accuracy(self._drop(compared), self.builder.recipe.budget)
        return judged if is_lossy else [*judged, *self._own(stage, start, standing)]

    def _drop(self, compared: Comparison) -> float:
        return points(self.comparer.teacher_accuracy - compared.after.accuracy, self.builder.task.full_scale)

    def _own(self, stage: Stage, start: CachedModel, standing: CachedModel) -> list[Attempt]:
        """Try ``stage`` and, while the gate says that it cost too much, milder settings of it."""
        attempts: list[Attempt] = []
        setting: Stage | None = stage
        while setting is not None:
            name = stage.name if not attempts else f"{stage.name} {len(attempts) + 1}"
            self.progress.say(name)
            made = self.builder.attempt(setting, start, self.teacher, self.evaluator.target(start))
            for note in made.notes[:MOST_NOTES]:
                self.progress.say(f"  {note}")
            if len(made.notes) > MOST_NOTES:
                self.progress.say(f"  and {len(made.notes) - MOST_NOTES} more parts left alone; the report names them")
            milder = setting.softer() if len(attempts) < stage.most_softenings else None
            with self.evaluator.pool.open():
                compared = self.comparer.compare(made, standing)
                decision = self._judge(made, compared, can_soften=milder is not None)
            attempts.append(self._attempt(name, setting, start, made, compared, decision))
            setting = milder if decision.verdict == "softened" else None
        return attempts

    def _judge(self, made: CachedModel, compared: Comparison | None, *, can_soften: bool) -> Decision:
        if compared is None and made.changed:
            return Decision(verdict="rejected", reason="no runtime of the profile takes it")
        if compared is None:
            return Decision(verdict="rejected", reason="; ".join(["left the model as it was", *made.notes[:2]]))
        decision = decide(
            compared.before,
            compared.after,
            self.comparer.teacher_accuracy,
            self.builder.recipe.budget,
            can_soften=can_soften,
            speedup=compared.speedup,
            scale=self.builder.task.full_scale,
            drop_interval=compared.drop,
            samples=compared.samples,
        )
        doubt = f"; timed in doubt: {compared.doubts[0]}" if compared.doubts else ""
        return replace(decision, reason=decision.reason + doubt)

    def _attempt(
        self,
        name: str,
        stage: Stage,
        start: CachedModel,
        made: CachedModel,
        compared: Comparison | None,
        decision: Decision,
        lender: str = "",
    ) -> Attempt:
        self.progress.say(f"  {decision.verdict}: {decision.reason}")
        form = compared.after.form if compared else None
        return Attempt(name=name, stage=stage, start=start.step.key, made=made, decision=decision, form=form, lender=lender)
