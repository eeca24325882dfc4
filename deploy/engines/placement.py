"""Which part of a device ran which operators of an engine, as its runtime's own profile tells it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from profiles.json_text import read_json

Placement = Mapping[str, Mapping[str, int]]
"""Nodes of each operator, by the part that ran them."""
FILE = "placement.json"
MOST_OPERATORS = 6
"""Kinds of operators that are told."""
KERNEL = "_kernel_time"


def placement_of(events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Count the nodes of each operator by provider, in a profile that ONNX Runtime wrote (``enable_profiling``).

    A node that ran more than once counts once. What a provider compiled is one node to ONNX Runtime.

    Example:
        >>> ran = {"provider": "CPUExecutionProvider", "op_name": "Conv"}
        >>> placement_of([{"cat": "Node", "name": "a_kernel_time", "args": ran}] * 2)
        {'CPUExecutionProvider': {'Conv': 1}}
    """
    nodes = {
        (str(event["name"]), str(event["args"]["provider"]), str(event["args"]["op_name"]))
        for event in events
        if event.get("cat") == "Node" and str(event["name"]).endswith(KERNEL) and event["args"].get("provider")
    }
    counted: dict[str, Counter[str]] = {}
    for _, provider, operator in sorted(nodes):
        counted.setdefault(provider, Counter())[operator] += 1
    return {provider: dict(operators) for provider, operators in counted.items()}


def left_to(placement: Placement, other: str) -> str:
    """Say what of an engine ran on ``other``, which was to run nothing of it; empty where nothing did.

    Example:
        >>> left_to({"CoreML": {"CoreML_1": 1}, "CPU": {"QLinearConv": 20, "QuantizeLinear": 1}}, "CPU")
        'CoreML ran 1 node or compiled part; CPU ran 21 nodes: QLinearConv x 20, QuantizeLinear'
    """
    counts = placement.get(other, {})
    if not counts:
        return ""
    others = [f"{name} ran {_parts(sum(each.values()))}" for name, each in placement.items() if name != other]
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{name} x {count}" if count > 1 else name for name, count in most[:MOST_OPERATORS]]
    more = f" and {len(most) - MOST_OPERATORS} kinds more" if len(most) > MOST_OPERATORS else ""
    total = sum(counts.values())
    return "; ".join([*others, f"{other} ran {total} node{'s' if total > 1 else ''}: {', '.join(words)}{more}"])


def _parts(count: int) -> str:
    return "1 node or compiled part" if count == 1 else f"{count} nodes or compiled parts"


def save(folder: Path, placement: Placement) -> None:
    """Write a placement beside its engine."""
    (folder / FILE).write_text(json.dumps(placement, indent=1, sort_keys=True))


def load(folder: Path) -> dict[str, dict[str, int]]:
    """Read the placement beside an engine; empty where there is none."""
    try:
        found = read_json(folder / FILE)
    except (OSError, ValueError):
        return {}
    parts = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(part, dict) and all(type(count) is int for count in part.values()) for part in parts):
        return {}
    return dict(found)
