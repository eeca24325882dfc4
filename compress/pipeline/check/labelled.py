"""Task and data that two models are judged on: those of a recipe that is named, or of a run where both are built in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.data import Splits
from compress.execution.progress import progress_here
from compress.pipeline.check.sides import Side, read_preprocessing
from compress.pipeline.names import resolve_names
from compress.recipe.parse import instantiate, load, sources, tasks
from compress.recipe.spec import Use
from compress.tasks import Task
from profiles.errors import UserError, one_line

Labelled = tuple[Task, Splits]


def of_recipe(recipe: str, folders: Sequence[Path | None] = ()) -> Labelled:
    """Return task and data of a recipe, for the bundles in ``folders``.

    Raises:
        UserError: there is no such recipe, its data is not there, or a bundle takes samples that are prepared otherwise.
    """
    asked = resolve_names(load(recipe), progress_here())  # what comes with weights fills the data's options, as in a run
    found = _labelled(asked.task, asked.data)
    if faults := [fault for folder in folders if folder is not None for fault in _misfits(found[1], folder, recipe)]:
        raise UserError(*faults)
    return found


def of_runs(sides: Sequence[Side | None]) -> Labelled | None:
    """Return task and data of the last run where both are the product's own: what a report names of others is not called.

    Data that prepares samples otherwise than one of the bundles states is not taken: it never saw such.
    """
    folders = [side.folder for side in sides if side is not None and side.folder is not None]
    for side in reversed([side for side in sides if side is not None]):
        named = side.recipe or {}
        task = _built_in_use(named.get("task"), "kind", tasks())
        data = _built_in_use(named.get("data"), "use", sources())
        if task and data:
            with contextlib.suppress(UserError):  # its files are not on this machine
                found = _labelled(task, data)
                if not any(_misfits(found[1], folder, "the run's data") for folder in folders):
                    return found
    return None


def _misfits(data: Splits, folder: Path, where: str) -> list[str]:
    """Say how data prepares samples otherwise than a bundle states, or numbers its classes; in one line."""
    theirs = read_preprocessing(folder)
    ours = json.loads(json.dumps({**data.preprocessing, "classes": data.classes}, default=dict))
    differ = sorted(key for key in ours.keys() & theirs.keys() if ours[key] and theirs[key] and ours[key] != theirs[key])
    if not differ:
        return []
    given = "; ".join(
        f"{key}: {one_line(str(ours[key]), 60)}, in the bundle {one_line(str(theirs[key]), 60)}" for key in differ
    )
    return [f"{where}: its samples are not as {folder} takes them ({given}); give a recipe whose data is prepared alike"]


def _labelled(task: Use, data: Use) -> Labelled:
    return instantiate(task, tasks(), "[task] kind"), instantiate(data, sources(), "[task] data")


def _built_in_use(told: Any, key: str, table: Mapping[str, str]) -> Use | None:
    """Read a use as a report tells it: its name under ``key``, its arguments beside."""
    if not isinstance(told, Mapping) or not isinstance(told.get(key), str) or told[key] not in table:
        return None
    return Use(use=told[key], arguments={name: value for name, value in told.items() if name != key})
