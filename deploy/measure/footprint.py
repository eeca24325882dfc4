"""What holding one engine costs a process: memory, the time to load it, the first inference. Standard library only."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import final

MIB = 2.0**20


@final
@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Costs of an engine beside its latency, of one fresh process that opens this engine alone.

    Attributes:
        peak_mib: the most that was resident at once, Python, numpy and the runtime included; None where the machine does not
            tell.
        load_ms: from a process that has Python and numpy to an engine that is ready: the runtime is imported, the file read.
        first_ms: the first inference, before anything is warm.
    """

    peak_mib: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None


def peak_mib(status: Path = Path("/proc/self/status")) -> float | None:
    """Return the most MiB that were resident in this process at once; None where the machine does not tell.

    On Linux this is VmHWM (proc_pid_status(5)), which begins anew with a program. ``ru_maxrss`` does not: a child has its
    parent's, so it is read where there is no ``/proc`` alone (bytes on macOS, kilobytes elsewhere; getrusage(2)).
    """
    try:
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024 / MIB
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most) * (1 if sys.platform == "darwin" else 1024) / MIB
