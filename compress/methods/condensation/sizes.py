"""Number of inputs that a set of a given size stores, and the choice of so many of a split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from compress.data.base import Indices
from compress.methods.condensation.base import RecoverySet, SetSource
from compress.methods.condensation.labels import are_classes, balanced, class_faults, targets_of
from compress.methods.condensation.soft_labels import bytes_a_sample, resolve_form
from compress.methods.condensation.stored import ENVELOPE_BYTES, as_stored, normalise_of, small_targets
from compress.models.inputs import call
from deploy.engines.inputs import by_name
from profiles.errors import UserError

MIB = 2**20


def stored_count(spec: RecoverySet, source: SetSource, *, tiles: int = 1, compensators: int = 0) -> int:
    """Return how many inputs a set of that size stores, as many of each class where samples have one.

    Args:
        tiles: samples a side of each input.
        compensators: images in half precision, with each of which there is a sample of each tile.

    Raises:
        UserError: not one of each class would fit.
    """
    if spec.per_class is not None:
        return spec.per_class * len(source.classes)
    if spec.samples is not None:
        return spec.samples
    assert spec.size_mib is not None
    values, form, row = _sizes(spec, source)
    each = row["input"] + tiles**2 * max(compensators, 1) * (
        row["target"] + bytes_a_sample(form, max(len(source.classes), 1))
    )
    count = int((spec.size_mib * MIB - ENVELOPE_BYTES - compensators * 2 * values) // each)
    least = max(len(source.classes), 1)
    if count < least:
        fact = f"[recovery] set: size_mib = {spec.size_mib:g} holds {max(count, 0)} inputs of {each:,} bytes"
        raise UserError(f"{fact}, and there are {least} classes; give more")
    return count - count % least


def _sizes(spec: RecoverySet, source: SetSource) -> tuple[int, str, dict[str, int]]:
    """Return the values of an input, the form of its soft labels, and the bytes of an input and a target as stored."""
    values = sum(array[0].size for array in by_name(source.samples.load(np.arange(2)).inputs).values())
    with torch.no_grad():
        logits = source.logits(call(source.teacher.eval(), source.example))
    return values, resolve_form(spec.labels, tuple(logits.shape), targets_of(source.samples)), _rows(source)


def _rows(source: SetSource) -> dict[str, int]:
    batch = source.samples.load(np.arange(2))
    stored = as_stored(batch.inputs, normalise_of(source.preprocessing, batch.inputs))
    size = sum(array[0].nbytes for array in by_name(stored).values())
    return {"input": size, "target": small_targets(targets_of(source.samples))[0].nbytes}


def source_bytes(source: SetSource) -> int:
    """Return what inputs and targets of the training split take in the form in which a set stores them."""
    row = _rows(source)
    return len(source.samples) * (row["input"] + row["target"])


def size_faults(spec: RecoverySet, source: SetSource, tiles: int = 1) -> list[str]:
    """List why pictures of the split do not suffice for a set of that size."""
    where, wanted = "[recovery] set", tiles**2
    if spec.per_class is not None:
        return class_faults(targets_of(source.samples), source.classes, spec.per_class * wanted, where)
    if spec.samples is not None and spec.samples * wanted > len(source.samples):
        fact = f"{where}: {spec.samples * wanted} pictures are asked for, and the training split has {len(source.samples)}"
        return [f"{fact}; ask for fewer"]
    return []


def choose_samples(source: SetSource, count: int, rank: npt.NDArray[np.float64]) -> Indices:
    """Choose ``count`` samples of least ``rank``, the classes alike where samples have one."""
    targets = targets_of(source.samples)
    if source.classes and are_classes(targets) and (targets >= 0).any():
        return balanced(targets, count, rank, len(source.classes))
    return np.sort(np.argsort(rank, kind="stable")[:count]).astype(np.int64)
