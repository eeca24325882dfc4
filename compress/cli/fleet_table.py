"""What became of a bundle on devices, and what they serve, as tables for a terminal."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.bundle.manifest import Manifest
from deploy.shipping.ship import ShipResult

WIDTH = 240
COLOURS = {"shipped": "green", "already": "green", "refused": "red", "failed": "red", "not tried": "yellow"}


def shipped_table(manifest: Manifest, done: Sequence[ShipResult]) -> str:
    """Render one line a device, then one line a reason."""
    total = sum({entry.sha256: entry.size_bytes for entry in manifest.files.values()}.values())
    made = _table(f"{manifest.name} {manifest.version} ({manifest.target.engine} {manifest.target.precision})")
    for name in ("device", "outcome", "served before", "served now"):
        made.add_column(name)
    for name in ("sent KiB", f"of {total / 1024:.0f}", "cosine", "p50 ms", "report's", "seconds"):
        made.add_column(name, justify="right")
    for one in done:
        made.add_row(*_cells(one, total))
    reasons = [f"{escape(_naming(one, reason))}" for one in done for reason in one.reasons]
    trusts = [f"{one.device} trusts key {one.trusted} from now on" for one in done if one.trusted]
    return _text(made, [*trusts, *reasons])


def status_table(told: Sequence[Mapping[str, Any]]) -> str:
    """Render one line a device and model."""
    made = _table("")
    for name in ("device", "model", "version", "engine", "since", "before it", "keys trusted"):
        made.add_column(name)
    made.add_column("p50 ms", justify="right")
    notes: list[str] = []
    for one in told:
        for model in one.get("models", []):
            made.add_row(escape(one["device"]), *_model_cells(model), ", ".join(one["keys"]), _p50(model))
            notes += [f"{one['device']}: {model['name']}: {model['fault']}"] if model["fault"] else []
        notes += [f"{one['device']}: {fault}" for fault in one.get("faults", [])]
        if not one.get("models"):
            made.add_row(
                one["device"], "-" if "error" in one else "none", "", "", "", "", ", ".join(one.get("keys", [])), ""
            )
        notes += [_naming_device(one["device"], one["error"])] if "error" in one else []
    return _text(made, [escape(note) for note in notes])


def _cells(one: ShipResult, total: int) -> list[str]:
    proof = one.proof or {}
    state = f"[{COLOURS[one.state]}]{one.state}[/]"
    return [
        escape(one.device),
        state,
        _or_dash(one.was),
        _or_dash(one.now),
        f"{one.sent_bytes / 1024:.0f}",
        f"{100 * one.sent_bytes / total:.0f} %",
        f"{proof['golden']['cosine']:.5f}" if proof else "-",
        f"{proof['p50_ms']:.3f}" if proof else "-",
        f"{proof['reference_ms']:.3f}" if proof.get("reference_ms") else "-",
        f"{one.seconds:.1f}",
    ]


def _model_cells(model: Mapping[str, Any]) -> list[str]:
    if model["version"] is None:
        return [model["name"], "[red]damaged[/]", "", "", _or_dash(model["previous"])]
    proof = model["proof"]
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(model["since"]))
    form = f"{proof['engine']} {proof['precision']} {proof['runtime_version']}"
    return [model["name"], str(model["version"]), form, since, _or_dash(model["previous"])]


def _p50(model: Mapping[str, Any]) -> str:
    return f"{model['proof']['p50_ms']:.3f}" if model["version"] is not None else "-"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _naming(one: ShipResult, reason: str) -> str:
    return _naming_device(one.device, reason)


def _naming_device(device: str, words: str) -> str:
    return words if words.startswith(f"{device}: ") else f"{device}: {words}"


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title or None, title_justify="left")


def _text(made: Table, lines: Sequence[str]) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    console.print(made)
    for line in lines:
        console.print(line, soft_wrap=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    return "\n".join(line.rstrip() for line in str(text).splitlines())
