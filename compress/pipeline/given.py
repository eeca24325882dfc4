"""Samples that a user names: a folder of pictures, a .npz file, or a split of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from compress.data import Samples
from compress.data.given_samples import open_given
from compress.pipeline.check.labelled import of_recipe
from compress.recipe.parse import built_in
from compress.tasks import Task
from compress.tasks.classification import Classification
from profiles.errors import UserError, unknown

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
    found = open_given(Path(given).expanduser(), preprocessing, class_names(preprocessing), where)
    return GivenForModel(
        samples=found.samples,
        kind="npz" if given.endswith(".npz") else "folder",
        task=Classification() if found.labels is not None else None,
    )


def class_names(preprocessing: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a bundle's classes; none where it states none."""
    told = preprocessing.get("classes", ())
    return tuple(told) if isinstance(told, Sequence) and all(isinstance(each, str) for each in told) else ()
