"""Stop glibc from returning freed memory to the kernel during training.

glibc gives each large tensor pages of its own and returns them when it is freed. Every step then begins with the kernel
zeroing gigabytes: on two cores a fifth of the time of a step of a small convolutional network was the kernel's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
"""Where glibc's own adapting ends in a process that frees large blocks; once anything is set, it adapts no more."""


@contextmanager
def retained_memory() -> Iterator[None]:
    """Keep freed memory within the block, and give it back at its end; without glibc nothing happens."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
