"""[recovery] of a recipe: the small set that stages train on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.methods.condensation import SETS
from compress.methods.condensation.base import RecoverySet
from compress.methods.distillation.loss_specs import loss_inputs, loss_named
from compress.recipe.fields import build
from compress.recipe.spec import RecoverySpec, RecoveryTable, Use
from compress.stages.base import Stage
from compress.stages.trained import TrainedStage
from profiles.errors import unknown
from profiles.tables import load_object

TWO = "two"
READS_STORED = "teacher_logits"
READS_TWO = "dbr"


def parse_recovery(
    given: Mapping[str, Any] | None,
    data_source: Callable[[Any, str], Use | None],
    chain: Sequence[Stage | None],
    source: str,
    faults: list[str],
) -> RecoverySpec | None:
    """Build the table, its set and its data source; None where there is none, or it has faults.

    Args:
        data_source: reads an entry like [task]'s ``data``.
    """
    if given is None:
        return None
    where = f"{source}: [recovery]"
    table: RecoveryTable | None = build(RecoveryTable, given, where, faults)
    if table is None:
        return None
    made = None if table.set is None else _set(table.set, Path(source).parent, f"{where} set", faults)
    beside = None if table.unlabelled is None else data_source(table.unlabelled, f"{where} unlabelled")
    if (table.unlabelled is None) != (table.share == 0):
        faults.append(f"{where}: share and unlabelled go together: a share above 0 of the pictures of a data source")
    if table.set is None and (table.answers == "stored" or table.bundle or table.unlabelled is None):
        faults.append(f'{where}: set is missing; for example set = {{ use = "random", per_class = 50 }}')
    if table.answers == "stored":
        faults += _stored_faults(table, made, chain, where)
    return RecoverySpec(set=made, unlabelled=beside, share=table.share, answers=table.answers, bundle=table.bundle)


def _set(given: Any, folder: Path, where: str, faults: list[str]) -> RecoverySet | None:
    entry = {"use": given} if isinstance(given, str) else dict(given)
    name = entry.pop("use", None)
    if not isinstance(name, str) or name not in SETS:
        faults.append(unknown("set", str(name), SETS, where))
        return None
    if isinstance(entry.get("path"), str):
        entry["path"] = str(folder / os.path.expanduser(os.path.expandvars(entry["path"])))
    made: RecoverySet | None = build(load_object(SETS[name]), entry, f"{where} ({name})", faults)
    return made


def _stored_faults(table: RecoveryTable, made: RecoverySet | None, chain: Sequence[Stage | None], where: str) -> list[str]:
    """List why stages cannot learn from stored answers alone."""
    faults = []
    if table.share:
        faults.append(f"{where}: answers = 'stored' are there for the set alone, not for unlabelled pictures; leave one out")
    if made is not None and made.labels == "none":
        faults.append(f"{where}: answers = 'stored' and labels = 'none' do not go together; leave one out")
    for stage in chain:
        if not isinstance(stage, TrainedStage):
            continue
        if stage.cut_mix:
            faults.append(
                f"{where}: stage {stage.name}: images of cut_mix show two samples, and answers = 'stored' are of one"
            )
        for spec in stage.losses:
            reads = {word for word in loss_inputs(loss_named(spec.use)) if word.startswith("teacher")}
            beyond = sorted(reads - {READS_STORED})
            if beyond:
                fact = f"stage {stage.name}: its loss {spec.use!r} reads {', '.join(beyond)}"
                faults.append(f"{where}: {fact}, and answers = 'stored' has {READS_STORED} alone; leave the loss out")
            if made is not None and made.labels == TWO and reads and spec.use != READS_TWO:
                fact = f"stage {stage.name}: its loss {spec.use!r} reads class scores, and labels = 'two' stores distances"
                faults.append(f"{where}: {fact}; take the loss {READS_TWO!r}, or labels = 'quantised'")
    return faults
