"""Limits of a process: so much processor time, so much memory."""

from __future__ import annotations

import math
import resource
import signal
import time
from typing import Any, NoReturn

GRACE_S, MEMORY_BYTES = 20, 10 << 30


class OutOfTimeError(BaseException):
    """The processor time of a process is used up; no error that a step may answer for."""


def limit(seconds: int) -> None:
    """End this process after so much more processor time, by an exception first, and hold it to ``MEMORY_BYTES``."""

    def late(*_: Any) -> NoReturn:
        raise OutOfTimeError(f"not done after {seconds} s of processor time")

    signal.signal(signal.SIGXCPU, late)
    last = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (last, last + GRACE_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
