"""The board's end of an attachment: standard streams on one side, the supervisor's socket on the other."""

from __future__ import annotations

import os
import select
import socket
import sys
from pathlib import Path

from deploy.board.job import READ_BYTES, SOCKET

GONE = 3
"""Exit code: the job is not there any more."""


def attach(folder: Path) -> int:
    """Pass bytes between standard input, the job in ``folder`` and standard output until either end is gone."""
    try:
        os.chdir(folder)
        job = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        job.connect(SOCKET)
    except OSError as error:
        sys.stderr.write(f"no job in {folder}: {error.strerror}\n")
        return GONE
    with job:
        while True:
            ready, _, _ = select.select([0, job.fileno()], [], [])
            if 0 in ready:
                read = os.read(0, READ_BYTES)
                if not read:
                    return 0
                job.sendall(read)
            if job.fileno() in ready:
                read = job.recv(READ_BYTES)
                if not read:
                    return 0
                _write(read)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
