"""Run benches by name (all without one), print their tables, and write docs/benchmarks.md from all records.

``--stale`` lists tables whose code has changed since (exit code 1); ``--write`` writes the page again.

A bench with ``PARTS`` has a table for each; ``int8:vit`` runs one of them.
"""

from __future__ import annotations

import importlib
import sys
import time

from tests.bench import document
from tests.bench.figure import Table
from tests.bench.record import load, measured, save

NAMES = (
    "spine",
    "search",
    "cascade",
    "latency",
    "bound_loops",
    "runtimes",
    "loader",
    "squeezenet",
    "cifar",
    "whitening",
    "detection",
    "yolo11",
    "yolo11_pruned",
    "tasks",
    "fastestdet",
    "ship",
    "check",
    "estimate",
    "int8",
    "own_int8",
    "answer",
    "select",
    "calibration",
    "sixteen_bits",
    "latency_table",
    "shares",
    "pruning",
    "recovery",
    "condensation",
    "low_rank",
    "pruning_trained",
    "pruning_detector",
    "quantised",
    "catalogue",
    "answering",
    "throughput",
)


def main(arguments: list[str]) -> int:
    if "--stale" in arguments:
        lines = document.stale(load())
        print("\n".join(lines) or "every table was measured on the code as it stands")
        return 1 if lines else 0
    if "--write" in arguments:
        document.write()
        return 0
    for name in arguments or NAMES:
        bench, _, part = name.partition(":")
        module = importlib.import_module(f"tests.bench.{bench}")
        for each in [part] if part else getattr(module, "PARTS", [""]):
            started = time.monotonic()
            table: Table = module.run(each) if each else module.run()
            record = measured(f"{bench}:{each}" if each else bench, table, time.monotonic() - started)
            print(document.section(record), flush=True)
            save(record)
            document.write()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
