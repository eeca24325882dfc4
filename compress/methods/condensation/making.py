"""From a set's settings to the stored set: drafted, brought to bytes, answered by the teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compress.methods.condensation.base import Draft, RecoverySet, SetSource
from compress.methods.condensation.soft_labels import encode, resolve_form
from compress.methods.condensation.stored import StoredSet, as_stored, normalise_of, small_targets
from compress.methods.condensation.stored_samples import StoredSamples
from compress.models.checkpoint import digest_tensors
from compress.models.inputs import as_tensors, call
from deploy.engines.inputs import by_name

CHUNK = 256
IDENTITY = {
    "task": "task",
    "classes": "classes",
    "inputs": "shape of an input",
    "teacher": "teacher",
    "normalise": "normalisation",
}
"""What a set and a run must have in common, in words."""


def make_set(spec: RecoverySet, source: SetSource, task: str) -> tuple[StoredSet, tuple[str, ...]]:
    """Make a set and store it with the teacher's soft labels; return it, and notes.

    Args:
        task: kind of the task, by its name in a recipe.

    Raises:
        UserError: the source has not what the set needs.
    """
    draft = spec.make(source)
    augmentation = asdict(source.samples.augmentation)
    facts = {
        **identity(source, task, draft.inputs),
        "use": spec.use,
        "tiles": draft.tiles,
        "labels": "none",
        "augmentation": {**augmentation, "mirror": augmentation["mirror"] or draft.mirror},
        "settings": spec.decided_by,
        "seed": source.seed,
    }
    compensators = None if draft.compensators is None else draft.compensators.astype(np.float16)
    bare = StoredSet(
        inputs=as_stored(draft.inputs, normalise_of(source.preprocessing, draft.inputs)),
        targets=small_targets(draft.targets),
        soft={},
        facts=facts,
        compensators=compensators,
    )
    return _with_soft_labels(bare, spec, source), draft.notes


def identity(source: SetSource, task: str, inputs: Any) -> dict[str, Any]:
    """Return what a set must have in common with a run: task, classes, shape of an input, teacher, normalisation."""
    shapes = {name: [*array.shape[1:]] for name, array in by_name(inputs).items()}
    teacher = digest_tensors(source.teacher.state_dict())
    normalise = normalise_of(source.preprocessing, inputs)
    told = None if normalise is None else json.loads(json.dumps(asdict(normalise)))
    return {"task": task, "classes": [*source.classes], "inputs": shapes, "teacher": teacher, "normalise": told}


def misfits(facts: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> list[str]:
    """Say in one line what a stored set was made for and this run is not."""
    apart = [name for name in IDENTITY if facts[name] != wanted[name]]
    if not apart:
        return []
    told = [f"{IDENTITY[name]} ({_shown(facts[name])}, here {_shown(wanted[name])})" for name in apart]
    return [f"{where}: not made for this run: {', '.join(told)}; make one for this recipe with `compress condense`"]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        parts = [each if isinstance(each, list) else [each] for each in value.values()]
        return ", ".join("x".join(map(str, part)) for part in parts)[:120]
    return str(value)[:12] if isinstance(value, str) else f"{len(value)}: {', '.join(map(str, value[:3]))}"


def _with_soft_labels(bare: StoredSet, spec: RecoverySet, source: SetSource) -> StoredSet:
    """Store the teacher's soft labels with a set, of its samples as they are read back."""
    if spec.labels == "none":
        return bare
    samples, logits = StoredSamples(bare), []
    for batch in samples.batches(CHUNK):
        with torch.no_grad():
            outputs = call(source.teacher.eval(), as_tensors(batch.inputs))
        logits.append(source.logits(outputs).float().numpy())
    given: npt.NDArray[np.float32] = np.concatenate(logits)
    form = resolve_form(spec.labels, given.shape, samples.labels)
    return replace(bare, soft=encode(form, given, samples.labels), facts={**bare.facts, "labels": form})


__all__ = ["Draft", "identity", "make_set", "misfits"]
