"""Task and data that two models are judged on: those of a recipe that is named, or of a run where both are built in."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from compress.data import Splits
from compress.pipeline.check.sides import Side
from compress.recipe.parse import instantiate, load, sources, tasks
from compress.recipe.spec import Use
from compress.tasks import Task
from profiles.errors import UserError

Labelled = tuple[Task, Splits]


def of_recipe(recipe: str) -> Labelled:
    """Return task and data of a recipe.

    Raises:
        UserError: there is no such recipe, or its data is not there.
    """
    asked = load(recipe)
    return _labelled(asked.task, asked.data)


def of_runs(sides: Sequence[Side | None]) -> Labelled | None:
    """Return task and data of the last run where both are the product's own: what a report names of others is not called."""
    for side in reversed([side for side in sides if side is not None]):
        named = side.recipe or {}
        task = _built_in_use(named.get("task"), "kind", tasks())
        data = _built_in_use(named.get("data"), "use", sources())
        if task and data:
            with contextlib.suppress(UserError):  # its files are not on this machine
                return _labelled(task, data)
    return None


def _labelled(task: Use, data: Use) -> Labelled:
    return instantiate(task, tasks(), "[task] kind"), instantiate(data, sources(), "[task] data")


def _built_in_use(told: Any, key: str, table: Mapping[str, str]) -> Use | None:
    """Read a use as a report tells it: its name under ``key``, its arguments beside."""
    if not isinstance(told, Mapping) or not isinstance(told.get(key), str) or told[key] not in table:
        return None
    return Use(use=told[key], arguments={name: value for name, value in told.items() if name != key})
