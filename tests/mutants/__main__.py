"""Mutate modules whose arithmetic decides results, one change at a time, and see whether the tests that guard them fail.

    python -m tests.mutants                    # a sample of each family, half an hour of two cores
    python -m tests.mutants --only losses gate --most 40 --seed 1

Each mutant runs in a copy of the packages in a temporary folder, in a fork of a process that has the libraries loaded.
Defaults of options are not mutated: they are choices, not formulas. Exit status 1 under 90 % killed, 2 where the tests
fail without a mutant.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutations import Mutation, mutations

ROOT = Path(__file__).parents[2]
COPIED = ("calib", "compress", "deploy", "profiles", "tests", "docs", "examples", "pyproject.toml", "README.md", "Makefile")
SURVIVORS = Path(__file__).with_name("survivors.md")
LEAST_KILLED = 0.9
LIMIT_S = 120
AT_ONCE = 2
PRUNING = "tests/compress/methods/pruning"
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "losses": (
        "compress/losses/*.py",
        tuple(f"tests/compress/losses/test_{name}.py" for name in ("losses_by_hand", "losses_known", "losses", "adapters")),
    ),
    "gate": ("compress/pipeline/gate.py", ("tests/compress/pipeline/test_gate.py",)),
    "verdict": ("compress/pipeline/verdict.py", ("tests/compress/report/test_record.py",)),
    "load": ("deploy/measure/load.py", ("tests/deploy/measure/test_load.py",)),
    "paired": ("compress/pipeline/paired.py", ("tests/compress/pipeline/test_paired.py",)),
    "keys": ("compress/pipeline/cache_keys.py", ("tests/compress/pipeline/test_cache_keys.py",)),
    "allocation": ("compress/methods/allocation/*.py", ("tests/compress/methods/allocation",)),
    "plan": ("compress/models/plan.py", ("tests/compress/models",)),
    "cuts": ("compress/methods/pruning/operations.py", (f"{PRUNING}/test_channels.py", f"{PRUNING}/test_faithfulness.py")),
    "sparse": ("compress/methods/pruning/sparse.py", (f"{PRUNING}/test_sparse.py",)),
    "placement": ("deploy/qdq/placement.py", ("tests/deploy/qdq/test_placement.py", "tests/deploy/qdq/test_insert.py")),
    "ranges": ("calib/ranges.py", ("tests/calib/test_ranges.py",)),
    "signing": ("deploy/bundle/signing.py", ("tests/deploy/bundle/test_signing.py",)),
}
"""Modules, and the tests that guard them."""


@dataclass
class Trial:
    """Running tests of one mutant, in the copy of its slot."""

    family: str
    mutation: Mutation
    slot: Path
    whole: str
    began: float


def main() -> int:
    """Run a sample of mutants and tell what survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="families of modules")
    parser.add_argument("--most", type=int, default=40, help="mutants of each family")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    given = parser.parse_args()
    sample = [(family, m) for family in given.only for m in _sample(family, given.most, given.seed)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        slots = [_copy(Path(folder) / str(number)) for number in range(AT_ONCE)]
        _load()
        for family in given.only:
            if os.waitstatus_to_exitcode(os.waitpid(_fork(slots[0], family), 0)[1]) != 0:
                print(f"{family}: its tests fail without a mutant:\n{(slots[0] / 'log').read_text()[-3000:]}")
                return 2
        killed = _run(sample, slots)
    return _tell(sample, killed)


def _sample(family: str, most: int, seed: int) -> list[Mutation]:
    found = [m for path in sorted(ROOT.glob(FAMILIES[family][0])) for m in _of(path)]
    return random.Random(seed).sample(found, min(most, len(found)))


def _of(path: Path) -> list[Mutation]:
    return mutations(path.relative_to(ROOT).as_posix(), path.read_text())


def _copy(slot: Path) -> Path:
    slot.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, slot / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, slot / name)
    return slot


def _load() -> None:
    """Import what every test needs and no mutant changes."""
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
    import onnx  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)


def _run(sample: list[tuple[str, Mutation]], slots: list[Path]) -> dict[Mutation, bool]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    running = dict[int, Trial]()
    try:
        return _tried(sample, slots, running)
    finally:
        for process in running:
            os.killpg(process, signal.SIGKILL)


def _tried(sample: list[tuple[str, Mutation]], slots: list[Path], running: dict[int, Trial]) -> dict[Mutation, bool]:
    """Whether each mutant was killed; ``running`` holds the processes at work."""
    waiting, free, killed = list(reversed(sample)), list(slots), dict[Mutation, bool]()
    while waiting or running:
        while waiting and free:
            family, mutation = waiting.pop()
            slot = free.pop()
            whole = (slot / mutation.path).read_text()
            (slot / mutation.path).write_text(mutation.source)
            running[_fork(slot, family)] = Trial(family, mutation, slot, whole, time.monotonic())
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            _end_late(running)
            time.sleep(0.05)
            continue
        trial = running.pop(process)
        (trial.slot / trial.mutation.path).write_text(trial.whole)
        free.append(trial.slot)
        killed[trial.mutation] = os.waitstatus_to_exitcode(status) != 0
        if not killed[trial.mutation]:
            print(f"survived: {trial.mutation.path}:{trial.mutation.line} {trial.mutation.name}", flush=True)
    return killed


def _end_late(running: dict[int, Trial]) -> None:
    """A mutant that hangs is noticed, so it is killed."""
    for process, trial in running.items():
        if time.monotonic() - trial.began > LIMIT_S:
            os.killpg(process, signal.SIGKILL)


def _fork(slot: Path, family: str) -> int:
    """Run the tests of a family in a copy; the process, whose status is that of pytest."""
    process = os.fork()
    if process:
        return process
    status = 3
    try:
        os.setsid()
        log = os.open(slot / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(slot)
        os.environ.update(PYTHONPATH=str(slot), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
        sys.dont_write_bytecode = True
        sys.path[:] = [str(slot), *(p for p in sys.path if p and Path(p).resolve() != ROOT)]
        for name in [n for n in sys.modules if n.partition(".")[0] in COPIED]:
            del sys.modules[name]
        import pytest

        options = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", "--rootdir", str(slot))
        status = int(pytest.main([*options, *FAMILIES[family][1]]))
    finally:
        sys.stdout.flush()
        os._exit(status)


def _tell(sample: list[tuple[str, Mutation]], killed: dict[Mutation, bool]) -> int:
    listed = SURVIVORS.read_text()
    for family in dict.fromkeys(family for family, _ in sample):
        of = [killed[m] for f, m in sample if f == family]
        print(f"{family:12} {sum(of):4} of {len(of):4} killed")
    unlisted = [m for m, dead in killed.items() if not dead and m.name.replace("|", "\\|") not in listed]
    for mutation in unlisted:
        print(f"not in {SURVIVORS.name}: {mutation.name}")
    share = sum(killed.values()) / max(1, len(killed))
    print(f"{sum(killed.values())} of {len(killed)} killed, {share:.1%}; at least {LEAST_KILLED:.0%} asked")
    return int(share < LEAST_KILLED)


if __name__ == "__main__":
    sys.exit(main())
