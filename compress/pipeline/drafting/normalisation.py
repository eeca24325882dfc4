"""Which normalisation a model was trained with: the usual ones are tried on validation, and the best is taken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compress.data import DATA
from compress.data.transforms import IMAGENET
from compress.models.factory import factory
from compress.pipeline.drafting.data_guess import DataGuess

MOST_SAMPLES = 256
CHANCE = 2.0
"""A model that is right less than so many times as often as a guess is not told by its normalisation."""
USUAL: dict[str, dict[str, Any]] = {
    "ImageNet's": {"mean": list(IMAGENET[0]), "deviation": list(IMAGENET[1])},
    "from 0 to 1": {"mean": [0.0, 0.0, 0.0], "deviation": [1.0, 1.0, 1.0]},
    "from -1 to 1": {"mean": [0.5, 0.5, 0.5], "deviation": [0.5, 0.5, 0.5]},
    "Caffe's": {"order": "bgr", "scale": 255.0, "mean": [104.0, 117.0, 123.0], "deviation": [1.0, 1.0, 1.0]},
}

CROPPED = ("images", "huggingface")
"""Sources that cut the centre out of images, of a margin that models for ImageNet are used to."""

Predict = Callable[[Any], Any]
"""From inputs (samples, ...) to logits (samples, classes)."""


def takes_normalisation(data: DataGuess) -> bool:
    """Whether the options of a data source say mean and deviation of three channels."""
    if data.use not in DATA or data.splits.train.load(np.arange(1)).inputs.shape[1:2] != (3,):
        return False
    return {"mean", "deviation", "order", "scale"} <= set(inspect.signature(factory(DATA[data.use])).parameters)


def guess_normalisation(data: DataGuess, predict: Predict) -> tuple[Mapping[str, Any], str]:
    """Return the options of the normalisation with which a trained classifier is right most often, and how often.

    Nothing is returned where all of them are right as seldom as a guess.
    """
    options = {"the source's own": {}, **USUAL}
    right = {name: _accuracy(data, predict, chosen) for name, chosen in options.items()}
    best = max(right, key=lambda name: right[name])
    others = ", ".join(f"{name} {share:.0%}" for name, share in right.items() if name != best)
    if right[best] < CHANCE / max(2, len(data.classes)):
        told = f"none of the usual ones ({best} {right[best]:.0%}, {others}): are the classes in the model's order?"
        return {}, told
    told = f"{best}: right in {right[best]:.0%} of validation ({others})"
    side = data.arguments.get("size")
    if isinstance(side, int) and data.use in CROPPED:
        whole = _accuracy(data, predict, {**options[best], "short_side": side})
        if whole > right[best]:
            return {"short_side": side, **options[best]}, f"{told}; {whole:.0%} where no margin is cut off (short_side)"
    return options[best], told


def _accuracy(data: DataGuess, predict: Predict, options: Mapping[str, Any]) -> float:
    validation = data.read(**options).validation
    right = count = 0
    for batch in validation.evenly_spaced_batches(MOST_SAMPLES, 32):
        known = batch.targets >= 0
        answers = np.asarray(predict(batch.inputs)).argmax(axis=-1)
        right, count = right + int((answers == batch.targets)[known].sum()), count + int(known.sum())
    return right / max(1, count)
