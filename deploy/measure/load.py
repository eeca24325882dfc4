"""What else a machine did while something was timed on it: other processes, a hypervisor, interruptions.

Load averages look back a minute and count the timed process too, so they are told and judged by nothing. What is judged is
counted over the timed blocks alone: ``/proc/stat`` less the processor time of the timed process, stolen time, and how often
that process was interrupted (involuntary context switches, getrusage(2)). Standard library only; what a machine does not
tell is None, never zero.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, final

MOST_OTHERS = 0.1
"""Share of the machine's cores that other processes may use while something is timed; 0 to 0.03 were seen on a quiet one."""
MOST_STOLEN = 0.02
"""Share of the time that a hypervisor may give to other machines."""
MOST_INTERRUPTIONS_PER_S = 150.0
"""How often the timed process may be interrupted: ResNet-20 on one or two of two quiet cores was 1 to 110 times a second,
beside one process that computes 240 to 440 times."""
Number = TypeVar("Number", int, float)
LOOK_S = 0.3
QUIET_S = 60.0
QUIET_VARIABLE = "COMPRESS_QUIET_SECONDS"
BUSY = ("user", "nice", "system", "irq", "softirq")
COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
"""Columns of the first line of /proc/stat, in clock ticks over all cores (proc_stat(5)); guests are part of user."""


@final
@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counters of a machine and of this process at one moment, in seconds since some start.

    Attributes:
        busy_s, stolen_s: of all cores together; None where /proc/stat cannot be read.
        own_s: processor time of this process, all its threads.
        interruptions: involuntary context switches of this process; None where the system does not count them (Windows).
    """

    wall_s: float
    own_s: float
    interruptions: int | None
    busy_s: float | None = None
    stolen_s: float | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Load:
    """What a machine did besides while something was timed for ``wall_s`` seconds; sums of blocks.

    Attributes:
        others_s: processor time of all other processes, over all cores; None where the machine does not tell.
        stolen_s: time that a hypervisor gave to other machines; None where the machine does not tell.
        interruptions: involuntary context switches of the timed process; None where the system does not count them.
    """

    wall_s: float = 0.0
    cores: int = 1
    interruptions: int | None = None
    others_s: float | None = None
    stolen_s: float | None = None

    def __add__(self, other: Load) -> Load:
        """Return the load of both blocks."""
        return Load(
            wall_s=self.wall_s + other.wall_s,
            cores=max(self.cores, other.cores),
            interruptions=_sum(self.interruptions, other.interruptions),
            others_s=_sum(self.others_s, other.others_s),
            stolen_s=_sum(self.stolen_s, other.stolen_s),
        )

    def doubts(self) -> tuple[str, ...]:
        """Say what of it is more than a quiet machine has; empty when nothing is."""
        if self.wall_s <= 0:
            return ()
        reasons = []
        if self.others_s is not None and self.others_s > MOST_OTHERS * self.cores * self.wall_s:
            busy = self.others_s / self.wall_s
            reasons.append(f"other processes used {busy:.1f} of {self.cores} core{'s' if self.cores > 1 else ''}")
        if self.stolen_s is not None and self.stolen_s > MOST_STOLEN * self.cores * self.wall_s:
            share = 100 * self.stolen_s / (self.cores * self.wall_s)
            reasons.append(f"{share:.0f} % of the time was taken by other virtual machines")
        if self.interruptions is not None and self.interruptions > MOST_INTERRUPTIONS_PER_S * self.wall_s:
            reasons.append(f"what was timed was interrupted {self.interruptions / self.wall_s:.0f} times a second")
        return tuple(reasons)


def default_quiet_s() -> float:
    """Return how long a race waits for a quiet device where nothing is said: ``$COMPRESS_QUIET_SECONDS``, or 60."""
    try:
        return max(float(os.environ[QUIET_VARIABLE]), 0.0)
    except (KeyError, ValueError):
        return QUIET_S


def read_usage(root: Path = Path("/")) -> Usage:
    """Read the counters of the machine whose files are below ``root``, and of this process."""
    own_s, interruptions = _own()
    ticks = _ticks(root)
    return Usage(
        wall_s=time.perf_counter(),
        own_s=own_s,
        interruptions=interruptions,
        busy_s=None if ticks is None else sum(ticks[name] for name in BUSY),
        stolen_s=None if ticks is None else ticks["steal"],
    )


def _own() -> tuple[float, int | None]:
    """Return the processor seconds of this process, and how often it was interrupted."""
    try:
        import resource
    except ImportError:  # Windows
        return time.process_time(), None
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime, own.ru_nivcsw


def load_between(before: Usage, after: Usage, cores: int | None = None) -> Load:
    """Return what else the machine did between two readings; ``cores`` are this machine's without."""
    others = None
    if before.busy_s is not None and after.busy_s is not None:
        others = after.busy_s - before.busy_s - (after.own_s - before.own_s)
    stolen = None
    if before.stolen_s is not None and after.stolen_s is not None:
        stolen = after.stolen_s - before.stolen_s
    return Load(
        wall_s=after.wall_s - before.wall_s,
        cores=cores or os.cpu_count() or 1,
        interruptions=None
        if before.interruptions is None or after.interruptions is None
        else after.interruptions - before.interruptions,
        others_s=others,
        stolen_s=stolen,
    )


def look(seconds: float = LOOK_S, root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep) -> Load:
    """Return what the machine does while this process sleeps for ``seconds``."""
    before = read_usage(root)
    sleep(seconds)
    return load_between(before, read_usage(root))


def load_average(root: Path = Path("/")) -> float | None:
    """Return the load average of the last minute (proc_loadavg(5)); None where the machine does not tell."""
    try:
        return float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _ticks(root: Path) -> dict[str, float] | None:
    """Read seconds over all cores by column; None where the file is missing or another."""
    try:
        with (root / "proc/stat").open() as file:
            name, *numbers = file.readline().split()
        seconds = [int(number) / os.sysconf("SC_CLK_TCK") for number in numbers]
    except (OSError, ValueError):
        return None
    return dict(zip(COLUMNS, seconds, strict=False)) if name == "cpu" and len(seconds) >= len(COLUMNS) else None


def _sum(one: Number | None, other: Number | None) -> Number | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
