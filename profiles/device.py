"""Device profiles: what a device runs, before a model is loaded.

A profile is one TOML file: the runtimes in order of preference, the precisions each runs, the Q/DQ
recipe each wants, the channel multiple; memory, peak figures and power modes, each with its source. Lines may carry
``needs``, processor flags of which one must be there. They are resolved against the facts of the real device where it is
connected, else against those that a profile states of its board, else (``cpu``) against this machine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from profiles.errors import UserError, unknown
from profiles.facts import Facts, facts
from profiles.fields import Field, Fields, chosen, read_fields
from profiles.figures import Figure, PowerMode, Units, power_modes, units
from profiles.peaks import cpu_peaks
from profiles.quantization import QUANTIZATION
from profiles.toml import read_toml, shown, table_of, tables_of

__all__ = ["FOLDER", "PRECISIONS", "DeviceProfile", "Facts", "Runtime", "facts", "load", "names", "resolve", "with_engines"]

FOLDER = Path(__file__).parent
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
SAME_ARCH = {"arm64": "aarch64", "AMD64": "x86_64", "amd64": "x86_64"}
PROFILE: Fields = {
    "title": Field(kind="text", about="What the device is called; the file's name without one."),
    "arch": Field(kind="texts", about="Machine architectures it may have, as uname -m says them; any without one."),
    "threads": Field(kind="whole", about="Threads that an engine uses; 0 for every core.", usual=0),
    "batch": Field(kind="whole", about="Samples at once that engines are built for.", usual=1, least=1),
    "channel_multiple": Field(kind="whole", about="Channel counts that fill its vector registers.", usual=8, least=1),
    "jetpack": Field(kind="texts", about="JetPack releases that run on it."),
    "notes": Field(kind="texts", about="What a user of this device should know."),
    "runtime": Field(kind="any", about="Runtimes in order of preference: [[runtime]] tables, at least one."),
    "board": Field(kind="any", about="Facts of the board, by which the profile is read where it is not connected."),
    "unit": Field(kind="any", about="Peak figures by part of the device: [unit.cpu], [unit.gpu], [unit.memory]."),
    "power_mode": Field(kind="any", about="Power modes by name: [[power_mode]] tables."),
}
"""Keys of a profile; a table of ``any`` has its own."""

BOARD: Fields = {
    "processor": Field(kind="text", about="Its name.", usual=""),
    "cores": Field(kind="whole", about="CPU cores.", usual=1, least=1),
    "memory_gib": Field(kind="number", about="Nominal memory in GiB.", usual=0),
    "flags": Field(kind="texts", about="Flags of the processor, as /proc/cpuinfo names them."),
    "system": Field(kind="text", about="Operating system, as uname -s says it.", usual="Linux"),
    "model": Field(kind="text", about="Part of what the board calls itself.", usual=""),
}
RUNTIME: Fields = {
    "engine": Field(kind="text", about="Its engine; compress engines lists them.", required=True),
    "precisions": Field(kind="chosen", about="What it runs, in order of preference.", names=PRECISIONS, name="precision"),
    "quantization": Field(
        kind="chosen",
        about="Q/DQ recipes, of which the first that fits is taken; none without int8.",
        names=tuple(QUANTIZATION),
        name="quantization recipe",
    ),
    "unit": Field(kind="text", about="The part of the device that it runs on, a name of the profile's units.", usual="cpu"),
    "estimate": Field(kind="chosen", about="What an estimate of it is calibrated on, of data/estimates.toml."),
    "options": Field(kind="table", about="Options of the runtime's own, by their names there: of an execution provider."),
}
LEAST_MEMORY = 0.6
"""Of its nominal memory a board shows less: carve-outs of the GPU and the firmware."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Runtime of a device: engine, precisions and Q/DQ recipe.

    Attributes:
        engine: its engine's name.
        precisions: what it runs, in order of preference.
        quantization: name of its Q/DQ recipe; None where it has no int8.
        unit: the part of the device that it runs on, a name of the profile's units.
        estimate: what an estimate of it is calibrated on, a name of ``data/estimates.toml``; None where nothing is known.
        options: of the runtime's own; an engine that takes none leaves them.
    """

    engine: str
    precisions: tuple[str, ...]
    quantization: str | None
    unit: str = "cpu"
    estimate: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Device with its runtimes, units and defaults.

    Attributes:
        channel_multiple: channel counts that fill this device's vector registers.
        threads: threads an engine uses; latency is measured with the same number.
        batch: batch size engines are built for.
        arch: machine architectures it may have, as ``uname -m`` says them; any when empty.
        units: peak figures and bandwidth, by the part of the device.
        jetpack: the JetPack releases that run on it, names of ``data/jetpack.toml``.
        notes: what a user of this device should know.
    """

    name: str
    title: str
    runtimes: tuple[Runtime, ...]
    channel_multiple: int
    threads: int
    batch: int = 1
    arch: tuple[str, ...] = ()
    units: Units = field(default_factory=dict)
    power_modes: tuple[PowerMode, ...] = ()
    jetpack: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the profile as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DeviceProfile:
        """Restore a profile from ``as_json``."""
        runtimes = tuple(Runtime(**{**r, "precisions": tuple(r["precisions"])}) for r in data["runtimes"])
        parts = {u: {n: Figure(**f) for n, f in figures.items()} for u, figures in data.get("units", {}).items()}
        modes = tuple(PowerMode(**mode) for mode in data.get("power_modes", ()))
        lists = {key: tuple(data.get(key, ())) for key in ("arch", "jetpack", "notes")}
        return cls(**{**data, **lists, "runtimes": runtimes, "units": parts, "power_modes": modes})

    def runtime(self, engine: str) -> Runtime:
        """Return the runtime of ``engine``."""
        for runtime in self.runtimes:
            if runtime.engine == engine:
                return runtime
        raise KeyError(engine)


