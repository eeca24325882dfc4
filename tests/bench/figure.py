"""A figure that was asked for and measured, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXACT = 1e-9
"""Differences of percentages are not exact in binary: 58.8 - 58.2 is a little more than 0.6."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line: what, what was asked, what was measured, and whether that meets it (None: shown for comparison)."""

    what: str
    asked: str
    measured: str
    met: bool | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures, and remarks below them; ``seeds`` is how many trainings or draws a figure is the mean of."""

    figures: Sequence[Figure]
    remarks: Sequence[str] = ()
    seeds: int = 1

    def markdown(self) -> str:
        lines = ["| what | asked | measured | met |", "|---|---|---|---|"]
        words = {True: "yes", False: "**no**", None: ""}
        lines += [f"| {f.what} | {f.asked} | {f.measured} | {words[f.met]} |" for f in self.figures]
        return "\n".join([*lines, *([""] if self.remarks else []), *[f"- {remark}" for remark in self.remarks]])


def at_least(what: str, asked: float, measured: float, unit: str = "x") -> Figure:
    return Figure(what=what, asked=f">= {asked:g}{unit}", measured=f"{measured:.2f}{unit}", met=measured >= asked - EXACT)


def at_most(what: str, asked: float, measured: float, unit: str = "x") -> Figure:
    return Figure(what=what, asked=f"<= {asked:g}{unit}", measured=f"{measured:.2f}{unit}", met=measured <= asked + EXACT)
