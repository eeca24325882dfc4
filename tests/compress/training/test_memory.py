"""Memory that training frees stays with the process, and goes back to the system afterwards."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from compress.training.memory import retained_memory
from tests.conftest import ROOT

SIZE = (64, 1024, 1024)  # 256 MiB

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")

FAULTS = """
import resource, sys, torch
from contextlib import nullcontext
from compress.training.memory import retained_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with retained_memory() if sys.argv[1] == "kept" else nullcontext():
    for step in range(20):
        before = faults() if step <= 12 else before  # until then the heap finds its size
        (torch.ones(16, 1024, 1024) * 2).sum()
    print(faults() - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_tensors_that_are_made_again_and_again_fault_no_pages() -> None:
    assert _faults("kept") < _faults("usual") / 10


RESIDENT = """
import resource, torch
from compress.training.memory import retained_memory
def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
with retained_memory():
    torch.ones(64, 1024, 1024)
    kept = resident_bytes()
print(kept - resident_bytes())
"""


def test_it_goes_back_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", RESIDENT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 200 * 1024**2


def test_other_threads_get_large_tensors_too() -> None:
    with retained_memory(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: float(torch.ones(SIZE).sum())).result() == 64 * 1024**2
