"""Record of a run on several devices: a report each, and one model for all of them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from compress.report.picture import templates
from compress.report.record import JSON_FILE, Report, Row
from deploy.files import write_atomically

SCHEMA = 1
DEVICES_FILE, PAGE = "devices.json", "devices.html"
WIDTH = 150


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class DevicesReport:
    """Results of a run on several devices.

    Attributes:
        name: of the recipe.
        reports: by the name of the device's folder.
        faults: why a device has no report, by the same names.
        training_s: seconds that were spent on trainings which no device before it had made.
        one_for_all: the row of one model on each device: within the budget on all, and closest to each device's best; empty
            where there is none.
        shared_bundles: by device the folder of its bundle of that row, below the device's own.
        same_machine: names of devices that are one machine, so that an engine which both plan alike is timed once.
    """

    name: str
    reports: Mapping[str, Report]
    faults: Mapping[str, str]
    training_s: Mapping[str, float]
    one_for_all: Mapping[str, str]
    shared_bundles: Mapping[str, str] = field(default_factory=dict)
    same_machine: tuple[tuple[str, ...], ...] = ()

    @property
    def within_budget(self) -> bool:
        """Whether every device has a best row within the budget."""
        return not self.faults and all(report.verdict.within_budget for report in self.reports.values())

    @property
    def has_one_best(self) -> bool:
        """Whether the devices' best rows are of one model already."""
        return len({report.row(report.verdict.best).model for report in self.reports.values()}) == 1

    def each(self) -> dict[str, Row]:
        """Return the best row of each device."""
        return {device: report.row(report.verdict.best) for device, report in self.reports.items()}

    def shared(self) -> dict[str, Row]:
        """Return the row of the one model on each device; empty where there is none."""
        return {device: self.reports[device].row(name) for device, name in self.one_for_all.items()}

    def as_json(self) -> dict[str, Any]:
        """Return a summary as plain data; the whole reports lie in the devices' folders."""
        each, shared = self.each(), self.shared()
        devices = {
            device: {
                "report": f"{device}/{JSON_FILE}",
                "within_budget": report.verdict.within_budget,
                "training_s": self.training_s[device],
                "teacher": report.teacher.flat(),
                "best": each[device].flat(),
                "one_for_all": shared[device].flat() if shared else None,
                "bundle_for_all": f"{device}/{self.shared_bundles[device]}" if device in self.shared_bundles else None,
            }
            for device, report in self.reports.items()
        }
        return {
            "schema": SCHEMA,
            "name": self.name,
            "devices": devices,
            "faults": dict(self.faults),
            "same_machine": self.same_machine,
        }

    def write(self, out: Path) -> None:
        """Write ``devices.json`` and ``devices.html``."""
        write_atomically(out / DEVICES_FILE, json.dumps(self.as_json(), indent=1, default=dict).encode())
        write_atomically(out / PAGE, self.html().encode())

    def html(self) -> str:
        """Render a page with a column a device; it links the devices' own reports."""
        page = templates().get_template("devices.html.j2")
        return str(page.render(report=self, each=self.each(), shared=self.shared(), told=self.verdict()))

    def verdict(self) -> list[str]:
        """Write the outcome in sentences."""
        told = [f"{device} failed: {fault}" for device, fault in self.faults.items()]
        told += [
            f"{' and '.join(names)} are one machine: an engine that is built alike for them is timed once."
            for names in self.same_machine
        ]
        each, shared = self.each(), self.shared()
        if len(each) < 2:
            return told
        if self.has_one_best:
            return [*told, "One model is the best on every device."]
        if not shared:
            return [*told, "No one model is within the budget on every device."]
        losses = [f"{device} {shared[device].p50 / row.p50:.2f}x the time of its own best" for device, row in each.items()]
        where = ", ".join(f"{device}/{folder}" for device, folder in self.shared_bundles.items())
        return [*told, f"One model for all: {', '.join(losses)}." + (f" Its bundles: {where}." if where else "")]

    def __repr__(self) -> str:
        return f"<Reports of {self.name} on {', '.join(self.reports) or 'no device'}>"

    def __str__(self) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{self.name} on several devices", title_justify="left"
        )
        table.add_column("")
        for device in self.reports:
            table.add_column(device)
        for label, cells in self.lines():
            table.add_row(label, *cells)
        console = Console(file=io.StringIO(), width=WIDTH, highlight=False, force_jupyter=False, color_system=None)
        console.print(table)
        text = str(console.file.getvalue())  # type: ignore[attr-defined]  # it is the StringIO above
        return "\n".join([*(line.rstrip() for line in text.splitlines()), *self.verdict()])

    def lines(self) -> list[tuple[str, list[str]]]:
        """Return the summary's lines: a label, and a cell a device."""
        reports, shared = self.reports.values(), self.shared()
        lines = [
            ("teacher", [_words(report.teacher, report) for report in reports]),
            ("one each", [_words(report.row(report.verdict.best), report) for report in reports]),
        ]
        if shared:
            lines.append(("one for all", [_words(shared[device], report) for device, report in self.reports.items()]))
        within = ["yes" if r.verdict.within_budget else "; ".join(r.verdict.why_not) for r in reports]
        trained = [f"{self.training_s[device]:.0f} s" for device in self.reports]
        return [*lines, ("within the budget", within), ("trained for it alone", trained)]


def _words(row: Row, report: Report) -> str:
    """Describe a row in three lines: which, its time, its accuracy and size."""
    name, metric = f"{row.title}, {row.engine} {row.precision}", row.metric
    speed = f"{row.p50:.3f} ms, {report.teacher.p50 / row.p50:.2f}x"
    stored = row.size_bytes if row.stored_bytes is None else row.stored_bytes
    return f"{name}\n{speed}\n{metric.name} {metric.value:.2f} {metric.unit}, {stored / 1024:.0f} KiB"
