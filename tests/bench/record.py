"""What a bench measured, kept as JSON beside it: figures, machine, date, commit, and a digest of the code it measured."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from compress.execution.cache import digest, source_digest
from compress.pipeline.cache_keys import closure
from profiles.device import facts
from tests.bench.figure import Figure, Table

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path(__file__).parent / "results"
COMMAND = '"-m", "compress"'
"""Where a bench says so, it runs the command, in a process of its own."""
SHOWING = ("tests.bench.figure", "tests.bench.running")
"""Modules of the benches that measure nothing themselves."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured table.

    Attributes:
        bench: name of the bench, ``pruning:resnet56``.
        seconds: it took.
        commit: of the working tree that was measured; ``+`` behind it where files differed from the commit.
        code: digest of the measured modules; empty where it was not recorded yet.
    """

    bench: str
    processor: str
    cores: int
    python: str
    date: str
    seconds: int
    commit: str
    code: str
    seeds: int
    figures: tuple[Figure, ...]
    remarks: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"python -m tests.bench {self.bench}"

    @property
    def is_stale(self) -> bool:
        """Whether the code that it measured has changed since, or was never recorded."""
        return self.code != code_digest(self.bench)

    def find(self, what: str) -> Figure:
        """Return the figure whose text begins with ``what``."""
        return next(figure for figure in self.figures if figure.what.startswith(what))


def measured(bench: str, table: Table, seconds: float) -> Record:
    """Record a table that was measured just now on this machine."""
    here = facts()
    return Record(
        bench=bench,
        processor=here.processor,
        cores=here.cores,
        python=platform.python_version(),
        date=time.strftime("%Y-%m-%d"),
        seconds=round(seconds),
        commit=commit(),
        code=code_digest(bench),
        seeds=table.seeds,
        figures=tuple(table.figures),
        remarks=tuple(table.remarks),
    )


def save(record: Record, folder: Path = FOLDER) -> None:
    """Write a record over the one of the same bench."""
    path = folder / f"{record.bench.replace(':', '-')}.json"
    path.write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")


def load(folder: Path = FOLDER) -> dict[str, Record]:
    """Read all records, by bench."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {r["bench"]: _record(r) for r in records}


def _record(data: dict[str, object]) -> Record:
    figures = tuple(Figure(**figure) for figure in data["figures"])  # type: ignore[attr-defined]
    return Record(**{**data, "figures": figures, "remarks": tuple(data["remarks"])})  # type: ignore[arg-type]


def code_digest(bench: str) -> str:
    """Digest the code that a bench measures: what it imports, and where it runs the command, what a run is made of."""
    return _module_digest(f"tests.bench.{bench.partition(':')[0]}")


@functools.cache
def _module_digest(module: str) -> str:
    own = [path.read_text() for name, path in closure([module]) if name.startswith("tests.")]
    roots = [module, "compress.pipeline.run"] if any(COMMAND in text for text in own) else [module]
    return digest([(name, _file_digest(path)) for name, path in closure(roots) if name not in SHOWING])


@functools.cache
def _file_digest(path: Path) -> str:
    return source_digest(path.read_text())


def commit() -> str:
    """Return the short hash of HEAD, with ``+`` where tracked files differ from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=8", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")
