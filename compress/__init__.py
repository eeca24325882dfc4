"""Compress a PyTorch model for a device: distil, prune, factorise, quantise, each step measured and gated.

    report = compress.run("my.toml", device="cpu")
    student = compress.load("runs/my-cpu")

The names below are imported when they are first used; ``import compress`` alone loads no PyTorch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# No telemetry, ours or a dependency's: these are read when the libraries are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from compress.api.modules import export as export
    from compress.api.modules import load as load
    from compress.api.modules import prune as prune
    from compress.api.modules import quantize as quantize
    from compress.api.run import run as run
    from compress.api.search import search as search
    from compress.api.stage_settings import Distill as Distill
    from compress.api.stage_settings import LowRank as LowRank
    from compress.api.stage_settings import Pack as Pack
    from compress.api.stage_settings import Prune as Prune
    from compress.api.stage_settings import Quantize as Quantize
    from compress.data.arrays import split_arrays as split_arrays
    from compress.data.base import Splits as Splits
    from compress.pipeline.bench import bench as bench
    from compress.pipeline.check.compare import check as check
    from compress.pipeline.compare_data import compare_data as compare_data
    from compress.pipeline.recalibration.recalibrate import recalibrate as recalibrate
    from compress.report.check_record import Check as Check
    from compress.report.devices_record import DevicesReport as DevicesReport
    from compress.report.record import Report as Report
    from compress.report.timings import Timings as Timings
    from profiles.errors import UserError as UserError

NAMES = {
    "Check": "compress.report.check_record",
    "DevicesReport": "compress.report.devices_record",
    "Distill": "compress.api.stage_settings",
    "LowRank": "compress.api.stage_settings",
    "Pack": "compress.api.stage_settings",
    "Prune": "compress.api.stage_settings",
    "Quantize": "compress.api.stage_settings",
    "Report": "compress.report.record",
    "Splits": "compress.data.base",
    "Timings": "compress.report.timings",
    "UserError": "profiles.errors",
    "bench": "compress.pipeline.bench",
    "check": "compress.pipeline.check.compare",
    "compare_data": "compress.pipeline.compare_data",
    "export": "compress.api.modules",
    "load": "compress.api.modules",
    "prune": "compress.api.modules",
    "quantize": "compress.api.modules",
    "recalibrate": "compress.pipeline.recalibration.recalibrate",
    "run": "compress.api.run",
    "search": "compress.api.search",
    "split_arrays": "compress.data.arrays",
}
"""Where each public name is defined."""
__all__ = [*NAMES]


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(importlib.import_module(NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *NAMES])
