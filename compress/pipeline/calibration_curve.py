"""How int8's accuracy depends on the number of calibration samples: drawn anew, quantised without training, judged here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from compress.data.base import evenly_spaced
from compress.data.subset import Subset
from compress.execution.cache import StepCache
from compress.execution.progress import Progress, count_progress
from compress.methods.quantization import post_training
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import FREE
from compress.pipeline.model_builder import ModelBuilder
from compress.report.calibration_curve import CalibrationCurve, CurvePoint
from compress.stages.quantize import integer_recipe
from deploy.onnx_graph.run import onnx_session

COUNTS = (4, 16, 64, 256, 1024)
MOST_JUDGED = 1000


def numbers_of_samples(pool: int) -> list[int]:
    """Return how many samples are drawn of a pool: steps of four times, and all.

    Example:
        >>> numbers_of_samples(300)
        [4, 16, 64, 256, 300]
    """
    return [*(count for count in COUNTS if count < pool), pool]


def measure(
    title: str, made: CachedModel, builder: ModelBuilder, evaluator: Evaluator, cache: StepCache, progress: Progress
) -> CalibrationCurve | None:
    """Measure the curve of a float model; None where the recipe does not ask for one, or the device has no int8.

    Each draw is judged in ONNX Runtime on this machine, on ``MOST_JUDGED`` samples from all over validation: it is the
    spread between draws that is asked for, not what ships.
    """
    draws, recipe = builder.recipe.calibration.curve, integer_recipe(builder.profile)
    if not draws or recipe is None:
        return None
    pool, task = builder.calibration_pool, builder.task
    judged = Subset(builder.data.validation, evenly_spaced(len(builder.data.validation), MOST_JUDGED))
    asked = [(count, draw) for count in numbers_of_samples(len(pool)) for draw in range(draws if count < len(pool) else 1)]
    decided = {
        "model": made.step.key,
        "pool": pool.fingerprint(),
        "judged": judged.fingerprint(),
        "task": builder.task_key(),
        "asked": asked,
        "recipe": recipe,
        "options": asdict(FREE),
        "seed": builder.recipe.seed,
        "code": code_key(post_training),
    }

    def make(folder: Path) -> dict[str, Any]:
        model = evaluator.float_model(made)
        found: dict[int, list[float]] = {}
        for count, draw in count_progress(progress, "int8 by calibration samples", asked):
            chosen = np.sort(np.random.default_rng([builder.recipe.seed, count, draw]).permutation(len(pool))[:count])
            int8 = post_training.quantize_model(model, Subset(pool, chosen), recipe, FREE).onnx()
            found.setdefault(count, []).append(task.evaluate(onnx_session(int8), judged).value)
        metric = task.evaluate(onnx_session(model), judged)
        curve = CalibrationCurve(
            title=title,
            metric=metric.name,
            unit=metric.unit,
            judged=len(judged),
            float_value=metric.value,
            points=tuple(CurvePoint(samples=count, values=tuple(values)) for count, values in found.items()),
            kept=len(builder.data.calibration),
        )
        return {"curve": asdict(curve)}

    facts = cache.step("calibration-curve", decided, make).facts
    return TypeAdapter(CalibrationCurve).validate_python(facts["curve"])


def last_float(teacher: CachedModel, made: Sequence[tuple[str, CachedModel]]) -> tuple[str, CachedModel]:
    """Return the last of the accepted models that is float, under its title; the teacher where none is."""
    return next(((title, each) for title, each in reversed(made) if each.recipe is None), ("teacher", teacher))
