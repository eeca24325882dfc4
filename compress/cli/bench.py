"""compress bench."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", "-d", default="cpu", show_default=True, metavar="PROFILE[@URL]")
@click.option("--engine", "engine_name", metavar="NAME", help="One engine only; else every engine of the device.")
@click.option("--precision", default="fp32", show_default=True, help="What to ask of the engine; int8 for a Q/DQ file.")
@click.option("--threads", type=int, help="Threads; else the profile's.")
@click.option("--seconds", default=3.0, show_default=True, help="Time for each variant.")
@click.option("--quiet-seconds", type=click.FloatRange(0), help="How long a race waits for a device that others use. [60]")
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
    quiet_seconds: float | None,
    lock_clocks: bool,
    estimated: bool,
    as_json: bool,
) -> int:
    """Time ONNX files or engine folders against each other, interleaved."""
    if estimated:
        given = click.get_current_context().get_parameter_source("precision") is not click.core.ParameterSource.DEFAULT
        return _estimate(models, device, engine_name, precision if given else None, threads, as_json)
    from compress.execution.progress import StreamProgress
    from compress.pipeline import bench as benches

    timings = benches.bench(
        models,
        device=device,
        engine=engine_name,
        precision=precision,
        threads=threads,
        seconds=seconds,
        lock_clocks=lock_clocks,
        quiet_seconds=quiet_seconds,
        progress=StreamProgress(),
    )
    click.echo(json.dumps(timings.as_json(), indent=1) if as_json else timings)
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
    estimated_ms = estimates(models, replace(profile, threads=threads) if threads else profile, engine_name, precision)
    click.echo(json.dumps(estimated_ms.as_json(), indent=1) if as_json else table(estimated_ms))
    return 0
