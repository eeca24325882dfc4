"""Facts of a machine, read from its own files. Runs on the board; a missing file leaves its fact empty.

What the board says is kept as it says it (core ids, the L4T release). Names for it come from the tables in ``data``, which
are read where they are asked for: not on the board, whose Python 3.10 reads no TOML.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from profiles import parsers
from profiles.toml import read_toml

DATA = Path(__file__).parent / "data"
# Of an aarch64 kernel's AT_HWCAP (16) and AT_HWCAP2 (26), the bits that a recipe may ask for.
ARM_FLAGS = ((16, {"asimd": 1, "fphp": 9, "asimdhp": 10, "asimddp": 20, "sve": 22}), (26, {"i8mm": 13, "bf16": 14}))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts of a device; unknown ones are empty.

    Attributes:
        flags: processor flags that every core has, and the architecture.
        core_ids: how many cores there are of each kind, by implementer and part: ``{"0x41:0xd0b": 4}``; none on x86.
        core_mhz: highest clock of each kind of core; on x86, where kinds have no id, under an empty one.
        model: the board, by its device tree.
        l4t: release of Jetson Linux: ``36.4.3``.
        power_mode: the active mode's name, of ``power_modes``.
        compute_capability: of the first GPU, ``"8.7"``, where CUDA was asked.
    """

    arch: str
    processor: str
    cores: int
    memory_bytes: int
    flags: frozenset[str]
    system: str
    release: str = ""
    python: str = ""
    model: str = ""
    core_ids: Mapping[str, int] = field(default_factory=dict)
    core_mhz: Mapping[str, int] = field(default_factory=dict)
    governor: str = ""
    l4t: str = ""
    power_mode: str = ""
    power_modes: tuple[str, ...] = ()
    compute_capability: str | None = None

    @property
    def core_names(self) -> dict[str, int]:
        """Count the cores of each kind by name: ``{"Cortex-A76": 4}``; unknown ids stay as they are."""
        known = core_table()["arm"]
        return {str(known.get(each, {}).get("name", each)): count for each, count in self.core_ids.items()}

    @property
    def jetpack(self) -> Mapping[str, Any] | None:
        """Look up the entry of ``data/jetpack.toml`` for this board's L4T release, or the nearest one."""
        return parsers.jetpack(self.l4t, jetpack_table()) if self.l4t else None

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return {**asdict(self), "flags": sorted(self.flags)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Facts:
        """Restore facts from ``as_json``; unknown keys of other releases are left out."""
        known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
        return cls(**{**known, "flags": frozenset(data["flags"]), "power_modes": tuple(data.get("power_modes", ()))})


def facts(root: Path = Path("/")) -> Facts:
    """Read the facts of this machine from the files below ``root``."""
    cpuinfo = _read(root / "proc/cpuinfo")
    cores = parsers.cpu_cores(cpuinfo)
    model = parsers.board_model(_read(root / "proc/device-tree/model"))
    release = parsers.l4t(_read(root / "etc/nv_tegra_release"))
    return Facts(
        arch=platform.machine(),
        processor=parsers.cpu_name(cpuinfo) or model or platform.processor() or platform.machine(),
        cores=_usable_cores(),
        memory_bytes=_memory_bytes(),
        flags=(parsers.cpu_flags(cpuinfo, platform.machine()) or _kernel_flags()) | {platform.machine()},
        system=f"{platform.system()} {platform.release()}",
        release=parsers.system_name(_read(root / "etc/os-release")),
        python=platform.python_version(),
        model=model,
        core_ids=dict(Counter(cores)),
        core_mhz=_core_mhz(root, cores, cpuinfo),
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        l4t=release,
        power_mode=parsers.power_mode(_output("nvpmodel", "-q")) if release else "",
        power_modes=parsers.power_modes(_read(root / "etc/nvpmodel.conf")),
    )


@functools.cache
def jetpack_table() -> list[dict[str, Any]]:
    """Read the table of JetPack releases, oldest first."""
    releases: list[dict[str, Any]] = read_toml(DATA / "jetpack.toml")["release"]
    return releases


@functools.cache
def core_table() -> dict[str, Any]:
    """Read the table of CPU cores and their operations per cycle: ``arm`` by implementer and part, ``x86`` by flag."""
    return read_toml(DATA / "cores.toml")


def _core_mhz(root: Path, cores: list[str], cpuinfo: str) -> dict[str, int]:
    """The highest clock of each kind of core; where no governor tells it, what an x86 core runs at now."""
    clocks: dict[str, int] = {}
    for number, name in enumerate(cores or [""] * len(parsers.cpu_blocks(cpuinfo))):
        khz = _read(root / f"sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq").strip()
        if khz.isdigit():
            clocks[name] = max(clocks.get(name, 0), int(khz) // 1000)
    now = parsers.cpu_mhz(cpuinfo)
    return clocks or ({"": round(now)} if now else {})


def _kernel_flags() -> frozenset[str]:
    """What the kernel says that this process may use, where /proc/cpuinfo does not say it (emulators, old kernels)."""
    if platform.machine() not in ("aarch64", "arm64") or sys.platform != "linux":
        return frozenset()
    import ctypes

    auxiliary = ctypes.CDLL(None).getauxval
    auxiliary.argtypes, auxiliary.restype = [ctypes.c_ulong], ctypes.c_ulong
    return frozenset(name for entry, bits in ARM_FLAGS for name, bit in bits.items() if auxiliary(entry) >> bit & 1)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a command prints; empty when it is not there, fails or takes longer than 10 s."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
