"""A search over recipes, and the recipe of one of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compress.execution.cache import steps_folder
from compress.execution.progress import Progress, progress_here
from compress.pipeline.search import records
from compress.pipeline.search import search as pipeline
from compress.pipeline.search.requirements import check_installed
from compress.pipeline.search.space import space_of, without_search
from compress.pipeline.search.study import HEARTBEAT_S
from compress.pipeline.target import resolve, resolve_all
from compress.recipe.parse import parse, read_table
from compress.recipe.spec import Recipe
from compress.report.search_record import SearchReport

TRIALS = 30


def search(
    recipe: str | Path,
    *,
    devices: Sequence[str] = ("cpu",),
    trials: int | None = None,
    hours: float | None = None,
    join: str | None = None,
    out: str | Path | None = None,
    quiet_seconds: float | None = None,
    heartbeat_s: int = HEARTBEAT_S,
    progress: Progress | None = None,
) -> SearchReport:
    """Search recipes like ``recipe`` for the front of accuracy and costs on each device.

    Args:
        recipe: a TOML file, or the name of a built-in recipe; its [search] says what varies.
        trials: of all processes together, on each device; 30 without ``hours``.
        hours: that this process works, at most.
        join: address of a storage, for several processes that work on one search.
        out: where the front goes; ``runs/NAME-search`` without one.
        quiet_seconds: how long a race waits for a device that others use.
        heartbeat_s: four missing heartbeats, and a minute at least, give a trial out again.

    Raises:
        UserError: everything that does not fit, at once.

    Example:
        >>> compress.search("my.toml", devices=["cpu"], trials=60)  # where there is no my.toml
        Traceback (most recent call last):
            ...
        profiles.errors.UserError: recipe my.toml: no such file
    """
    check_installed()
    progress = progress or progress_here()
    table, name, source = read_table(str(recipe))
    parse(table, name=name, source=source)
    asked = resolve_all(devices)
    for each in asked:
        if each.target is not None:
            each.target.tell_warnings(progress.say)
    return pipeline.search(
        table,
        name,
        source,
        asked,
        Path(out) if out is not None else search_folder(name),
        steps_folder(),
        progress,
        pipeline.SearchLimits(
            trials=TRIALS if trials is None and hours is None else trials,
            hours=hours,
            join=join,
            quiet_seconds=quiet_seconds,
            heartbeat_s=heartbeat_s,
        ),
    )


def search_folder(name: str) -> Path:
    """Name the folder that a search leaves its front in unless another is given."""
    return Path("runs") / f"{name}-search"


def trial_recipe(recipe: str, number: int, device: str, join: str | None = None) -> Recipe:
    """Return the recipe of a trial of a search of ``recipe`` on ``device``, named ``NAME-trial-NUMBER``.

    Raises:
        UserError: there is no such search or trial.
    """
    check_installed()
    table, name, source = read_table(recipe)
    url = join or pipeline.study_url(search_folder(name))
    base = without_search(table)
    space = space_of(pipeline.spec_of(table, source), base, resolve(device).profile)
    made = parse(records.trial_table(url, name, device, number, base, space), name=name, source=source)
    return replace(made, name=f"{name}-trial-{number}")
