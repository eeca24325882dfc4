"""Folders that are replaced whole, so that a reader sees the old or the new one."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced_folder(folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, which takes the place of ``folder`` where the block ends without an error.

    What stood there is removed; with ``keep`` it is moved beside, to the first free of ``NAME-kept-1``, ``NAME-kept-2`` ...
    It is made in a folder of its own with a name that nobody else has, beside ``folder``, as renaming wants one disk.

    Example:
        >>> with replaced_folder(Path("/tmp/example")) as part:
        ...     (part / "a.txt").write_text("whole, or not there")
        19
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory("", f".{folder.name}-", folder.parent, ignore_cleanup_errors=True) as scratch:
        part = Path(scratch, "new")
        part.mkdir()
        yield part
        if folder.exists() or folder.is_symlink():
            folder.rename(kept_name(folder) if keep else Path(scratch, "old"))
        part.rename(folder)


def kept_name(folder: Path) -> Path:
    """Return the first free name of a folder that is kept."""
    names = (folder.with_name(f"{folder.name}-kept-{number}") for number in itertools.count(1))
    return next(name for name in names if not (name.exists() or name.is_symlink()))
