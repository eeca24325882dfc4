"""Two live processes of which only one ever runs, so that both meet the same machine."""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from collections.abc import Callable


def alternate(
    one: subprocess.Popen[str], other: subprocess.Popen[str], slice_s: float, until: Callable[[], bool] = lambda: False
) -> None:
    """Let the two run by turns until ``until``, or one has ended; both may run when this returns, whatever happened."""
    try:
        for turn in itertools.count():
            if until() or one.poll() is not None or other.poll() is not None:
                break
            runs, waits = (one, other) if turn % 2 else (other, one)
            waits.send_signal(signal.SIGSTOP)
            runs.send_signal(signal.SIGCONT)
            time.sleep(slice_s)
    finally:
        for process in (one, other):
            process.send_signal(signal.SIGCONT)