def names() -> list[str]:
    """List the names of all built-in profiles, one per TOML file."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, of: Facts | None = None) -> DeviceProfile:
    """Load the profile ``name``, resolved against a device's facts.

    Args:
        name: one of ``names()``, or the path of a profile of the user's own, ending in ``.toml``.
        of: facts of the connected device; without them those that the profile states, else this machine's.

    Raises:
        UserError: there is no such profile, or its file is wrong (all faults at once).
    """
    table, faults = _table(name), list[str]()
    stated = _stated(table, f"profile {name}", faults)
    try:
        profile = resolve(Path(name).stem if name.endswith(".toml") else name, table, of or stated or facts())
    except UserError as error:
        raise UserError(*faults, *(fault for fault in error.faults if fault not in faults)) from None
    if faults:
        raise UserError(*faults)
    return profile


def stated_facts(name: str) -> Facts | None:
    """Read the facts that the profile ``name`` states of its board; None for a profile without them (``cpu``).

    Raises:
        UserError: as ``load``.
    """
    faults: list[str] = []
    stated = _stated(_table(name), f"profile {name}", faults)
    if faults:
        raise UserError(*faults)
    return stated


def _stated(table: Mapping[str, Any], where: str, faults: list[str]) -> Facts | None:
    if "board" not in table:
        return None
    place = f"{where}: [board]"
    board = read_fields(table_of(table["board"], place, faults), BOARD, place, faults)
    arch = read_fields({"arch": table.get("arch", ())}, {"arch": PROFILE["arch"]}, where, faults)["arch"]
    if not arch:
        faults.append(f'{where}: a [board] needs arch = ["aarch64"] or ["x86_64"] beside it')
        return None
    return Facts(
        arch=arch[0],
        processor=board["processor"],
        cores=board["cores"],
        memory_bytes=int(float(board["memory_gib"]) * 2**30),
        flags=frozenset(board["flags"]) | set(arch),
        system=board["system"],
        model=board["model"],
    )


def check_arch(profile: DeviceProfile, device: Facts, where: str) -> None:
    """Check the architecture of the device at ``where`` against its profile.

    Raises:
        UserError: it is another one.
    """
    given = SAME_ARCH.get(device.arch, device.arch)
    if profile.arch and given not in {SAME_ARCH.get(arch, arch) for arch in profile.arch}:
        raise UserError(
            f"wrong architecture: {where} is {device.arch} ({device.processor}); profile {profile.name} is for "
            f"{' or '.join(profile.arch)}; give the profile of that device, or the address of such a board (PROFILE@ADDRESS)"
        )


def contradictions(name: str, device: Facts, where: str) -> list[str]:
    """List differences between the device at ``where`` and the profile ``name``; the device's facts count.

    Raises:
        UserError: the device has another architecture than the profile.
    """
    check_arch(load(name, device), device, where)
    board = stated_facts(name)
    return _differences(name, board, device) if board else []


def resolve(name: str, table: Mapping[str, Any], device: Facts) -> DeviceProfile:
    """Resolve the profile in ``table`` against the device's flags."""
    where = f"profile {name}"
    faults: list[str] = []
    values = read_fields(table, PROFILE, where, faults)
    entries = tables_of(table.get("runtime", []), f"{where}: [[runtime]]", faults)
    runtimes = [_runtime(where, entry, device, faults) for entry in entries]
    if not runtimes:
        faults.append(f"{where}: no [[runtime]]; a device needs at least one")
    parts: dict[str, Mapping[str, Figure]] = dict(
        units(table_of(table.get("unit", {}), f"{where}: [unit]", faults), where, faults)
    )
    modes = power_modes(tables_of(table.get("power_mode", []), f"{where}: [[power_mode]]", faults), where, faults)
    if faults:
        raise UserError(*faults)
    if "cpu" not in parts and (peaks := cpu_peaks(device)):
        parts["cpu"] = peaks
    return DeviceProfile(
        name=name,
        title=values["title"] or name,
        runtimes=tuple(runtimes),
        channel_multiple=values["channel_multiple"],
        threads=values["threads"] or device.cores,
        batch=values["batch"],
        units=parts,
        power_modes=modes,
        arch=values["arch"],
        jetpack=values["jetpack"],
        notes=values["notes"],
    )


