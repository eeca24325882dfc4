"""Measuring conditions: power mode, governors, clocks, temperatures, throttling, power. Read, never changed.

Everything is read below a root folder and through a command runner, so that a test can give both. What a machine does
not tell is absent, never zero. Standard library only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from deploy.measure.load import load_average

HOT_C = 70.0
COOL_DIFFERENCE_C = 3.0
COOL_PAUSE_S = 1.0
MOST_DRIFT = 0.05
RAIL_PAUSE_S = 0.02
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""INA3221 rails that carry the whole module; on boards without one (AGX) the rails are added up."""

# Raspberry Pi firmware, vcgencmd get_throttled: bits 0-3 say now, bits 16-19 since the board started.
PI_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
PI_SINCE_START = 16

Run = Callable[[Sequence[str]], str]
"""Function that runs a command and returns its standard output; empty when there is no such command or it fails."""


@final
@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The state of a machine at one moment.

    Attributes:
        power_mode: by name, for its number means another mode on another board.
        governors: policy -> governor.
        clocks_mhz: policy -> current clock.
        temperatures_c: thermal zone -> degrees.
        throttle: what says that clocks are or were held down; a count or alarm by its name, 0 when quiet.
        power_mw: rail -> milliwatts.
        load_average: of the last minute; None where the machine does not tell.
    """

    power_mode: str | None = None
    governors: Mapping[str, str] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttle: Mapping[str, int] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)
    load_average: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the conditions as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Conditions:
        """Make conditions from the values of ``as_json``."""
        return cls(**data)

    @property
    def hottest_c(self) -> float | None:
        """Temperature of the hottest zone in degrees Celsius; None without zones."""
        return max(self.temperatures_c.values(), default=None)


def read(root: Path = Path("/"), run: Run | None = None) -> Conditions:
    """Read the conditions of the machine whose files are below ``root``."""
    ask = run or run_command
    throttle = {**_counters(root), **_alarms(root), **parse_throttled(ask(["vcgencmd", "get_throttled"]))}
    return Conditions(
        power_mode=parse_power_mode(ask(["nvpmodel", "-q"])),
        governors=_policies(root, "scaling_governor"),
        clocks_mhz={name: int(khz) / 1000 for name, khz in _policies(root, "scaling_cur_freq").items() if khz.isdigit()},
        temperatures_c=_zones(root),
        throttle=throttle,
        power_mw=rails_mw(root),
        load_average=load_average(root),
    )


def doubts(before: Conditions, after: Conditions, drift: float = 0.0) -> tuple[str, ...]:
    """Return why a measurement between two readings is not clean; empty when nothing speaks against it.

    Args:
        drift: how much slower its end was than its beginning, as a fraction; reported when a clock fell as well.
    """
    reasons = []
    fallen = [n for n, mhz in after.clocks_mhz.items() if mhz < (1 - MOST_DRIFT) * before.clocks_mhz.get(n, 0.0)]
    if drift > MOST_DRIFT and fallen:
        reasons.append(f"it ended {100 * drift:.0f} % slower than it began, and the clock of {', '.join(fallen)} fell")
    for name, count in after.throttle.items():
        # A flag of now speaks for itself; a counter, or "since the start", speaks when it moved while measuring.
        is_state = name.endswith(" now") or "alarm" in name
        earlier = before.throttle.get(name, 0)
        if (is_state and (count or earlier)) or count > earlier:
            reasons.append(f"{name} ({earlier} before, {count} after)")
    if before.power_mode != after.power_mode:
        reasons.append(f"the power mode changed from {before.power_mode} to {after.power_mode}")
    for name, governor in after.governors.items():
        if before.governors.get(name, governor) != governor:
            reasons.append(f"the governor of {name} changed from {before.governors[name]} to {governor}")
    return tuple(reasons)


def parse_power_mode(output: str) -> str | None:
    """Parse the mode's name from ``nvpmodel -q``: ``NV Power Mode: 15W`` and a line with its number."""
    match = re.search(r"^NV Power Mode:\s*(\S+)", output, re.MULTILINE)
    return match.group(1).removeprefix("MODE_") if match else None


