"""What a dry run looks at of a recipe: its files, and its data as a run would open it. Nothing is fetched or written.

Of data that a network brings, that a callable of the user's gives, or whose options come with published weights, options
alone are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from compress.data.options import check_options
from compress.models import factory
from compress.models.checkpoint import checkpoint_path
from compress.pipeline.names import file_of, has_names
from compress.recipe.parse import instantiate, sources, tasks
from compress.recipe.spec import Recipe, Use
from profiles.errors import UserError

FETCHING = ("huggingface",)
"""Sources that may ask a network."""


def check(recipe: Recipe) -> None:
    """Check task, data and checkpoints of a recipe.

    Raises:
        UserError: all that is wrong with them.
    """
    is_opened = recipe.data.use in sources() and recipe.data.use not in FETCHING and not has_names(recipe)
    where = "[task] data"
    acts: list[Callable[[], Any]] = [
        lambda: instantiate(recipe.task, tasks(), "[task] kind"),
        lambda: (instantiate if is_opened else _options)(recipe.data, sources(), where),
    ]
    files = [
        file_of(recipe.teacher.weights),
        *(file_of(each.weights) for each in recipe.teacher.also),
        *(file_of(each.weights) for each in recipe.baselines),
    ]
    acts += [partial(checkpoint_path, file) for file in files if file and "://" not in file]
    faults: list[str] = []
    for act in acts:
        try:
            act()
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)


def _options(use: Use, table: Any, where: str) -> None:
    call = factory.factory(table.get(use.use, use.use))
    check_options(call, use.arguments, f"{where} {use.use}")
