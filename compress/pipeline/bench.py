"""Files timed against each other on a device; needs no PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.execution.progress import Progress, follow, progress_here
from compress.pipeline.target import resolve, runtime_versions
from compress.report.timings import Timings
from deploy.latency.bench import variants
from deploy.measure.load import default_quiet_s
from deploy.measure.timing import ROUNDS, ratio_interval, summarise
from deploy.worker.client import RemoteWorker
from deploy.worker.patience import Patience
from deploy.worker.race import locked_clocks, race


def bench(
    models: Sequence[str | Path],
    *,
    device: str = "cpu",
    engine: str | None = None,
    precision: str = "fp32",
    threads: int | None = None,
    seconds: float = 3.0,
    lock_clocks: bool = False,
    quiet_seconds: float | None = None,
    progress: Progress | None = None,
) -> Timings:
    """Time ONNX files or engine folders against each other on a device, interleaved.

    Args:
        engine: one engine only; every engine of the device without.
        precision: what to ask of the engine; int8 for a file with Q/DQ pairs.
        threads: those of the profile without.
        seconds: for each variant.
        quiet_seconds: how long to wait for a device that others use; 60 without.

    Returns:
        Latencies in milliseconds by file and engine.

    Raises:
        UserError: no such file, engine, precision or device.

    Example:
        >>> timings = compress.bench(["teacher.onnx"], seconds=0.1, engine="onnxruntime")
        >>> timings["teacher.onnx onnxruntime fp32"].p50 > 0
        True
    """
    progress = progress or progress_here()
    target = resolve(device)
    target.tell_warnings(progress.say)
    profile = replace(target.profile, threads=threads) if threads else target.profile
    files, versions = [Path(model) for model in models], runtime_versions(target.device)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        stack.enter_context(locked_clocks(target.device, lock=lock_clocks))
        workers: dict[str, RemoteWorker] = {}
        opened: dict[str, Any] = {}
        for name, prepare in variants(files, profile, versions, engine, precision, Path(scratch)).items():
            workers[name] = stack.enter_context(RemoteWorker(target.device))
            opened[name] = prepare(workers[name])
        patience = Patience(default_quiet_s() if quiet_seconds is None else quiet_seconds, progress.say)
        with progress.task("measure", ROUNDS) as bar:
            raced = race(workers, seconds, follow(bar), patience)
    latencies = {
        name: summarise(times, batch=opened[name]["batch"], threads=opened[name]["threads"])
        for name, times in raced.times.items()
    }
    if raced.doubts:
        progress.say(f"WARNING: not a clean measurement: {'; '.join(raced.doubts)}")
    rounds = {name: times.medians() for name, times in raced.times.items()}
    first = rounds[next(iter(rounds))]
    speedups = {name: ratio_interval(first, each) for name, each in rounds.items()}
    return Timings(latencies=latencies, doubts=raced.doubts, speedups=speedups)
