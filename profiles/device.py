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
from profiles.figures import Figure, PowerMode, Units, power_modes, units
from profiles.peaks import cpu_peaks
from profiles.quantization import QUANTIZATION
from profiles.toml import read_toml, shown, table_of, tables_of

__all__ = ["FOLDER", "PRECISIONS", "DeviceProfile", "Facts", "Runtime", "facts", "load", "names", "resolve", "with_engines"]

FOLDER = Path(__file__).parent
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
SAME_ARCH = {"arm64": "aarch64", "AMD64": "x86_64", "amd64": "x86_64"}
KEYS = {
    "title",
    "arch",
    "threads",
    "batch",
    "channel_multiple",
    "runtime",
    "board",
    "unit",
    "power_mode",
    "jetpack",
    "notes",
}
BOARD_KEYS = {"processor", "cores", "memory_gib", "flags", "system", "model"}
MOST_NUMBER = 2**20
"""Largest number of threads, cores, GiB or images a batch."""

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
    """

    engine: str
    precisions: tuple[str, ...]
    quantization: str | None
    unit: str = "cpu"
    estimate: str | None = None


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
    table = _table(name)
    return resolve(Path(name).stem if name.endswith(".toml") else name, table, of or stated_facts(name) or facts())


def stated_facts(name: str) -> Facts | None:
    """Read the facts that the profile ``name`` states of its board; None for a profile without them (``cpu``).

    Raises:
        UserError: as ``load``.
    """
    table = _table(name)
    if "board" not in table:
        return None
    wrong: list[str] = []
    board = table_of(table["board"], f"profile {name}: [board]", wrong)
    wrong += [unknown("key", key, BOARD_KEYS, f"profile {name}: [board]") for key in sorted(set(board) - BOARD_KEYS)]
    arch = _texts(table, "arch", f"profile {name}", wrong)
    flags = _texts(board, "flags", f"profile {name}: [board]", wrong)
    cores = _whole(board, "cores", 1, 1, f"profile {name}: [board]", wrong)
    memory_gib = board.get("memory_gib", 0)
    if isinstance(memory_gib, bool) or not isinstance(memory_gib, (int, float)) or not 0 <= memory_gib <= MOST_NUMBER:
        wrong.append(f"profile {name}: [board] memory_gib is a number from 0 on; given: {shown(memory_gib)}")
    if len(arch) == 0:
        wrong.append(f'profile {name}: a [board] needs arch = ["aarch64"] or ["x86_64"] beside it')
    if wrong:
        raise UserError(*wrong)
    return Facts(
        arch=arch[0],
        processor=str(board.get("processor", "")),
        cores=cores,
        memory_bytes=int(float(memory_gib) * 2**30),
        flags=frozenset(flags) | set(arch),
        system=str(board.get("system", "Linux")),
        model=str(board.get("model", "")),
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
    entries = tables_of(table.get("runtime", []), f"{where}: [[runtime]]", faults)
    runtimes = [_runtime(where, entry, device, faults) for entry in entries]
    if not runtimes:
        faults.append(f"{where}: no [[runtime]]; a device needs at least one")
    faults += [f"{where}: unknown key {key!r}" for key in sorted(set(table) - KEYS)]
    parts: dict[str, Mapping[str, Figure]] = dict(
        units(table_of(table.get("unit", {}), f"{where}: [unit]", faults), where, faults)
    )
    modes = power_modes(tables_of(table.get("power_mode", []), f"{where}: [[power_mode]]", faults), where, faults)
    title = table.get("title", name)
    if not isinstance(title, str):
        faults.append(f"{where}: title is text; given: {shown(title)}")
    numbers = {
        key: _whole(table, key, usual, least, where, faults)
        for key, usual, least in (("channel_multiple", 8, 1), ("threads", 0, 0), ("batch", 1, 1))
    }
    lists = {key: _texts(table, key, where, faults) for key in ("arch", "jetpack", "notes")}
    if faults:
        raise UserError(*faults)
    if "cpu" not in parts and (peaks := cpu_peaks(device)):
        parts["cpu"] = peaks
    return DeviceProfile(
        name=name,
        title=title,
        runtimes=tuple(runtimes),
        channel_multiple=numbers["channel_multiple"],
        threads=numbers["threads"] or device.cores,
        batch=numbers["batch"],
        units=parts,
        power_modes=modes,
        **lists,
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
    precisions = tuple(_chosen(entry, "precisions", device, place, faults))
    faults += [unknown("precision", p, PRECISIONS, where) for p in precisions if p not in PRECISIONS]
    recipes = _chosen(entry, "quantization", device, place, faults)
    faults += [unknown("quantization recipe", r, QUANTIZATION, where) for r in recipes if r not in QUANTIZATION]
    unknown_keys = sorted(set(entry) - {"engine", "precisions", "quantization", "unit", "estimate"})
    faults += [f"{where}: [[runtime]] {shown(entry.get('engine', ''))} has an unknown key {key!r}" for key in unknown_keys]
    if "engine" not in entry:
        faults.append(f"{where}: a [[runtime]] has no engine")
    texts = {"engine": entry.get("engine", ""), "unit": entry.get("unit", "cpu")}
    faults += [
        f"{place} {key} is a name; given: {shown(value)}" for key, value in texts.items() if not isinstance(value, str)
    ]
    if "int8" in precisions and not recipes:
        precisions = tuple(p for p in precisions if p != "int8")
    return Runtime(
        **texts,
        precisions=precisions,
        quantization=recipes[0] if recipes else None,
        estimate=next(iter(_chosen(entry, "estimate", device, place, faults)), None),
    )


def _chosen(entry: Mapping[str, Any], key: str, device: Facts, where: str, faults: list[str]) -> list[str]:
    """Names whose ``needs`` the device meets: ``"int8"`` or ``{name = "bf16", needs = ["amx_bf16"]}``."""
    given = entry.get(key, [])
    if not isinstance(given, list):
        faults.append(f"{where} {key} is a list of names; given: {shown(given)}")
        return []
    chosen = []
    for each in given:
        table = {"name": each} if isinstance(each, str) else table_of(each, f"{where} {key}", faults)
        needs = _texts(table, "needs", f"{where} {key}", faults)
        if not isinstance(table.get("name"), str):
            faults.append(f'{where} {key} are names, or {{ name = "...", needs = [...] }}; given: {shown(each)}')
        elif not needs or device.flags.intersection(needs):
            chosen.append(table["name"])
    return chosen


def _texts(table: Mapping[str, Any], key: str, where: str, faults: list[str]) -> tuple[str, ...]:
    """Read one text or a list of texts; a fault is added to ``faults``."""
    value = table.get(key, ())
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        faults.append(f"{where} {key} is a text or a list of texts; given: {shown(value)}")
        return ()
    return tuple(texts)


def _whole(table: Mapping[str, Any], key: str, usual: int, least: int, where: str, faults: list[str]) -> int:
    """Read a whole number within bounds; a fault is added to ``faults``."""
    value = table.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_NUMBER:
        faults.append(f"{where} {key} is a whole number from {least} to {MOST_NUMBER:,}; given: {shown(value)}")
        return usual
    return value