def with_engines(profile: DeviceProfile, usable: Mapping[str, tuple[bool, str]]) -> DeviceProfile:
    """Drop the runtimes of ``profile`` that cannot run, with each engine's reason.

    Raises:
        UserError: none is left.
    """
    nothing = (False, "no such engine is installed")
    left = tuple(r for r in profile.runtimes if usable.get(r.engine, nothing)[0])
    if not left:
        reasons = "; ".join(f"{r.engine}: {usable.get(r.engine, nothing)[1]}" for r in profile.runtimes)
        raise UserError(f"device {profile.name}: no runtime can run here ({reasons})")
    return replace(profile, runtimes=left)


def _table(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        return read_toml(Path(name))
    if name not in names():
        raise UserError(unknown("device", name, names()) + "; or the path of a profile of your own, ending in .toml")
    return read_toml(FOLDER / f"{name}.toml")


def _differences(name: str, board: Facts, device: Facts) -> list[str]:
    differences = []
    missing = sorted(board.flags - device.flags - {"x86_64", "aarch64", "AMD64", "arm64"})
    if missing:
        differences.append(f"profile {name} states the processor flags {', '.join(missing)}; the device has them not")
    if board.cores and board.cores != device.cores:
        differences.append(f"profile {name} states {board.cores} cores; {device.cores} can be used on the device")
    if device.memory_bytes and device.memory_bytes < LEAST_MEMORY * board.memory_bytes:
        sizes = [f"{size / 2**30:.1f} GiB" for size in (board.memory_bytes, device.memory_bytes)]
        differences.append(f"profile {name} states {sizes[0]} of memory; the device has {sizes[1]}")
    if board.model and device.model and board.model.lower() not in device.model.lower():
        differences.append(f"profile {name} is of a {board.model}; the device says it is a {device.model}")
    return differences


def _runtime(where: str, entry: Mapping[str, Any], device: Facts, faults: list[str]) -> Runtime:
    place = f"{where}: [[runtime]] {shown(entry.get('engine', ''))}"
    values = read_fields(entry, RUNTIME, place, faults)
    names = {
        key: chosen(values[key] or (), field, device.flags, place, key, faults)
        for key, field in RUNTIME.items()
        if field.kind == "chosen"
    }
    precisions, recipes = names["precisions"], names["quantization"]
    if "int8" in precisions and not recipes:
        precisions = tuple(p for p in precisions if p != "int8")
    return Runtime(
        engine=values["engine"] or "",
        unit=values["unit"],
        precisions=precisions,
        quantization=recipes[0] if recipes else None,
        estimate=next(iter(names["estimate"]), None),
        options=dict(values["options"] or {}),
    )
