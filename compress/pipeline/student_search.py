"""Training-free search of a student over a factory's arguments: scored without training, timed on the engine.

The score is DisWOT's (Dong et al. 2023, equations 1 to 4): how alike a student and the teacher, both with random
weights, relate the samples and the classes of one batch to each other; both of its terms, averaged over several draws
of the weights. Time is that of the candidate's engine on the device, never a count of operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import numpy as np
import torch

from compress.execution.cache import StepCache
from compress.execution.progress import Bar, Progress
from compress.methods.distillation.loss_specs import loss_modules
from compress.methods.distillation.objective import Objective, parse_losses
from compress.methods.evolution import Candidate, evolve, pareto_front
from compress.models.inputs import as_tensors
from compress.models.plan import Plan
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import Variant
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.spec import Recipe, teacher_plan
from compress.recipe.student import StudentSearch, student_plan
from profiles.errors import UserError

SCORE = parse_losses(["diswot"])


@final
@dataclass(frozen=True, kw_only=True)
class StudentSearchResult:
    """Candidates of a search, and the chosen one.

    Attributes:
        form: engine and precision in which the candidates were timed: the teacher's fastest.
        teacher_ms: the teacher in fp32 (its first form), which a speed-up is over.
        tried: the best first.
    """

    form: str
    teacher_ms: float
    most_ms: float
    tried: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate:
        return self.tried[0]

    def as_json(self) -> dict[str, Any]:
        on_front = [candidate.arguments for candidate in pareto_front(self.tried)]
        tried = [{**asdict(c), "on_front": c.arguments in on_front} for c in self.tried]
        about = {"form": self.form, "teacher_ms": self.teacher_ms, "most_ms": self.most_ms}
        return {**about, "chosen": dict(self.chosen.arguments), "tried": tried}


def with_student(recipe: Recipe, found: StudentSearchResult) -> Recipe:
    """Return the recipe with the student that a search chose."""
    student = replace(
        recipe.student, arguments={**recipe.student.arguments, **found.chosen.arguments}, search=None, between=None
    )
    return replace(recipe, student=student)


def find(
    recipe: Recipe, builder: ModelBuilder, evaluator: Evaluator, cache: StepCache, progress: Progress
) -> StudentSearchResult:
    """Search the student of ``recipe``; every candidate's score and engine is a step, so a killed search goes on.

    Raises:
        UserError: no candidate can be built, or none is fast enough: the fastest is named.
    """
    asked = recipe.student.search
    assert asked is not None, "the recipe's student has choices"
    teacher = builder.teacher()
    builder.choose_calibration(teacher)
    judge = _Judge(recipe, builder, evaluator, cache, teacher)
    most_ms = _most_ms(asked, judge.teacher_ms)
    total = min(math.prod(len(values) for values in asked.choices.values()), asked.population * asked.generations)
    with progress.task("students", total) as bar:
        tried = evolve(
            asked.choices,
            lambda arguments: judge(arguments, bar),
            most_ms=most_ms,
            population=asked.population,
            generations=asked.generations,
            seed=recipe.seed,
        )
    found = StudentSearchResult(form=judge.form.form, teacher_ms=judge.teacher_ms, most_ms=most_ms, tried=tuple(tried))
    _check(found)
    return found


def _most_ms(asked: StudentSearch, teacher_ms: float) -> float:
    limits = [asked.latency_ms, None if asked.speed_up is None else teacher_ms / asked.speed_up]
    return min((limit for limit in limits if limit is not None), default=math.inf)


def _check(found: StudentSearchResult) -> None:
    best = found.chosen
    if best.score is None:
        raise UserError(f"[student.search]: none of its candidates can be built; {best.arguments}: {best.fault}")
    if best.latency_ms > found.most_ms:
        raise UserError(
            f"[student.search]: none of {len(found.tried)} candidates takes at most {found.most_ms:.3f} ms ({found.form}); "
            f"the fastest, {best.arguments}, takes {best.latency_ms:.3f} ms: {found.teacher_ms / best.latency_ms:.2f}x the "
            "teacher; allow smaller ones"
        )


@final
class _Judge:
    """Scorer and timer of candidates."""

    def __init__(
        self, recipe: Recipe, builder: ModelBuilder, evaluator: Evaluator, cache: StepCache, teacher: CachedModel
    ) -> None:
        assert recipe.student.search is not None
        self._recipe, self._asked, self._seconds = recipe, recipe.student.search, recipe.measure.gate_seconds
        self._builder, self._evaluator, self._cache = builder, evaluator, cache
        first = evaluator.first_forms(teacher) or evaluator.required_forms(teacher)
        times = evaluator.race(first, self._seconds)
        self.form = min(first, key=lambda variant: times[variant].p50 or math.inf)
        self.teacher_ms = times[first[0]].p50 or math.inf
        self._own_ms = times[self.form].p50 or math.inf

    def __call__(self, arguments: Mapping[str, Any], bar: Bar) -> Candidate:
        plan = student_plan(self._recipe.student, arguments)
        try:
            made = self._builder.fresh(plan)
            score = self._score(made, plan)
            found = Candidate(arguments=dict(arguments), score=score, latency_ms=self._latency_ms(made))
        except UserError as error:
            found = Candidate(arguments=dict(arguments), score=None, fault=str(error))
        bar.advance(1, f"{found.latency_ms:.3f} ms")
        return found

    def _latency_ms(self, made: CachedModel) -> float:
        """Time a candidate against the teacher in one race, since absolute times drift from race to race."""
        variant = Variant(made, self.form.engine, self.form.precision)
        raced = self._evaluator.race([self.form, variant], self._seconds)
        return self._own_ms * (raced[variant].p50 or math.inf) / (raced[self.form].p50 or math.inf)

    def _score(self, made: CachedModel, plan: Plan) -> float:
        teacher = teacher_plan(self._recipe.teacher)
        size = min(self._asked.samples, len(self._builder.data.train))
        decided = {
            "student": made.step.key,
            "teacher": teacher.as_json(),
            "data": self._builder.data.train.fingerprint(),
            "task": self._builder.task_key(),
            "draws": self._asked.draws,
            "samples": size,
            "code": code_key(Objective, *loss_modules(SCORE)),
        }

        def make(folder: object) -> dict[str, Any]:
            return {"scores": [self._drawn(plan, teacher, size, self._recipe.seed + n) for n in range(self._asked.draws)]}

        return float(np.mean(self._cache.step("score", decided, make).facts["scores"]))

    def _drawn(self, student: Plan, teacher: Plan, size: int, seed: int) -> float:
        """Compute minus the distance on the first samples, both networks with fresh weights."""
        torch.manual_seed(seed)
        # in training mode, as the authors score: fresh batch norms normalise by the batch, and in evaluation by nothing
        one, other = student.build().train(), teacher.build().train()
        batch = self._builder.data.train.load(np.arange(size))
        inputs, targets = as_tensors(batch.inputs), torch.from_numpy(batch.targets)
        with torch.no_grad(), Objective(SCORE, self._builder.task, one, other, self._builder.example) as objective:
            return -float(objective(one, inputs, targets)[0])


def table(found: StudentSearchResult, most: int = 12) -> str:
    """Format the best candidates, the front, and the choice with its reason."""
    lines = [f"{'score':>10} {'p50 ms':>9} {'speed-up':>9}     arguments   (timed as {found.form})"]
    on_front = [candidate.arguments for candidate in pareto_front(found.tried)]
    shown = [c for i, c in enumerate(found.tried) if i < most or c.arguments in on_front]
    for c in shown:
        if c.score is None:
            lines.append(f"{'-':>10} {'-':>9} {'-':>9}     {_words(c)}: {c.fault.splitlines()[0]}")
            continue
        mark = "*" if c is found.chosen else "f" if c.arguments in on_front else " "
        speed = found.teacher_ms / c.latency_ms
        lines.append(f"{c.score:>10.5f} {c.latency_ms:>9.3f} {speed:>8.2f}x  {mark}  {_words(c)}")
    if len(shown) < len(found.tried):
        lines.append(f"and {len(found.tried) - len(shown)} more; --json has them all")
    limit = "" if math.isinf(found.most_ms) else f" of those that take at most {found.most_ms:.3f} ms"
    lines.append(f"chosen (*): {_words(found.chosen)}, the highest score{limit}; f: on the front of score and latency")
    return "\n".join(lines)


def _words(candidate: Candidate) -> str:
    return ", ".join(f"{name} = {value}" for name, value in candidate.arguments.items())
