"""Converters of others: run in a process of their own, within bounds of time, with their last words. Host only.

In a process of their own since some end the process on what they cannot read, print as they like, or import much.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.engines.base import EngineError

MOST_WORDS = 300
"""Characters of a converter's last line that are told."""


def run_converter(
    name: str,
    command: Sequence[str],
    folder: Path,
    made: Sequence[str],
    *,
    longest_s: float,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a converter in ``folder`` until the files ``made`` are there.

    Args:
        name: of the converter, for messages.
        environment: of the process; this one's where it is None.

    Raises:
        EngineError: it failed, or wrote no file, or was not done in time; carries its last words.

    Example:
        >>> import sys
        >>> run_converter("touch", [sys.executable, "-c", "open('made', 'w')"], Path("/tmp"), ["made"], longest_s=60)
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=longest_s,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{name} was not done with the model after {longest_s:.0f} s") from None
    if done.returncode != 0 or not all((folder / file).exists() for file in made):
        words = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        last = words[-1][:MOST_WORDS] if words else "it said nothing"
        raise EngineError(f"{name} cannot convert the model (exit {done.returncode}): {last}")
