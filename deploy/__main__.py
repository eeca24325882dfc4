"""The board's own door: ``python -m deploy worker | facts``."""

from __future__ import annotations

import json
import sys

from deploy.worker import Worker, serve


def main(arguments: list[str]) -> int:
    """Run one of the device side's commands; returns the exit code."""
    if arguments == ["worker"]:
        serve()
        return 0
    if arguments == ["facts"]:
        print(json.dumps(Worker().facts(), indent=1))
        return 0
    print("usage: python -m deploy worker | facts", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
