"""Samples that a user names: a folder of pictures, a .npz file, or a split of a recipe."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from compress.data import Samples
from compress.data.given_samples import GivenSamples, open_given
from compress.methods.condensation.stored import StoredSet
from compress.methods.condensation.stored import load as load_set
from compress.methods.condensation.stored_samples import StoredSamples
from compress.pipeline.check.labelled import of_recipe
from compress.recipe.parse import built_in
from compress.tasks import Task
from compress.tasks.classification import Classification
from deploy.engines.inputs import by_name
from profiles.errors import UserError, one_line, unknown

SPLITS = ("calibration", "validation", "test", "train")


@final
@dataclass(frozen=True, kw_only=True)
class GivenForModel:
    """Samples for a model that is there.

    Attributes:
        kind: ``folder``, ``npz`` or ``recipe``.
        task: judges them; None where they have no labels.
        held_out: others of the same source, for proof; None where some of ``samples`` have to serve.
    """

    samples: Samples
    kind: str
    task: Task | None = None
    held_out: Samples | None = None


def is_recipe(given: str) -> bool:
    """Return whether ``given`` names a recipe: a .toml file or a built-in one, perhaps with ``:split``."""
    name = split_name(given)[0]
    return name.endswith(".toml") or name in built_in()


def split_name(given: str) -> tuple[str, str]:
    """Return the recipe of ``RECIPE[:SPLIT]``, and its split, ``calibration`` without one.

    Raises:
        UserError: there is no such split.
    """
    name, colon, split = given.rpartition(":")
    if not colon or not (name.endswith(".toml") or name in built_in()):
        return given, SPLITS[0]
    if split not in SPLITS:
        raise UserError(unknown("split", split, SPLITS, given))
    return name, split


def open_for_model(given: str, preprocessing: Mapping[str, Any], where: str, folder: Path) -> GivenForModel:
    """Open samples for a bundle's model.

    Args:
        preprocessing: the bundle's, with the names of its classes; ``folder`` is where it is.

    Raises:
        UserError: there are none, or how to prepare them is not stated.
    """
    if is_recipe(given):
        task, splits = of_recipe(split_name(given)[0], [folder])
        held = splits.validation
        task = task.bound_to(splits)
        return GivenForModel(
            samples=getattr(splits, split_name(given)[1]),
            kind="recipe",
            task=task if task.has_labels(held) else None,
            held_out=held,
        )
    found = open_samples(Path(given).expanduser(), preprocessing, class_names(preprocessing), where)
    return GivenForModel(
        samples=found.samples,
        kind="npz" if given.endswith(".npz") else "folder",
        task=Classification() if found.labels is not None else None,
    )


def open_samples(given: Path, preprocessing: Mapping[str, Any], classes: Sequence[str], where: str) -> GivenSamples:
    """Open a folder of pictures, a .npz file of arrays, or a recovery set, as a bundle may carry it.

    Raises:
        UserError: as ``open_given``; or the set is of other classes, or of inputs that are prepared otherwise.
    """
    if not _is_set(given):
        return open_given(given, preprocessing, classes, where)
    stored = load_set(given)
    facts, held = stored.facts, stored.normalise
    theirs = {} if held is None else json.loads(json.dumps(held.as_json()))
    faults = [
        f"{where}: {given}: its samples are of {key} {value}, and the model's of {preprocessing[key]}; give another set"
        for key, value in theirs.items()
        if preprocessing.get(key, value) != value
    ]
    if classes and list(classes) != list(facts["classes"]):
        words = one_line(f"{list(facts['classes'])}, and the model's are {list(classes)}", 300)
        faults.append(f"{where}: {given}: its classes are {words}; give another set")
    if held is None and "mean" in preprocessing and not _are_floats(stored):
        faults.append(f"{where}: {given}: it does not say how its bytes are normalised; the model's are; give another set")
    numbers = stored.targets if facts["classes"] and stored.targets.dtype.kind in "iu" else stored.targets[:0]
    if numbers.size and numbers.max() >= len(facts["classes"]):
        most = f"label {numbers.max()}, and it has {len(facts['classes'])} classes"
        faults.append(f"{where}: {given}: it holds {most}; give another set")
    if faults:
        raise UserError(*faults)
    samples = StoredSamples(stored, tuple(classes))
    labels = samples.labels if samples.labels.dtype.kind in "iu" and samples.labels.ndim == 1 else None
    return GivenSamples(
        samples=samples,
        names=[str(number) for number in range(len(samples))],
        labels=None if labels is None or (labels < 0).any() else labels,
    )


def _are_floats(stored: StoredSet) -> bool:
    return all(array.dtype.kind == "f" for array in by_name(stored.inputs).values())


def _is_set(given: Path) -> bool:
    """Return whether a file is a recovery set, by the names of its arrays."""
    if given.suffix != ".npz" or not given.is_file():
        return False
    try:
        with zipfile.ZipFile(given) as file:
            return {"facts.npy", "targets.npy"} <= {*file.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def class_names(preprocessing: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a bundle's classes; none where it states none."""
    told = preprocessing.get("classes", ())
    return tuple(told) if isinstance(told, Sequence) and all(isinstance(each, str) for each in told) else ()
