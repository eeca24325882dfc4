"""What an application has of each row: the whole path, from a raw sample to its answer, memory and start."""

from __future__ import annotations

from rich import box
from rich.table import Table

from compress.report.record import Report, Row
from deploy.measure.path_times import PARTS, Span


def application_table(report: Report) -> Table:
    """Make a table of milliseconds before, in and behind the engine, of memory, loading and the first inference."""
    made = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title="In an application: a sample from file or text to answer (median, interval by its rounds), memory, start",
        title_justify="left",
    )
    made.add_column("#", justify="right")
    for part in PARTS:
        made.add_column(f"{part} ms", justify="right", no_wrap=True)
    for heading in ("peak MiB", "load ms", "first ms"):
        made.add_column(heading, justify="right")
    for number, row in enumerate(report.rows, 1):
        cells = [str(number), *cells_of(row)]
        is_best = row.name == report.verdict.best
        made.add_row(*([f"[bold green]{cell}[/bold green]" for cell in cells] if is_best else cells))
    return made


def cells_of(row: Row) -> list[str]:
    """Write a row's figures: four parts, peak memory, loading, first inference."""
    path = row.path_ms
    parts = ["-"] * 4 if path is None else [_span(getattr(path, part)) for part in PARTS]
    costs = [(row.peak_mib, ".0f"), (row.load_ms, ".0f"), (row.first_ms, ".2f")]
    return [*parts, *("-" if value is None else format(value, form) for value, form in costs)]


def _span(span: Span) -> str:
    return f"{span.p50:.4g} ({span.low:.3g} to {span.high:.3g})"
