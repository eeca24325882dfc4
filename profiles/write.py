"""Profiles of connected boards as TOML: the board's facts, completed from a known profile of its kind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from profiles.device import DeviceProfile, load, names, stated_facts
from profiles.facts import Facts
from profiles.figures import Figure, PowerMode
from profiles.runtimes import ORDER, runtime_on

TELLING = {"avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "avx512_fp16"}
TELLING |= {"amx_bf16", "amx_int8", "asimd", "fphp", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16"}
"""Of a processor's flags those that decide what a runtime can do well."""
MEMORY_RATIO = (0.6, 1.05)
"""What a board shows of its nominal memory."""


@dataclass(frozen=True, kw_only=True)
class DetectedRuntime:
    """Runtime on a board: engine, version and precisions in order of preference."""

    engine: str
    version: str
    precisions: tuple[str, ...]


def known_board(device: Facts) -> DeviceProfile | None:
    """Find the profile of the board ``device`` by device tree and memory; None when there is none."""
    near: list[tuple[float, str]] = []
    for name in names():
        board = stated_facts(name)
        if not board or not board.model or board.model.lower() not in device.model.lower() or not board.memory_bytes:
            continue
        ratio = device.memory_bytes / board.memory_bytes
        if MEMORY_RATIO[0] <= ratio <= MEMORY_RATIO[1]:
            near.append((abs(1 - ratio), name))
    return load(min(near)[1], device) if near else None


def profile_toml(
    name: str, device: Facts, found: list[DetectedRuntime], where: str, raced: Mapping[str, str] | None = None
) -> str:
    """Format a profile for ``device`` with the runtimes ``found``.

    Args:
        where: the device's address, for the reader.
        raced: what a race said of each runtime, the fastest first; without it they stand in the order of ``ORDER``.
    """
    raced = raced or {}
    order = (*raced, *(engine for engine in ORDER if engine not in raced))
    like = known_board(device)
    arm = device.arch in ("aarch64", "arm64")
    lines = [f"# {name}: written by `compress profiles new` from what {where} said. Edit it as you like, and use it as"]
    lines += [f"# `--device {name}.toml@ADDRESS`. What a person should look at again is marked so."]
    lines += [f"title = {_text(device.model or device.processor)}", f"arch = [{_text(device.arch)}]"]
    lines += [f"threads = {0 if arm else 1}  # look at this: 0 takes every core; measure with what will be used"]
    lines += [f"channel_multiple = {like.channel_multiple if like else 8}"]
    lines += _jetpack(device)
    lines += ["", *_board(device)]
    supported = [runtime for runtime in found if runtime.engine != "ort-mobile" or device.system.startswith("Android")]
    if raced:
        lines += ["", "# In the order of a race on this device; a run races its own network again (docs/devices.md)."]
    for runtime in sorted(supported, key=lambda r: (*order, r.engine).index(r.engine)):
        lines += ["", *_runtime(runtime, device, like, raced.get(runtime.engine, ""))]
    if not found:
        lines += ["", "# No runtime was found: install one there, and ask again (compress doctor says how)."]
    for unit, figures in _units(device, name, like).items():
        lines += ["", f"[unit.{unit}]", *[_figure(each, figure) for each, figure in figures.items()]]
        if unit == "memory" and "bandwidth_gb_s" not in figures:
            lines += ["# look at this: bandwidth_gb_s is not known, and an estimate then leaves memory out"]
    for mode in _modes(device, like):
        lines += ["", *_mode(mode)]
    return "\n".join(lines) + "\n"


def _jetpack(device: Facts) -> list[str]:
    if not device.l4t:
        return []
    release = device.jetpack
    known = f"jetpack = [{_text(str(release['jetpack']))}]" if release else "# its JetPack is in no table"
    return [f"{known}  # Jetson Linux {device.l4t}"]


def _board(device: Facts) -> Iterator[str]:
    cores = ", ".join(f"{count} x {name}" for name, count in device.core_names.items())
    yield "[board]"
    yield f"processor = {_text(cores or device.processor)}"
    if device.model:
        yield f"model = {_text(device.model)}"
    yield f"cores = {device.cores}"
    yield f"memory_gib = {device.memory_bytes / 2**30:.2f}"
    yield f"system = {_text(device.release or device.system)}"
    yield f"flags = {_list(sorted(device.flags & TELLING))}"


def _runtime(found: DetectedRuntime, device: Facts, like: DeviceProfile | None, said: str) -> Iterator[str]:
    before = next((r for r in like.runtimes if r.engine == found.engine), None) if like else None
    runtime = runtime_on(found.engine, found.precisions, device, before)
    yield f"[[runtime]]{f'  # {said}' if said else ''}"
    yield f"engine = {_text(runtime.engine)}  # {found.version or 'version not told'} when this was written"
    if runtime.unit != "cpu":
        yield f"unit = {_text(runtime.unit)}"
    yield f"precisions = {_list(list(runtime.precisions))}  # in order of preference"
    if runtime.quantization:
        yield f"quantization = [{_text(runtime.quantization)}]"
    if runtime.options:
        yield f"options = {{ {', '.join(f'{_text(key)} = {_text(value)}' for key, value in runtime.options.items())} }}"
    if runtime.estimate:
        yield f"estimate = [{_text(runtime.estimate)}]"


def _units(device: Facts, name: str, like: DeviceProfile | None) -> dict[str, dict[str, Figure]]:
    from profiles.peaks import cpu_peaks

    units = {unit: dict(figures) for unit, figures in like.units.items()} if like else {}
    if "cpu" not in units and (peaks := cpu_peaks(device)):
        units["cpu"] = peaks
    capacity = Figure(value=round(device.memory_bytes / 2**30, 2), kind="measured", source="the device said it")
    return {**units, "memory": {**units.get("memory", {}), "capacity_gib": capacity}}


def _modes(device: Facts, like: DeviceProfile | None) -> list[PowerMode]:
    """The modes that the board's own nvpmodel.conf names; their limits as far as they were known before."""
    known = {mode.name: mode for mode in (like.power_modes if like else ())}
    plain = PowerMode(name="", kind="measured", source="name from the board's /etc/nvpmodel.conf; its limits are not known")
    return [replace(known.get(name, plain), name=name) for name in device.power_modes]


def _mode(mode: PowerMode) -> Iterator[str]:
    yield "[[power_mode]]"
    yield f"name = {_text(mode.name)}"
    for key in ("default", "cpus", "cpu_mhz", "sms", "gpu_mhz", "memory_mhz"):
        value = getattr(mode, key)
        if value:
            yield f"{key} = {json.dumps(value)}"
    yield f"kind = {_text(mode.kind)}"
    yield f"source = {_text(mode.source)}"


def _figure(name: str, figure: Figure) -> str:
    formula = f", formula = {_text(figure.formula)}" if figure.formula else ""
    return f"{name} = {{ value = {figure.value:g}, kind = {_text(figure.kind)}{formula}, source = {_text(figure.source)} }}"


def _list(values: list[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are among its own."""
    return json.dumps(value, ensure_ascii=False)
