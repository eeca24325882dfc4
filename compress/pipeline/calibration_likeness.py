"""Whether the calibration sample is like what the model will see: validation, or traffic that the recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.data import Samples
from compress.execution.cache import StepCache
from compress.methods.quantization.observer import sample_inputs
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.compare_data import DataSet, compare_sets, some
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.given import open_samples
from compress.pipeline.model_builder import ModelBuilder
from deploy.onnx_graph.features import features

LOOKED_AT, DRAWS, LEVEL = 128, 1999, 0.002
"""Samples of each, and a level at which a run in 500 warns by chance."""


def traffic_of(builder: ModelBuilder) -> Samples | None:
    """Open the traffic that a recipe names; None where it names none.

    Raises:
        UserError: it is not there, or does not fit.
    """
    given = builder.recipe.calibration.traffic
    if not given:
        return None
    path = Path(builder.recipe.source).parent / Path(given).expanduser()
    return open_samples(path, builder.data.preprocessing, builder.data.classes, "[calibration] traffic").samples


def find_warnings(
    teacher: CachedModel, traffic: Samples | None, builder: ModelBuilder, evaluator: Evaluator, cache: StepCache
) -> tuple[str, ...]:
    """Warn where the calibration sample is unlike traffic or validation, by what the teacher's layers make of both.

    Synthesised samples are unlike by their making, and not compared.
    """
    if builder.recipe.calibration.select == "synthesised":
        return ()
    other, name = (builder.data.validation, "validation") if traffic is None else (traffic, "traffic")
    own, seed = builder.data.calibration, builder.recipe.seed
    decided = {
        "model": teacher.step.key,
        "samples": [own.fingerprint(), other.fingerprint()],
        "asked": [LOOKED_AT, DRAWS, seed],
        "code": code_key(compare_sets, features),
    }

    def make(folder: Path) -> dict[str, Any]:
        model = evaluator.float_model(teacher)
        one, two = (some(DataSet(name=n, samples=s), LOOKED_AT, seed) for n, s in (("calibration", own), (name, other)))
        try:
            of_one, of_two = (features(model, sample_inputs(each.samples)) for each in (one, two))
        except ValueError as error:
            return {"p": 1.0, "words": str(error)}
        compared = compare_sets(one, two, of_one, of_two, "the teacher", (), LEVEL, DRAWS, seed)
        return {"p": compared.difference.p, "words": compared.words}

    facts = cache.step("calibration-likeness", decided, make).facts
    if facts["p"] >= LEVEL:
        return ()
    return (
        f"calibration samples are unlike {name} to the teacher's layers ({facts['words']}): int8's ranges are of other "
        "data; `compress compare-data` names what differs most",
    )
