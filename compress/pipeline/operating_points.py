"""The scores from which a quantised detector's detections are shown, chosen again on its engine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.execution.cache import StepCache
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import Variant
from compress.pipeline.model_builder import ModelBuilder
from compress.tasks import thresholds
from compress.tasks.thresholds import ClassThreshold


def choose(
    best: Variant, teacher: CachedModel, evaluator: Evaluator, builder: ModelBuilder, cache: StepCache
) -> tuple[ClassThreshold, ...]:
    """Choose the thresholds of ``best`` on validation; none where it is no detector, or float.

    The float model that it is to be as precise as is the same on the same engine; where it has no float form, since it was
    trained in int8, the teacher.
    """
    if builder.task.asked_head() is None or best.precision != "int8":
        return ()
    floats = [v for v in evaluator.forms(best.made) if v.precision != "int8"]
    own = [v for v in floats if v.engine == best.engine]
    reference = (own or floats or evaluator.required_forms(teacher))[0]
    samples = builder.data.validation
    decided = {
        "engines": [evaluator.built(variant).key for variant in (reference, best)],
        "samples": samples.fingerprint(),
        "task": builder.task_key(),
        "code": code_key(thresholds),
    }

    def make(folder: Path) -> dict[str, Any]:
        with evaluator.predicting(reference) as before, evaluator.predicting(best) as after:
            return {"thresholds": [asdict(each) for each in builder.task.thresholds(before, after, samples)]}

    return tuple(ClassThreshold(**each) for each in cache.step("thresholds", decided, make).facts["thresholds"])
