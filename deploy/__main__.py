"""The board's own door: ``python -m deploy worker | facts | prepare | fits``."""

from __future__ import annotations

import json
import sys

from deploy.first_start import fits, prepare
from deploy.worker import Worker, serve


def main(arguments: list[str]) -> int:
    """Run one of the device side's commands; returns the exit code."""
    if arguments == ["worker"]:
        serve()
        return 0
    if arguments == ["facts"]:
        print(json.dumps(Worker().facts(), indent=1))
        return 0
    if arguments[:1] == ["prepare"]:
        return prepare(arguments[1:])
    if arguments[:1] == ["fits"]:
        return fits(arguments[1:])
    print("usage: python -m deploy worker | facts | prepare | fits", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
