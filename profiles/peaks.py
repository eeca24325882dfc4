"""Peak arithmetic of a CPU from its cores, clocks and operations per cycle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from profiles.facts import Facts, core_table
from profiles.figures import Figure

COLUMNS = {"fp32": "fp32_tflops", "fp16": "fp16_tflops", "int8": "int8_tops"}


def cpu_peaks(device: Facts) -> dict[str, Figure]:
    """Compute ``fp32_tflops``, ``fp16_tflops`` and ``int8_tops`` of all cores of ``device``; empty without clocks.

    A column is left out where one kind of core has none. int8 counts dot-product instructions where the flags have them.
    """
    if not device.core_mhz:
        return {}
    kinds = device.core_ids or {"": device.cores}
    rates = {kind: _rates(kind, device) for kind in kinds}
    if not all(kind in device.core_mhz and rates[kind] for kind in kinds):
        return {}
    words = " + ".join(f"{n} x {_name(kind)} at {device.core_mhz[kind]} MHz" for kind, n in kinds.items())
    peaks = {
        "cores": Figure(value=float(device.cores), kind="measured", source="the device said it"),
    }
    for column, name in COLUMNS.items():
        if all(column in rates[kind] for kind in kinds):
            total = sum(n * rates[kind][column] * device.core_mhz[kind] for kind, n in kinds.items()) / 1e6
            peaks[name] = Figure(value=round(total, 4), kind="derived", source=f"{words}, by profiles/data/cores.toml")
    return peaks


def _rates(kind: str, device: Facts) -> Mapping[str, Any]:
    table = core_table()
    if kind:
        rates = dict(table["arm"].get(kind, {}))
        if "asimddp" not in device.flags:
            rates.pop("int8", None)
        if not device.flags & {"asimdhp", "fphp"}:
            rates.pop("fp16", None)
        return {key: value for key, value in rates.items() if key in COLUMNS}
    return next((entry for entry in table["x86"] if device.flags.intersection(entry["needs"])), {})


def _name(kind: str) -> str:
    return str(core_table()["arm"].get(kind, {}).get("name", kind)) or "core"
