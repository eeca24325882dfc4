"""docs/benchmarks.md from the records of all benches: claims first, then six headings, notes folded."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.bench.claims import CLAIMS, HEADINGS, IN_README
from tests.bench.figure import Table
from tests.bench.record import FOLDER, ROOT, Record, load

DOCUMENT = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
NOTES = FOLDER / "notes"
MET = {True: "yes", False: "**no**", None: ""}
INTRODUCTION = """# Benchmarks

Each table is written by its command (`make bench` runs all). Latencies are compared as ratios of interleaved medians:
absolute times of a shared machine drift, ratios within one run hold. "Older code" says that code which the table measured
has changed since; `python -m tests.bench --stale` lists those tables.

"""


def write(folder: Path = FOLDER, document: Path = DOCUMENT, readme: Path = README) -> None:
    """Write the page, and the first claims into README."""
    records = load(folder)
    parts = [INTRODUCTION, "## Claims\n\n", claims(records, CLAIMS), "\n"]
    for title, sentence, benches in HEADINGS:
        parts.append(f"\n## {title}\n\n{sentence}\n")
        parts += [section(record) for record in _under(records, benches)]
        parts += [_note(path) for bench in benches for path in sorted(NOTES.glob(f"{bench}*.md"))]
    document.write_text("".join(parts))
    block = f"<!-- claims: begin -->\n{claims(records, CLAIMS[:IN_README])}\n<!-- claims: end -->"
    text = re.sub("<!-- claims: begin -->.*?<!-- claims: end -->", lambda _: block, readme.read_text(), flags=re.DOTALL)
    readme.write_text(text)


def claims(records: Mapping[str, Record], wanted: Iterable[tuple[str, str, str]]) -> str:
    """Make the table of claims, a row each: figure, machine, seeds, date, commit, whether it is met."""
    lines = ["| claim | asked | measured | machine | seeds | date, commit | met |", "|---|---|---|---|---|---|---|"]
    for claim, bench, what in wanted:
        record = records[bench]
        figure = record.find(what)
        code = ", older code" if record.is_stale else ""
        lines.append(
            f"| {claim} | {figure.asked} | {figure.measured} | {_machine(record)} | {record.seeds} | "
            f"{record.date}, {record.commit}{code} | {MET[figure.met]} |"
        )
    return "\n".join(lines)


def section(record: Record) -> str:
    """Make a bench's table with its provenance, its remarks folded."""
    stale = "; **older code**" if record.is_stale else ""
    digest = f", code {record.code[:12]}" if record.code else ""
    provenance = f"{record.date}, commit {record.commit}{digest}; {record.seconds} s{stale}"
    about = f"{_machine(record)}, Python {record.python}; {provenance}"
    table = Table(figures=record.figures).markdown()
    remarks = "\n".join(f"- {remark}" for remark in record.remarks)
    folded = _folded("Notes", remarks) if remarks else ""
    return f"\n`{record.title}` ({about})\n\n{table}\n{folded}"


def _under(records: Mapping[str, Record], benches: Iterable[str]) -> list[Record]:
    return [records[name] for bench in benches for name in records if name.partition(":")[0] == bench]


def _machine(record: Record) -> str:
    return f"{record.processor}, {record.cores} core{'s' if record.cores > 1 else ''}"


def _note(path: Path) -> str:
    title, _, text = path.read_text().partition("\n")
    return _folded(title.removeprefix("# "), text.strip())


def _folded(title: str, text: str) -> str:
    return f"\n<details><summary>{html.escape(title)}</summary>\n\n{text}\n\n</details>\n"


def stale(records: Mapping[str, Record]) -> list[str]:
    """Return a line for each table whose code has changed since it was measured."""
    lines = []
    for record in records.values():
        if record.is_stale:
            why = "its code has changed since" if record.code else "measured before code was recorded"
            lines.append(f"{record.bench}: {record.date}, commit {record.commit}: {why}")
    return lines
