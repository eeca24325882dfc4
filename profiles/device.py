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
from profiles.toml import read_toml

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
    board = table["board"]
    wrong = [unknown("key", key, BOARD_KEYS, f"profile {name}: [board]") for key in sorted(set(board) - BOARD_KEYS)]
    arch = _tuple(table.get("arch"))
    if len(arch) == 0:
        wrong.append(f'profile {name}: a [board] needs arch = ["aarch64"] or ["x86_64"] beside it')
    if wrong:
        raise UserError(*wrong)
    return Facts(
        arch=arch[0],
        processor=str(board.get("processor", "")),
        cores=int(board.get("cores", 1)),
        memory_bytes=int(float(board.get("memory_gib", 0)) * 2**30),
        flags=frozenset(board.get("flags", ())) | set(arch),
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
    runtimes = [_runtime(where, entry, device, faults) for entry in table.get("runtime", [])]
    if not runtimes:
        faults.append(f"{where}: no [[runtime]]; a device needs at least one")
    faults += [f"{where}: unknown key {key!r}" for key in sorted(set(table) - KEYS)]
    parts: dict[str, Mapping[str, Figure]] = dict(units(table.get("unit", {}), where, faults))
    modes = power_modes(table.get("power_mode", []), where, faults)
    if faults:
        raise UserError(*faults)
    if "cpu" not in parts and (peaks := cpu_peaks(device)):
        parts["cpu"] = peaks
    return DeviceProfile(
        name=name,
        title=table.get("title", name),
        runtimes=tuple(runtimes),
        channel_multiple=int(table.get("channel_multiple", 8)),
        threads=int(table.get("threads", 0)) or device.cores,
        batch=int(table.get("batch", 1)),
        arch=_tuple(table.get("arch")),
        units=parts,
        power_modes=modes,
        jetpack=_tuple(table.get("jetpack")),
        notes=_tuple(table.get("notes")),
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
    precisions = tuple(_chosen(entry.get("precisions", []), device))
    faults += [unknown("precision", p, PRECISIONS, where) for p in precisions if p not in PRECISIONS]
    recipes = _chosen(entry.get("quantization", []), device)
    faults += [unknown("quantization recipe", r, QUANTIZATION, where) for r in recipes if r not in QUANTIZATION]
    unknown_keys = sorted(set(entry) - {"engine", "precisions", "quantization", "unit", "estimate"})
    faults += [f"{where}: [[runtime]] {entry.get('engine', '')} has an unknown key {key!r}" for key in unknown_keys]
    if "engine" not in entry:
        faults.append(f"{where}: a [[runtime]] has no engine")
    if "int8" in precisions and not recipes:
        precisions = tuple(p for p in precisions if p != "int8")
    return Runtime(
        engine=str(entry.get("engine", "")),
        precisions=precisions,
        quantization=recipes[0] if recipes else None,
        unit=str(entry.get("unit", "cpu")),
        estimate=next(iter(_chosen(entry.get("estimate", []), device)), None),
    )


def _chosen(entries: list[Any], device: Facts) -> list[str]:
    """Names whose ``needs`` the device meets: ``"int8"`` or ``{name = "bf16", needs = ["amx_bf16"]}``."""
    pairs = [(e, ()) if isinstance(e, str) else (e["name"], e.get("needs", ())) for e in entries]
    return [name for name, needs in pairs if not needs or device.flags.intersection(needs)]


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
