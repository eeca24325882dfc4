"""compress bench."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", "-d", default="cpu", show_default=True, metavar="PROFILE[@URL]")
@click.option("--engine", "engine_name", metavar="NAME", help="One engine only; else every engine of the device.")
@click.option("--precision", default="fp32", show_default=True, help="What to ask of the engine; int8 for a Q/DQ file.")
@click.option("--threads", type=int, help="Threads; else the profile's.")
@click.option("--seconds", default=3.0, show_default=True, help="Time for each variant.")
@click.option("--lock-clocks", is_flag=True, help="Hold the device's clocks while it measures; they are put back after.")
@click.option("--estimate", "estimated", is_flag=True, help="Time nothing: what the files may take, the device not there.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def bench(
    models: tuple[Path, ...],
    device: str,
    engine_name: str | None,
    precision: str,
    threads: int | None,
    seconds: float,
    lock_clocks: bool,
    estimated: bool,
    as_json: bool,
) -> int:
    """Time ONNX files or engine folders against each other, interleaved."""
    if estimated:
        given = click.get_current_context().get_parameter_source("precision") is not click.core.ParameterSource.DEFAULT
        return _estimate(models, device, engine_name, precision if given else None, threads, as_json)
    from compress.cli.options import target
    from compress.execution.progress import StreamProgress
    from compress.pipeline.target import runtime_versions
    from deploy.latency.bench import variants
    from deploy.measure.timing import summarise
    from deploy.worker.client import RemoteWorker
    from deploy.worker.race import clocks, race

    resolved = target(device)
    profile, there = resolved.profile, resolved.device
    if threads:
        profile = replace(profile, threads=threads)
    progress = StreamProgress()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        stack.enter_context(clocks(there, lock=lock_clocks))
        workers: dict[str, RemoteWorker] = {}
        about: dict[str, Any] = {}
        for name, prepare in variants(
            models, profile, runtime_versions(there), engine_name, precision, Path(scratch)
        ).items():
            worker = stack.enter_context(RemoteWorker(there))
            about[name] = prepare(worker)
            workers[name] = worker
        with progress.task("measure", 11) as bar:
            raced = race(workers, seconds, lambda done, total: bar.advance(1))
    timed = raced.times.items()
    found = {n: summarise(t, batch=about[n]["batch"], threads=about[n]["threads"]) for n, t in timed}
    for doubt in raced.doubts:
        progress.say(f"WARNING: not a clean measurement: {doubt}")
    if as_json:
        click.echo(json.dumps({name: asdict(latency) for name, latency in found.items()}, indent=1))
        return 0
    first = next(iter(found.values())).p50 or 0.0
    width = max(len(name) for name in found)
    click.echo(f"{'':<{width}}  {'p50 ms':>9} {'p90':>9} {'p99':>9} {'min':>9} {'samples':>8} {'cv %':>6} {'speed-up':>9}")
    for name, latency in found.items():
        cells = [latency.p50, latency.p90, latency.p99, latency.min]
        shown = " ".join(f"{'n/a' if c is None else format(c, '.4f'):>9}" for c in cells)
        ratio = first / (latency.p50 or 1.0)
        click.echo(f"{name:<{width}}  {shown} {latency.samples:>8} {100 * latency.cv:>6.1f} {ratio:>8.2f}x")
    return 0


def _estimate(
    models: tuple[Path, ...], device: str, engine_name: str | None, precision: str | None, threads: int | None, as_json: bool
) -> int:
    from deploy.latency.estimates import estimates, table
    from profiles.device import load
    from profiles.errors import UserError

    name, at, url = device.partition("@")
    if at:
        raise UserError(f"--estimate asks no device: leave @{url} out, or --estimate, to measure there")
    profile = load(name)
    found = estimates(models, replace(profile, threads=threads) if threads else profile, engine_name, precision)
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else table(found))
    return 0
