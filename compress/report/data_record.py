"""Record of ``compress compare-data``: whether two sets of samples are alike, and what differs most."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from calib.two_samples import Difference

SCHEMA = 1
Answer = Literal["alike", "differ", "cannot tell"]
EXIT_CODES: dict[Answer, int] = {"alike": 0, "differ": 1, "cannot tell": 3}


@final
@dataclass(frozen=True, kw_only=True)
class ClassDifference:
    """One class in both sets.

    Attributes:
        counts: samples of it in each.
        difference: of its samples; None where a set has fewer than two.
        p: adjusted for the number of classes (Holm).
    """

    name: str
    counts: tuple[int, int]
    difference: Difference | None
    p: float | None


@final
@dataclass(frozen=True, kw_only=True)
class UnlikeSample:
    """A sample of one set that is far from the other: by how much farther than from its own."""

    name: str
    unlikeness: float


@final
@dataclass(frozen=True, kw_only=True)
class DataComparison:
    """Comparison of two sets of samples by a model's features.

    Attributes:
        a, b: what was given; ``counts`` how many samples of each were looked at, of ``totals``.
        model: whose features; ``widths`` their number at each depth.
        difference: of all samples.
        level: p value below which the sets differ.
        classes: of classes that both have labels of, the most different first.
        of_a, of_b: samples that are most unlike the other set, the most unlike first.
    """

    a: str
    b: str
    model: str
    counts: tuple[int, int]
    totals: tuple[int, int]
    widths: tuple[int, ...]
    difference: Difference
    level: float
    classes: tuple[ClassDifference, ...] = ()
    of_a: tuple[UnlikeSample, ...] = ()
    of_b: tuple[UnlikeSample, ...] = ()

    @property
    def answer(self) -> Answer:
        """Return whether they are alike; it cannot be told where no p value below the level is possible."""
        if self.difference.p < self.level:
            return "differ"
        return "cannot tell" if self.difference.least_p >= self.level else "alike"

    @property
    def exit_code(self) -> int:
        """Return 0 where they are alike, 1 where they differ, 3 where it cannot be told."""
        return EXIT_CODES[self.answer]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"schema": SCHEMA, "answer": self.answer, **asdict(self)}

    @property
    def words(self) -> str:
        """Say the difference in a line."""
        found = self.difference
        ways = f"all {found.relabellings} relabellings" if found.exact else f"{found.relabellings} drawn relabellings"
        share = f"{100 * found.share:.1f} % of what lies between"
        return f"energy distance {found.distance:.4g} ({share}), p = {found.p:.3g} of {ways}"

    def __str__(self) -> str:
        depths = " + ".join(map(str, self.widths))
        lines = [
            f"{self.a} ({self.counts[0]} of {self.totals[0]} samples) and {self.b} ({self.counts[1]} of {self.totals[1]})"
        ]
        lines += [f"by {depths} features of {self.model}: {self.words}", f"{self.answer} (level {self.level:g})"]
        for each in self.classes:
            told = (
                "too few to compare" if each.difference is None else f"{100 * each.difference.share:.1f} %, p = {each.p:.3g}"
            )
            lines.append(f"  class {each.name}: {each.counts[0]} and {each.counts[1]} samples: {told}")
        for name, other, unlike in ((self.a, self.b, self.of_a), (self.b, self.a, self.of_b)):
            if unlike and self.answer == "differ":
                shown = ", ".join(f"{each.name} ({each.unlikeness:+.3g})" for each in unlike)
                lines.append(f"  of {name}, most unlike {other}: {shown}")
        return "\n".join(lines)
