"""Recovery set of a file that ``compress condense`` wrote, for this teacher and task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from compress.methods.condensation.base import Draft, RecoverySet, SetSource
from compress.methods.condensation.stored import StoredSet, load
from deploy.files import sha256


@final
@dataclass(frozen=True, kw_only=True)
class FileSet(RecoverySet):
    """Set that is stored already.

    Attributes:
        path: of the file, relative to the recipe; refused where it was made for another teacher, task or shape.
    """

    use = "file"
    reads_labels = False

    path: str

    def __post_init__(self) -> None:
        if self.per_class is not None or self.samples is not None or self.size_mib is not None:
            raise ValueError("a file has its size; leave per_class, samples and size_mib out")

    @property
    def decided_by(self) -> dict[str, Any]:
        path = Path(self.path)
        return {"use": self.use, "file": sha256(path) if path.is_file() else None}

    def stored(self) -> StoredSet:
        """Read the file.

        Raises:
            UserError: it is none.
        """
        return load(Path(self.path))

    def make(self, source: SetSource) -> Draft:
        raise AssertionError("a file is read, not made")
