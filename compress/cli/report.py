"""compress report."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--html", "as_html", is_flag=True, help="As a page.")
@click.option("--measure", is_flag=True, help="Time its rows again first, on the device; nothing is trained or judged anew.")
@click.option("--quiet-seconds", type=click.FloatRange(0), help="With --measure: as in compress run. [60]")
@click.option("--lock-clocks", is_flag=True, help="With --measure: as in compress run.")
def report(run: Path, as_json: bool, as_html: bool, measure: bool, quiet_seconds: float | None, lock_clocks: bool) -> int:
    """Show the report of a finished run again; RUN is its folder."""
    from compress.report.record import read

    if measure:
        from compress.execution.cache import steps_folder
        from compress.execution.progress import StreamProgress
        from compress.pipeline.remeasure import measure_rows_again

        finished = measure_rows_again(
            run, steps_folder(), StreamProgress(), quiet_seconds=quiet_seconds, lock_clocks=lock_clocks
        )
    else:
        finished = read(run)
    if as_json:
        click.echo(json.dumps(finished.as_json(), indent=1, default=dict))
    elif as_html:
        from compress.report.html import html

        click.echo(html(finished))
    else:
        from compress.cli.options import terminal_width
        from compress.report.table import table

        click.echo(table(finished, width=terminal_width()))
    return 0
