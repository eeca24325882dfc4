"""Entities: a tag a token; F1 of whole entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from torch import Tensor
from torch.nn import functional

from compress.data import Samples, Splits
from compress.losses.base import UNTAGGED
from compress.tasks.base import Metric, Predict, Task, first_output, first_shape, readable_batches, split_faults
from compress.tasks.draws import values_of_draws
from deploy.processing.postprocessing.entities import entities as entities
from profiles.errors import UserError

CHUNK = 64
UNLABELLED = -1


@final
class Entities(Task):
    """Tagging of tokens: logits (samples, tokens, tags); targets (samples, tokens), -1 where there is nothing to tag, and
    -2 at words whose tag is unknown, of texts that are there to learn from the teacher.

    Tags are those of named entities: ``B-person`` begins one, ``I-person`` goes on, anything without such a prefix is
    outside. The metric is the F1 of whole entities in per cent, as ``conlleval`` and seqeval have it: one counts where kind,
    beginning and end are right; an ``I-`` that follows nothing of its kind begins one. A tag is read at the first token of
    each word.
    """

    metric = "F1"
    unit = "%"
    agreement = "top1_agreement"
    stage_losses = {
        "distill": ("task", {"use": "kd", "weight": 1.0}),
        "recovery": ({"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}),
    }

    def check(self, splits: Splits) -> None:
        if faults := split_faults(splits, lambda name, samples: _faults_of(name, samples, splits.classes)):
            raise UserError(*faults)

    def has_labels(self, samples: Samples) -> bool:
        return any((batch.targets >= 0).any() for batch in samples.batches(CHUNK))

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        tokens = splits.train.load(np.arange(1)).targets.shape[1]
        expected = (2, tokens, len(splits.classes))
        given = first_shape(outputs)
        if given != expected:
            raise UserError(f"gives {given} for two samples; {expected[2]} tags of {tokens} tokens are read from {expected}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the cross-entropy over the tagged tokens."""
        logits = self.logits(outputs).flatten(0, 1)
        tags = targets.flatten().clamp(min=UNLABELLED)
        told = functional.cross_entropy(logits, tags, ignore_index=UNLABELLED, reduction="sum")
        return told / (tags != UNLABELLED).sum().clamp(min=1)

    def logits(self, outputs: Any) -> Tensor:
        """Return the first tensor of the outputs."""
        return first_output(outputs)

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        return {"use": "entities"}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        names = samples.classes
        counts: list[tuple[int, int, int]] = []
        for batch in samples.batches(CHUNK):
            guesses = predict(batch.inputs)[0].argmax(axis=-1)
            for guess, target in zip(guesses, batch.targets, strict=True):
                words = target >= 0
                ours = entities([names[tag] for tag in guess[words]])
                theirs = entities([names[tag] for tag in target[words]])
                counts.append((len(ours & theirs), len(ours), len(theirs)))
        table = np.array(counts)
        right, found, there = (int(count) for count in table.sum(axis=0))
        others = {"precision": 100.0 * right / max(found, 1), "recall": 100.0 * right / max(there, 1)}
        drawn = values_of_draws(lambda weights: _f1(*(weights @ table)), len(table), table.size)
        value = _f1(right, found, there)
        return Metric(name=self.metric, value=value, unit=self.unit, samples=len(samples), others=others, drawn=drawn)


def _f1(right: int, found: int, there: int) -> float:
    """Compute F1 in per cent of entities that are right, found and there; 0 of none."""
    return 200.0 * float(right) / float(found + there) if found + there else 0.0


def _faults_of(name: str, samples: Samples, classes: Sequence[str]) -> list[str]:
    unreadable: list[str] = []
    tagged = 0
    for batch in readable_batches(samples, CHUNK, unreadable):
        if batch.targets.ndim != 2 or batch.targets.dtype.kind != "i":
            return [f"data: the {name} split has targets of shape {batch.targets.shape}; tags are (samples, tokens), whole"]
        if batch.targets.min() < UNTAGGED or batch.targets.max() >= len(classes):
            words = f"-1 stands for none, {UNTAGGED} for a word of unknown tag"
            return [f"data: the {name} split has tags outside 0 to {len(classes) - 1}; {words}"]
        tagged += int((batch.targets >= 0).sum())
    if unreadable:
        return unreadable
    return (
        [] if tagged or name in ("train", "calibration") else [f"data: the {name} split has no tag; models are judged on it"]
    )
