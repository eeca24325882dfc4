"""Choices of a stage for parts of the model, as the report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True, kw_only=True)
class Choice:
    """Choice of a stage for one group, layer, block or weight.

    Attributes:
        family: role and scale of a group, such as ``stage/4``; kind of the factors of a layer; bits of a weight.
        before, after: width, or largest and chosen rank, or bits; 0 for a block that was taken out.
        kept: importance (of a layer: of its output's energy; of a weight: of its own) that is kept, as a fraction.
        bought: what this choice alone saves, given all others, in ``unit``; None where it has no price.
    """

    name: str
    kind: Literal["group", "block", "layer", "weight"]
    family: str
    before: int
    after: int
    kept: float
    bought: float | None
    unit: str


def summary(choices: Sequence[Choice]) -> list[str]:
    """Summarise choices: a line for each family of groups or kind of factors, and one for removed blocks."""
    lines: list[str] = []
    for family in dict.fromkeys(c.family for c in choices if c.kind != "block"):
        members = [c for c in choices if c.kind != "block" and c.family == family]
        if members[0].kind == "weight":
            count = f"{len(members)} weight{'s' if len(members) > 1 else ''}"
            lines.append(
                f"{family}: {count}, at least {100 * min(c.kept for c in members):.1f} % kept{_bought(members)} saved"
            )
            continue
        what = "channels in" if members[0].kind == "group" else "of rank in"
        parts = "group" if members[0].kind == "group" else "layer"
        count = f"{len(members)} {parts}{'s' if len(members) > 1 else ''}"
        before, after = (sum(getattr(c, end) for c in members) for end in ("before", "after"))
        kept = sum(c.kept * c.before for c in members) / max(before, 1)
        lines.append(f"{family or 'other'}: {before} -> {after} {what} {count}, {100 * kept:.0f} % kept{_bought(members)}")
    gone = [c for c in choices if c.kind == "block"]
    if gone:
        lines.append(f"taken out: {', '.join(c.name for c in gone)}{_bought(gone)}")
    return lines


def _bought(choices: Sequence[Choice]) -> str:
    prices = [c.bought for c in choices if c.bought is not None]
    if not prices:
        return ""
    total = sum(prices)
    return f", {total:.3f} ms" if choices[0].unit == "ms" else f", {total:.3g} {choices[0].unit}"
