"""Latency of ONNX files against each other, as the product measures it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from deploy.devices import device
from deploy.engines import engine
from deploy.measure.timing import interleave, summarise
from deploy.worker.client import RemoteWorker
from profiles.device import load

Variant = tuple[Path, str, str]
"""An ONNX file, an engine's name, a precision."""


def p50_ms(
    variants: Mapping[str, Variant], feed: Mapping[str, npt.NDArray[Any]], seconds: float = 3.0, threads: int = 1
) -> dict[str, float]:
    """Median milliseconds of each variant, interleaved."""
    profile = replace(load("cpu"), threads=threads)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        timers = {}
        for number, (name, (model, engine_name, precision)) in enumerate(variants.items()):
            runtime = engine(engine_name)
            worker = stack.enter_context(RemoteWorker(device("local")))
            folder = Path(scratch) / str(number)
            worker.build(model, runtime.plan(profile, precision, runtime.affinity().version), folder)
            worker.open(folder)
            worker.warm(dict(feed))
            timers[name] = worker.time
        times = interleave(timers, seconds)
    return {name: summarise(t, batch=1, threads=threads).p50 or float("nan") for name, t in times.items()}
