"""Command line of the device side: ``python -m deploy COMMAND``, one of ``COMMANDS``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from profiles.tables import load_object


def worker(arguments: list[str]) -> int:
    """Answer requests on standard input until it ends (deploy/worker/server.py)."""
    from deploy.worker.server import serve

    serve()
    return 0


def facts(arguments: list[str]) -> int:
    """Print this machine's facts, and the engines that can run on it, as JSON."""
    from deploy.worker.server import Worker

    print(json.dumps(Worker().facts(), indent=1))
    return 0


COMMANDS = {
    "worker": "deploy.__main__:worker",
    "facts": "deploy.__main__:facts",
    "prepare": "deploy.shipping.first_start:prepare",
    "fits": "deploy.shipping.first_start:fits",
    "detect": "deploy.shipping.detect:detect",
    "verify": "deploy.shipping.commands:verify",
    "serve-check": "deploy.shipping.commands:serve_check",
    "store": "deploy.shipping.commands:store",
}


def main(arguments: list[str]) -> int:
    """Run one of the device side's commands; return the exit code."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python -m deploy {' | '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command: Callable[[list[str]], int] = load_object(COMMANDS[arguments[0]])
    return command(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
