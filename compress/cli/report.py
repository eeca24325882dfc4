"""compress report."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--html", "as_html", is_flag=True, help="As a page.")
def report(run: Path, as_json: bool, as_html: bool) -> int:
    """Show the report of a finished run again; RUN is its folder."""
    from compress.report.record import read

    finished = read(run)
    if as_json:
        click.echo(json.dumps(finished.as_json(), indent=1, default=dict))
    elif as_html:
        from compress.report.html import html

        click.echo(html(finished))
    else:
        from compress.report.table import table

        click.echo(table(finished))
    return 0
