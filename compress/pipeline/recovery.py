"""Recovery set of a run: made once as a step, or read of a file; what stages train on, and calibration is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import nn

from compress.data import Samples, Splits
from compress.data.base import evenly_spaced
from compress.data.subset import Subset
from compress.execution.cache import versions
from compress.methods.condensation.base import RecoverySet, SetSource
from compress.methods.condensation.making import identity, make_set, misfits
from compress.methods.condensation.set_file import FileSet
from compress.methods.condensation.sizes import source_bytes
from compress.methods.condensation.soft_labels import decode
from compress.methods.condensation.stored import StoredSet, load, save
from compress.methods.condensation.stored_samples import MixedSamples, StoredSamples
from compress.methods.distillation.query_budget import QueriedSignals
from compress.pipeline.cache_keys import code_key
from compress.pipeline.run_context import RunContext
from compress.recipe.parse import instantiate, sources
from compress.recipe.spec import RecoverySpec
from profiles.errors import UserError

FILE = "recovery.npz"
_FIRST = np.arange(1)
MOST_CALIBRATION = 512
"""Samples of the set that calibration is drawn from."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Recovery:
    """What stages train on.

    Attributes:
        answers: of the teacher where they are stored and it is not asked again.
        file: the stored set; None where the training split itself is mixed with pictures.
        notes: for the report.
    """

    samples: Samples
    answers: QueriedSignals | None = None
    file: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def calibration(self) -> Samples:
        """Return the samples that calibration is drawn from: of the training split nothing else is read."""
        return Subset(self.samples, evenly_spaced(len(self.samples), MOST_CALIBRATION))


def source_of(
    shared: RunContext, data: Splits, teacher: nn.Module, teachers: Sequence[tuple[nn.Module, float]] = ()
) -> SetSource:
    """Return what sets of a run are made of."""
    return SetSource(
        samples=data.train,
        classes=data.classes,
        preprocessing=data.preprocessing,
        task=shared.task,
        teacher=teacher,
        teachers=teachers or [(teacher, 1.0)],
        example=shared.example,
        seed=shared.recipe.seed,
        progress=shared.progress,
    )


def preflight_faults(shared: RunContext, teacher: nn.Module) -> list[str]:
    """List in seconds why the set of a recipe cannot be made; ``teacher`` need not be trained."""
    spec = shared.recipe.recovery
    if spec is None or spec.set is None:
        return []
    source = source_of(shared, shared.data, teacher)
    if not isinstance(spec.set, FileSet):
        return spec.set.faults(source)
    try:
        facts = spec.set.stored().facts
    except UserError as error:
        return [*error.faults]
    wanted = {**identity(source, shared.recipe.task.use, source.samples.load(_FIRST).inputs), "teacher": facts["teacher"]}
    return misfits(facts, wanted, f"recovery set {spec.set.path}")


def choose(spec: RecoverySpec, source: SetSource, shared: RunContext, teacher_key: str) -> Recovery:
    """Make or read the set of a recipe, and mix it as asked.

    Raises:
        UserError: the set cannot be made, or the file is of another teacher, task or shape.
    """
    if spec.set is None:
        return _mixed(Recovery(samples=source.samples), spec)
    file, notes = _file(spec.set, source, shared, teacher_key)
    stored = load(file)
    samples = StoredSamples(stored, source.classes)
    found = Recovery(
        samples=samples,
        answers=_answers(stored, samples) if spec.answers == "stored" else None,
        file=file,
        notes=(describe(stored, source, notes),),
    )
    return _mixed(found, spec)


def describe(stored: StoredSet, source: SetSource, notes: Sequence[str] = ()) -> str:
    """Tell a set's bytes, all of them, beside those of the training split."""
    parts = stored.size_by_part()
    total, whole = sum(parts.values()), source_bytes(source)
    told = ", ".join(f"{name} {size:,}" for name, size in parts.items())
    labels = f"soft labels {stored.facts['labels']}"
    made = f"recovery set {stored.facts['use']}: {stored.stored:,} inputs for {len(stored):,} samples, {labels}"
    share = f"{100 * total / whole:.2f} % of the training split's {whole:,} bytes"
    return "; ".join([f"{made}; {total:,} bytes ({told}), {share}", *notes])


def _file(spec: RecoverySet, source: SetSource, shared: RunContext, teacher_key: str) -> tuple[Path, tuple[str, ...]]:
    kind = shared.recipe.task.use
    if isinstance(spec, FileSet):
        wanted = identity(source, kind, source.samples.load(_FIRST).inputs)
        if faults := misfits(spec.stored().facts, wanted, f"recovery set {spec.path}"):
            raise UserError(*faults)
        return Path(spec.path), ()

    def make(folder: Path) -> dict[str, Any]:
        torch.manual_seed(source.seed)
        stored, notes = make_set(spec, source, kind)
        save(folder / FILE, stored)
        return {"notes": list(notes)}

    decided = {
        "set": spec.decided_by,
        "data": source.samples.fingerprint(),
        "preprocessing": {
            key: value for key, value in source.preprocessing.items() if key in ("mean", "deviation", "order", "scale")
        },
        "teacher": teacher_key,
        "task": shared.task_key(),
        "seed": source.seed,
        "code": code_key(type(spec), make_set),
        "versions": versions("torch", "numpy"),
    }
    step = shared.cache.step("recovery-set", decided, make)
    return step.folder / FILE, tuple(step.facts["notes"])


def _answers(stored: StoredSet, samples: StoredSamples) -> QueriedSignals:
    logits = decode(stored.soft, samples.labels, len(stored.facts["classes"]))
    if logits is None:
        raise UserError("[recovery] answers = 'stored': the set holds no soft labels; make it with labels = 'quantised'")
    return QueriedSignals.of({"teacher_logits": torch.from_numpy(logits)})


def _mixed(found: Recovery, spec: RecoverySpec) -> Recovery:
    """Mix samples with the pictures of a recipe, where it has some."""
    if spec.unlabelled is None:
        return found
    pictures: Splits = instantiate(spec.unlabelled, sources(), "[recovery] unlabelled")
    mixed = MixedSamples(found.samples, pictures.train, spec.share)
    note = f"an epoch is {len(mixed):,} samples, {mixed.unlabelled:,} of them unlabelled pictures"
    return replace(found, samples=mixed, notes=(*found.notes, note))
