"""Run benches by name (all without one), print their tables, and keep them in docs/benchmarks.md.

A bench with ``PARTS`` has a table for each; ``int8:vit`` runs one of them.
"""

from __future__ import annotations

import importlib
import platform
import re
import sys
import time
from pathlib import Path

from profiles.device import facts
from tests.bench.figure import Table

NAMES = (
    "spine",
    "latency",
    "loader",
    "squeezenet",
    "cifar",
    "whitening",
    "detection",
    "fastestdet",
    "ship",
    "estimate",
    "int8",
    "answer",
    "select",
    "latency_table",
    "pruning",
    "recovery",
    "low_rank",
    "pruning_trained",
    "pruning_detector",
    "quantised",
    "catalogue",
    "answering",
    "throughput",
)
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "benchmarks.md"


def main(names: list[str]) -> int:
    for name in names or NAMES:
        bench, _, part = name.partition(":")
        module = importlib.import_module(f"tests.bench.{bench}")
        for each in [part] if part else getattr(module, "PARTS", [""]):
            started = time.monotonic()
            table: Table = module.run(each) if each else module.run()
            title = f"{bench}:{each}" if each else bench
            text = _section(title, table, time.monotonic() - started)
            print(text, flush=True)
            _keep(title, text)
    return 0


def _section(name: str, table: Table, seconds: float) -> str:
    here = facts()
    about = f"{here.processor}, {here.cores} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    return f"`python -m tests.bench {name}` ({about}; {seconds:.0f} s)\n\n{table.markdown()}"


def _keep(name: str, text: str) -> None:
    """Replace the part of the document between this bench's marks."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    document = DOCUMENT.read_text()
    block = f"{begin}\n{text}\n{end}"
    if begin in document:
        document = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: block, document, flags=re.DOTALL)
    else:
        document += f"\n{block}\n"
    DOCUMENT.write_text(document)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
