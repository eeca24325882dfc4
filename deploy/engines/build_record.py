"""Build record: model, plan and machine of a built engine, kept beside it, so that a stale engine is never used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.engines.base import RECORD_FILE, BuildPlan
from deploy.files import sha256


def record(model: Path, plan: BuildPlan, machine: Mapping[str, str]) -> dict[str, Any]:
    """Record a build of the file ``model`` by ``plan`` on ``machine``."""
    return record_from_sha256(sha256(model), plan, machine)


def record_from_sha256(model_sha256: str, plan: BuildPlan, machine: Mapping[str, str]) -> dict[str, Any]:
    """Record a build of a model file that is known by its SHA-256."""
    return {"model_sha256": model_sha256, "plan": plan.as_json(), "machine": dict(machine)}


def mismatches(built: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Compare two records: one line for each fact that differs; empty when the engine still fits."""
    before, after = dict(_flat(built)), dict(_flat(now))
    differing = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    return tuple(f"{name} was {before.get(name, 'unknown')}, is {after.get(name, 'unknown')}" for name in differing)


def save(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write a record beside its engine."""
    (folder / RECORD_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True))


def load(folder: Path) -> dict[str, Any] | None:
    """Read the record beside an engine; None when there is none or it cannot be read."""
    try:
        facts = json.loads((folder / RECORD_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
