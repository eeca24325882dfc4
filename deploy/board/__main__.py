"""``python -m deploy.board agent | keep | attach | relay``: the four ends of a board's connections."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run one end of a board's connections; return the exit code."""
    what, *rest = arguments or [""]
    if what == "agent" and len(rest) == 4:
        return _agent(*rest)
    if what == "keep" and len(rest) > 5:
        return _keep(*rest)
    if what == "attach" and len(rest) == 1:
        from deploy.board.attach import attach

        return attach(Path(rest[0]))
    if what == "relay" and len(rest) > 1:
        from deploy.board.relay import Relay

        return Relay(rest[1:], float(rest[0])).run()
    sys.stderr.write(
        "usage: python -m deploy.board agent ROOT LOCK OWNER WHO | keep .. | attach FOLDER | relay SECONDS ..\n"
    )
    return 2


def _agent(root: str, lock: str, owner: str, who: str) -> int:
    from deploy.board.agent import Agent
    from deploy.board.root import ForeignRootError
    from deploy.board.wire import Wire

    responses = os.dup(1)
    os.dup2(2, 1)  # what anything prints is no answer
    try:
        agent = Agent(Path(root), Path(lock), owner, who, Wire(0, responses, None))
    except ForeignRootError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    agent.serve()
    return 0


def _keep(folder: str, lock: str, owner: str, who: str, grace_s: str, *command: str) -> int:
    from deploy.board.job import JobSupervisor
    from deploy.board.lock import Lock

    JobSupervisor(Path(folder), command, float(grace_s), Lock(Path(lock), owner, who)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
