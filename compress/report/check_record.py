"""Record of ``compress check``, and how it is shown: text, JSON, JUnit XML, and Markdown for a CI's summary."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

SCHEMA = 1
Answer = Literal["not compared", "fine", "cannot tell", "worse"]
EXIT_CODES: dict[Answer, int] = {"not compared": 0, "fine": 0, "cannot tell": 3, "worse": 1}
"""Answers to a question, the one that decides a whole check last."""


@final
@dataclass(frozen=True, kw_only=True)
class Finding:
    """Answer to one question of a check.

    Attributes:
        question: ``latency`` or ``accuracy``.
        answer: ``not compared`` where there was nothing to compare, and nobody asked to.
        limit: how much worse the new model may be, in ``unit``: per cent slower, or points less.
        low, middle, high: by how much it is worse, and the bounds that this lies between; None where nothing was measured.
        compared: what the answer rests on, in a line.
        needed: what it would take to tell; empty where it was told.
        facts: figures behind it.
    """

    question: str
    answer: Answer
    limit: float
    unit: str
    compared: str
    low: float | None = None
    middle: float | None = None
    high: float | None = None
    needed: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """Say by how much the new model is worse, with the bounds."""
        if self.middle is None or self.low is None or self.high is None:
            return self.compared
        more, less = ("slower", "faster") if self.question == "latency" else ("less accurate", "more accurate")
        size = f"{abs(self.middle):.2f} {self.unit} {more if self.middle >= 0 else less}"
        bounds = f"between {_signed(self.low)} and {_signed(self.high)}"
        return f"{size} ({bounds}; allowed: {self.limit:g}); {self.compared}"


@final
@dataclass(frozen=True, kw_only=True)
class Check:
    """Comparison of two models on a device.

    Attributes:
        old, new: what was given.
        findings: one for each question.
        doubts: why the times are not a clean measurement; the bounds hold what that made of them.
        seconds: that it took.
    """

    old: str
    new: str
    device: str
    findings: tuple[Finding, ...]
    doubts: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def answer(self) -> Answer:
        """Return the gravest answer of the findings, in the order of ``EXIT_CODES``."""
        return max((finding.answer for finding in self.findings), key=list(EXIT_CODES).index)

    @property
    def exit_code(self) -> int:
        """Return 0 for fine, 1 for worse, 3 for what cannot be told."""
        return EXIT_CODES[self.answer]

    def as_json(self) -> dict[str, Any]:
        """Return the check as plain data."""
        return {"schema": SCHEMA, "answer": self.answer, "exit_code": self.exit_code, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{self.new} against {self.old} on {self.device}: {self.answer}"]
        for finding in self.findings:
            lines.append(f"  {finding.question}: {finding.answer}: {finding.words}")
            lines += [f"    to tell: {finding.needed}"] if finding.needed else []
        lines += [f"  not a clean measurement: {doubt}" for doubt in self.doubts]
        return "\n".join(lines)

    def junit(self) -> str:
        """Return the findings as test cases in JUnit's XML: worse is a failure, what cannot be told is skipped."""
        answers = [finding.answer for finding in self.findings]
        counts = {"tests": len(answers), "failures": answers.count("worse"), "skipped": answers.count("cannot tell")}
        suite = ElementTree.Element("testsuite", {"name": "compress check", "time": f"{self.seconds:.1f}"})
        suite.attrib |= {name: str(count) for name, count in counts.items()}
        for finding in self.findings:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"compress.check.{self.device}", name=finding.question
            )
            if finding.answer == "worse":
                ElementTree.SubElement(case, "failure", message=finding.words)
            elif finding.answer == "cannot tell":
                ElementTree.SubElement(case, "skipped", message=f"{finding.words}; to tell: {finding.needed}")
            ElementTree.SubElement(case, "system-out").text = finding.words
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"

    def markdown(self) -> str:
        """Return a table for the summary of a CI's job."""
        lines = [
            f"### `{_cell(self.new)}` against `{_cell(self.old)}` on {_cell(self.device)}: **{self.answer}**",
            "",
            "| | answer | by how much worse | between | allowed | what was compared |",
            "|---|---|---|---|---|---|",
        ]
        for f in self.findings:
            size = "" if f.middle is None else f"{_signed(f.middle)} {f.unit}"
            bounds = "" if f.low is None or f.high is None else f"{_signed(f.low)} and {_signed(f.high)}"
            told = f"{f.compared}; to tell: {f.needed}" if f.needed else f.compared
            lines.append(f"| {f.question} | {f.answer} | {size} | {bounds} | {f.limit:g} {f.unit} | {_cell(told)} |")
        lines += [f"\nNot a clean measurement: {_cell(doubt)}" for doubt in self.doubts]
        return "\n".join(lines) + "\n\n"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _cell(text: str) -> str:
    """Return text that stays within a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")