def parse_throttled(output: str) -> dict[str, int]:
    """Parse the bits of ``throttled=0x50005``, each as 0 or 1; empty when it is something else."""
    match = re.fullmatch(r"throttled=(0x[0-9a-fA-F]+)", output.strip())
    if not match:
        return {}
    bits = int(match.group(1), 16)
    now = {f"{name} now": bits >> bit & 1 for bit, name in PI_BITS.items()}
    return {**now, **{f"{name} since the start": bits >> bit + PI_SINCE_START & 1 for bit, name in PI_BITS.items()}}


def rails_mw(root: Path = Path("/")) -> dict[str, float]:
    """Read milliwatts of each INA3221 rail: millivolts times milliamperes over a thousand."""
    rails: dict[str, float] = {}
    for label, folder, number in _rails(root):
        millivolts, milliamperes = _number(folder / f"in{number}_input"), _number(folder / f"curr{number}_input")
        if millivolts is not None and milliamperes is not None:
            rails[label] = millivolts * milliamperes / 1000
    return rails


def total_mw(rails: Mapping[str, float]) -> float | None:
    """Return the whole module's power: the rail that carries it, or the sum; None without rails."""
    for name in TOTAL_RAILS:
        if name in rails:
            return rails[name]
    return sum(rails.values()) if rails else None


def cool_down(
    start_c: float | None,
    at_most_s: float,
    *,
    look: Callable[[], float | None],
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait while the hottest zone is hot and hotter than at the start; return the seconds waited.

    Args:
        start_c: the hottest zone at the start; None when the machine tells none, and then nothing is waited for.
        look: the hottest zone now.
    """
    waited = 0.0
    while start_c is not None and waited < at_most_s:
        now = look()
        if now is None or now < HOT_C or now <= start_c + COOL_DIFFERENCE_C:
            break
        sleep(COOL_PAUSE_S)
        waited += COOL_PAUSE_S
    return waited


@final
class PowerMeter:
    """A sampler of the rails in a thread, as a context manager; ``mean_mw`` is known afterwards."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._over = threading.Event()
        self.samples_mw: list[float] = []

    def __enter__(self) -> PowerMeter:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def mean_mw(self) -> float | None:
        """Mean power; None where there are no rails."""
        return sum(self.samples_mw) / len(self.samples_mw) if self.samples_mw else None

    def _sample(self) -> None:
        while not self._over.is_set():
            power = total_mw(rails_mw(self._root))
            if power is None:
                return
            self.samples_mw.append(power)
            self._over.wait(RAIL_PAUSE_S)


def run_command(arguments: Sequence[str]) -> str:
    """Return the output of a command; empty where there is no such command or it fails."""
    if shutil.which(arguments[0]) is None:
        return ""
    try:
        process = subprocess.run(
            list(arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout if process.returncode == 0 else ""


def _policies(root: Path, name: str) -> dict[str, str]:
    folders = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"), key=lambda p: int(p.name[6:] or 0))
    return {folder.name: text for folder in folders if (text := _text(folder / name))}


def _zones(root: Path) -> dict[str, float]:
    """Read degrees by the zone's type; a zone without a plausible value (off, or a placeholder) is left out."""
    zones: dict[str, float] = {}
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        millidegrees = _number(folder / "temp")
        if millidegrees is not None and -40_000 < millidegrees < 150_000:
            kind = _text(folder / "type") or folder.name
            zones[kind if kind not in zones else f"{kind} {folder.name}"] = millidegrees / 1000
    return zones


def _counters(root: Path) -> dict[str, int]:
    """Read how often an x86 core was throttled since the start, the most of any core."""
    counters: dict[str, int] = {}
    for file in (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count"):
        name = file.name.replace("_", " ")
        counters[name] = max(counters.get(name, 0), int(_number(file) or 0))
    return counters


def _alarms(root: Path) -> dict[str, int]:
    alarms: dict[str, int] = {}
    for label, folder, number in _rails(root):
        for kind in ("max", "crit"):
            alarm = _number(folder / f"curr{number}_{kind}_alarm")
            if alarm is not None:
                alarms[f"{label} {kind} alarm"] = int(alarm)
    return alarms


def _rails(root: Path) -> list[tuple[str, Path, str]]:
    """Return label, folder and number of each named INA3221 channel."""
    rails = []
    for file in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")):
        label = _text(file)
        if label and label != "NC":
            rails.append((label, file.parent, file.name[2:].removesuffix("_label")))
    return rails


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _number(file: Path) -> float | None:
    try:
        return float(_text(file))
    except ValueError:
        return None
