"""What is known of a device before a model is loaded.

A profile is one TOML file: the runtimes in order of preference, the precisions each runs, the Q/DQ
recipe each wants, the channel multiple. Lines may carry ``needs``, processor flags of which one must
be there; they are resolved against the facts of the real device (``resolve``).
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from profiles.errors import UserError, unknown
from profiles.quantization import QUANTIZATION

FOLDER = Path(__file__).parent
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
X86 = ("x86_64", "AMD64")
SAME_ARCH = {"arm64": "aarch64", "AMD64": "x86_64", "amd64": "x86_64"}
# Of an aarch64 kernel's AT_HWCAP (16) and AT_HWCAP2 (26), the bits that a recipe may ask for.
ARM_FLAGS = ((16, {"asimd": 1, "asimdhp": 10, "asimddp": 20, "sve": 22}), (26, {"i8mm": 13, "bf16": 14}))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a device says of itself: architecture, processor, cores, memory and processor flags."""

    arch: str
    processor: str
    cores: int
    memory_bytes: int
    flags: frozenset[str]
    system: str


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One runtime of a device: its engine's name, its precisions in order, its Q/DQ recipe's name."""

    engine: str
    precisions: tuple[str, ...]
    quantization: str | None


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """A device: what runs there and how.

    Attributes:
        channel_multiple: channel counts that fill this device's vector registers.
        threads: threads an engine uses; latency is measured with the same number.
        batch: batch size engines are built for.
        arch: machine architectures it may have, as ``uname -m`` says them; any when empty.
    """

    name: str
    title: str
    runtimes: tuple[Runtime, ...]
    channel_multiple: int
    threads: int
    batch: int = 1
    arch: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DeviceProfile:
        runtimes = tuple(Runtime(**{**r, "precisions": tuple(r["precisions"])}) for r in data["runtimes"])
        return cls(**{**data, "runtimes": runtimes, "arch": tuple(data.get("arch", ()))})

    def runtime(self, engine: str) -> Runtime:
        """The runtime of ``engine``; ``KeyError`` when this device has none."""
        for runtime in self.runtimes:
            if runtime.engine == engine:
                return runtime
        raise KeyError(engine)


def facts() -> Facts:
    """The facts of the machine this runs on."""
    cpuinfo = _cpuinfo()
    flags = cpuinfo.get("flags", "") if platform.machine() in X86 else cpuinfo.get("Features", "") or _arm_flags()
    return Facts(
        arch=platform.machine(),
        processor=cpuinfo.get("model name") or cpuinfo.get("Model") or platform.processor() or platform.machine(),
        cores=_usable_cores(),
        memory_bytes=_memory_bytes(),
        flags=frozenset([*flags.split(), platform.machine()]),
        system=f"{platform.system()} {platform.release()}",
    )


def names() -> list[str]:
    """The names of all profiles, one a TOML file."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, of: Facts | None = None) -> DeviceProfile:
    """The profile ``name``, resolved against the facts of its device (default: this machine).

    Raises:
        UserError: there is no such profile, or its file is wrong (all faults at once).
    """
    if name not in names():
        raise UserError(unknown("device", name, names()))
    path = FOLDER / f"{name}.toml"
    return resolve(name, _read_toml(path), of or facts())


def resolve(name: str, table: Mapping[str, Any], device: Facts) -> DeviceProfile:
    """The profile in ``table``, less what the device's flags rule out."""
    faults: list[str] = []
    runtimes = [_runtime(f"profile {name}", entry, device, faults) for entry in table.get("runtime", [])]
    if not runtimes:
        faults.append(f"profile {name}: no [[runtime]]; a device needs at least one")
    unknown_keys = set(table) - {"title", "channel_multiple", "threads", "batch", "arch", "runtime"}
    faults += [f"profile {name}: unknown key {key!r}" for key in sorted(unknown_keys)]
    if faults:
        raise UserError(*faults)
    return DeviceProfile(
        name=name,
        title=table.get("title", name),
        runtimes=tuple(runtimes),
        channel_multiple=int(table.get("channel_multiple", 8)),
        threads=int(table.get("threads", 0)) or device.cores,
        batch=int(table.get("batch", 1)),
        arch=tuple(table.get("arch", ())),
    )


def check_arch(profile: DeviceProfile, device: Facts, where: str) -> None:
    """Raise ``UserError`` when the device at ``where`` has another architecture than its profile."""
    given = SAME_ARCH.get(device.arch, device.arch)
    if profile.arch and given not in {SAME_ARCH.get(arch, arch) for arch in profile.arch}:
        raise UserError(
            f"wrong architecture: {where} is {device.arch} ({device.processor}); profile {profile.name} is for "
            f"{' or '.join(profile.arch)}; give the profile of that board"
        )


def with_engines(profile: DeviceProfile, usable: Mapping[str, tuple[bool, str]]) -> DeviceProfile:
    """``profile`` without the runtimes that cannot run, by the reason each engine gave.

    Raises:
        UserError: none is left.
    """
    left = tuple(r for r in profile.runtimes if usable[r.engine][0])
    if not left:
        reasons = "; ".join(f"{engine}: {reason}" for engine, (_, reason) in usable.items())
        raise UserError(f"device {profile.name}: no runtime can run here ({reasons})")
    return replace(profile, runtimes=left)


def _runtime(where: str, entry: Mapping[str, Any], device: Facts, faults: list[str]) -> Runtime:
    precisions = tuple(_chosen(entry.get("precisions", []), device))
    faults += [unknown("precision", p, PRECISIONS, where) for p in precisions if p not in PRECISIONS]
    recipes = _chosen(entry.get("quantization", []), device)
    faults += [unknown("quantization recipe", r, QUANTIZATION, where) for r in recipes if r not in QUANTIZATION]
    if "int8" in precisions and not recipes:
        precisions = tuple(p for p in precisions if p != "int8")
    return Runtime(
        engine=str(entry["engine"]),
        precisions=precisions,
        quantization=recipes[0] if recipes else None,
    )


def _chosen(entries: list[Any], device: Facts) -> list[str]:
    """Names whose ``needs`` the device meets: ``"int8"`` or ``{name = "bf16", needs = ["amx_bf16"]}``."""
    pairs = [(e, ()) if isinstance(e, str) else (e["name"], e.get("needs", ())) for e in entries]
    return [name for name, needs in pairs if not needs or device.flags.intersection(needs)]


def _read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    return table


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _arm_flags() -> str:
    """What the kernel says that this process may use, where /proc/cpuinfo does not say it (emulators, old kernels)."""
    if platform.machine() not in ("aarch64", "arm64") or sys.platform != "linux":
        return ""
    import ctypes

    auxiliary = ctypes.CDLL(None).getauxval
    auxiliary.argtypes, auxiliary.restype = [ctypes.c_ulong], ctypes.c_ulong
    return " ".join(name for entry, bits in ARM_FLAGS for name, bit in bits.items() if auxiliary(entry) >> bit & 1)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
