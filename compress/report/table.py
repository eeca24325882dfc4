"""Report as a table for a terminal."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table

from compress.methods.choice import summary
from compress.report.application_table import application_table
from compress.report.record import Report, Row, Verdict
from deploy.packing.packed_file import describe

LEAST_WIDTH = 116
PARITY = {
    "top1_agreement": "top-1 the same as the module's",
    "cosine": "cosine with the module's",
    "max_abs": "largest difference from the module's",
}
KINDS = {"baseline": "FREE", "stage": "STAGES", "student": "RESULT"}


def table(report: Report, width: int | None = None) -> str:
    """Render rows by kind, the gate's decision on each stage, and the verdict."""
    at_least = max(width or 0, LEAST_WIDTH)
    console = Console(file=io.StringIO(), width=at_least, highlight=False, force_jupyter=False, color_system=None)
    print_report(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    return "\n".join(line.rstrip() for line in str(text).splitlines())


def print_report(report: Report, console: Console) -> None:
    """Print rows, decisions and verdict on a console."""
    console.print(_table(report))
    if any(row.path_ms is not None or row.load_ms is not None for row in report.rows):
        console.print(application_table(report))
    for one in report.refused:
        console.print(f"{one.name} on {one.engine} in {one.precision} refused: {one.reason}", soft_wrap=True, markup=False)
    for row in _one_a_stage(report):
        console.print(f"[bold]{row.name.split('/')[0]}[/bold] {row.decision}: {row.reason}", soft_wrap=True)
        stored = [f"stored: {describe(row.packed)}"] if row.packed else []
        for line in [*summary(row.choices), *([f"({row.about})"] if row.choices and row.about else []), *stored]:
            console.print(f"  {line}", soft_wrap=True, markup=False)
    for line in report.curve.lines() if report.curve else ():
        console.print(line, soft_wrap=True, markup=False)
    console.print(verdict(report), soft_wrap=True)


def verdict(report: Report) -> str:
    """Write the outcome in sentences."""
    v, best, teacher = report.verdict, report.row(report.verdict.best), report.teacher
    unit, name = best.metric.unit, best.metric.name
    lines = [
        f"\nBest: {_title(best)} on {best.engine} in {best.precision}: p50 {best.p50:.3f} ms, "
        f"{name} {best.metric.value:.2f} {unit} on test ({best.metric.samples} samples; "
        f"teacher {teacher.metric.value:.2f} {unit}).",
        f"{v.speedup_vs_teacher_fp32:.2f}x the speed of the teacher in {teacher.precision} on {teacher.engine}"
        f"{_between(v)}, {_against_float(report)}{_against_free(v)}, "
        f"{_against(v.accuracy_drop_points)} the teacher{_drop(best)}.",
        *[f"NOTE: {note}." for note in report.notes],
        *[f"WARNING: {warning}." for warning in report.warnings],
        "Within the budget." if v.within_budget else "OVER BUDGET: " + "; ".join(v.why_not) + ".",
    ]
    return "\n".join(lines)


def _between(v: Verdict) -> str:
    told = []
    if v.speedup_interval is not None:
        told.append(f"by its rounds {v.speedup_interval[0]:.2f}x to {v.speedup_interval[1]:.2f}x")
    if not v.is_quiet:
        told.append("NOT measured on a quiet device")
    return f" ({', '.join(told)})" if told else ""


def _against_float(report: Report) -> str:
    """Name the fastest float row where it is another than the teacher's reference."""
    v = report.verdict
    if v.speedup_vs_fastest_float is None or v.fastest_float in ("", report.teacher.name):
        return ""
    row = report.row(v.fastest_float)
    return f"{v.speedup_vs_fastest_float:.2f}x its fastest float form ({row.precision} on {row.engine}), "


def _against_free(v: Verdict) -> str:
    if not v.is_free_within_budget:
        return "nothing that is free is within the budget"
    return f"{v.speedup_vs_best_free:.2f}x the best of what is free"


def _against(drop: float) -> str:
    if abs(drop) < 0.005:
        return "as accurate as"
    return f"{abs(drop):.2f} points {'below' if drop > 0 else 'above'}"


def _drop(best: Row) -> str:
    if best.drop_interval is None or best.drop_interval == (0.0, 0.0):
        return ""
    low, high = best.drop_interval
    return f" (by {best.metric.samples} samples {_signed(low)} to {_signed(high)})"


def _signed(drop: float) -> str:
    return f"{abs(drop):.2f} {'below' if drop > 0 else 'above'}"


def _table(report: Report) -> Table:
    threads, batch = report.rows[0].latency_ms.threads, report.rows[0].latency_ms.batch
    made = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=f"{report.recipe['name']} on {report.device['title']} "
        f"(batch {batch}, {threads} thread{'s' if threads > 1 else ''}; accuracy on test, latency interleaved, "
        f"parity: {PARITY[report.agreement]})",
        title_justify="left",
    )
    metric = report.teacher.metric
    made.add_column("#", justify="right")
    made.add_column("model", overflow="fold")
    made.add_column("engine")
    made.add_column("precision")
    made.add_column(f"{metric.name} {metric.unit}", justify="right")
    made.add_column("vs teacher", justify="right")
    made.add_column("p50 ms", justify="right")
    made.add_column("p99 ms", justify="right")
    made.add_column("speed-up", justify="right")
    if report.metered:
        made.add_column("mJ", justify="right")
    made.add_column("size KiB", justify="right")
    made.add_column("parity", justify="right")
    made.add_column("gate")
    for kind, heading in KINDS.items():
        rows = [(i, row) for i, row in enumerate(report.rows, 1) if row.kind == kind]
        if rows:
            made.add_section()
            made.add_row("", f"[bold]{heading}[/bold]", *[""] * (10 + report.metered))
        for number, row in rows:
            made.add_row(*_cells(number, row, report))
            for each in row.sizes:
                rest = [""] * (len(made.columns) - 7)
                made.add_row("", "", f"size {each.size}", f"{100 * each.share:.0f} %", "", "", f"{each.p50_ms:.3f}", *rest)
    return made


def _cells(number: int, row: Row, report: Report) -> list[str]:
    teacher = report.teacher
    p99 = row.latency_ms.p99
    cells = [
        str(number),
        _title(row),
        row.engine,
        row.precision,
        f"{row.metric.value:.2f}",
        f"{row.metric.value - teacher.metric.value:+.2f}",
        f"{row.p50:.3f}",
        "-" if p99 is None else f"{p99:.3f}",
        f"{teacher.p50 / row.p50:.2f}x",
        *(["-" if row.energy_mj is None else f"{row.energy_mj:.1f}"] if report.metered else []),
        f"{row.size_bytes / 1024:.0f}",
        _parity(row, report.agreement),
        row.decision or "",
    ]
    return [f"[bold green]{cell}[/bold green]" for cell in cells] if row.name == report.verdict.best else cells


def _parity(row: Row, agreement: str) -> str:
    """Show how alike the engine's outputs are to the module's, by what fits the task."""
    value = getattr(row.parity, agreement)
    return (
        f"{100 * value:.1f} %"
        if agreement == "top1_agreement"
        else f"{value:.5f}"
        if agreement == "cosine"
        else f"{value:.2g}"
    )


def _title(row: Row) -> str:
    title = row.title
    free = row.precision == "int8" and (row.kind == "baseline" or row.stage not in (None, "quantize"))
    return f"{title} (post-training)" if free else title


def _one_a_stage(report: Report) -> list[Row]:
    seen: dict[str, Row] = {}
    for row in report.rows:
        if row.kind == "stage":
            seen.setdefault(row.title, row)
    return list(seen.values())
