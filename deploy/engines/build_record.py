"""What an engine was built from and for, kept beside it, so that one that does not fit any more is never used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.engines.base import RECORD_FILE, BuildPlan
from deploy.files import sha256


def record(model: Path, plan: BuildPlan, machine: Mapping[str, str]) -> dict[str, Any]:
    """What decides the engine that ``plan`` makes of the file ``model`` on ``machine``."""
    return record_from_sha256(sha256(model), plan, machine)


def record_from_sha256(model_sha256: str, plan: BuildPlan, machine: Mapping[str, str]) -> dict[str, Any]:
    """The same of a file that is known by its SHA-256."""
    return {"model_sha256": model_sha256, "plan": plan.as_json(), "machine": dict(machine)}


def mismatches(built: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Every fact of two records that differs, one line each; empty when the engine still fits."""
    before, after = dict(_flat(built)), dict(_flat(now))
    differing = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    return tuple(f"{name} was {before.get(name, 'unknown')}, is {after.get(name, 'unknown')}" for name in differing)


def save(folder: Path, made: Mapping[str, Any]) -> None:
    """Write a record beside its engine."""
    (folder / RECORD_FILE).write_text(json.dumps(made, indent=1, sort_keys=True))


def load(folder: Path) -> dict[str, Any] | None:
    """The record beside an engine; None when there is none or it cannot be read."""
    try:
        found = json.loads((folder / RECORD_FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value
