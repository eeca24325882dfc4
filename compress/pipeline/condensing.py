"""The set of a recipe as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from compress.execution.cache import StepCache, steps_folder
from compress.execution.progress import Progress
from compress.methods.condensation import SETS
from compress.methods.condensation.base import RecoverySet
from compress.methods.condensation.set_file import FileSet
from compress.methods.condensation.stored import load as load_set
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.fields import build
from compress.recipe.spec import Recipe, RecoverySpec
from deploy.files import write_atomically
from profiles.device import load as load_profile
from profiles.errors import UserError
from profiles.tables import load_object

SIZES = ("per_class", "samples", "size_mib")


def condense(recipe: Recipe, given: Mapping[str, Any], out: Path, progress: Progress) -> str:
    """Make the set of a recipe, with options in place of its own, and write it; return its bytes in words.

    Args:
        given: fields of the set, and ``use``; one size replaces another.

    Raises:
        UserError: no size, a file in place of a set, or what the set needs is not there.
    """
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: {out.parent}: no such folder; make it first")
    if out.exists() and not _is_set(out):
        raise UserError(f"--out {out}: it is there and no recovery set; give a name that is free, or a set to replace")
    spec = RecoverySpec(set=_set(recipe, given))
    cache = StepCache(steps_folder(), progress)
    builder = ModelBuilder(replace(recipe, recovery=spec), load_profile("cpu"), cache, progress)
    builder.check()
    builder.choose_recovery(builder.teacher())
    made = builder.recovery
    assert made is not None and made.file is not None
    write_atomically(out, made.file.read_bytes())
    return f"{out}: {made.notes[0]}"


def _is_set(path: Path) -> bool:
    try:
        load_set(path)
    except UserError:
        return False
    return True


def _set(recipe: Recipe, given: Mapping[str, Any]) -> RecoverySet:
    own = None if recipe.recovery is None else recipe.recovery.set
    if isinstance(own, FileSet):
        raise UserError(f"{recipe.source}: [recovery] set is a file already, {own.path}; leave it out to make another")
    use = given.get("use") or ("random" if own is None else own.use)
    fields = asdict(own) if own is not None and own.use == use else {}
    if any(size in given for size in SIZES):
        fields = {key: value for key, value in fields.items() if key not in SIZES}
    fields = {**fields, **{key: value for key, value in given.items() if key != "use"}}
    if not any(fields.get(size) is not None for size in SIZES):
        raise UserError(f"{recipe.source}: how large? give --per-class, --samples or --size-mib, or a [recovery] set")
    faults: list[str] = []
    made: RecoverySet | None = build(load_object(SETS[use]), fields, f"condense ({use})", faults)
    if made is None:
        raise UserError(*faults)
    return made
