"""The source file of a bundle's engine: as it lies there, or decoded from model.packed."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deploy.bundle.manifest import Manifest
from deploy.engines import serving
from deploy.engines.base import BuildPlan
from deploy.files import sha256
from deploy.packing import packed_file
from profiles.errors import UserError


@contextlib.contextmanager
def model_file(bundle: Path, contents: Manifest, plan: BuildPlan, scratch: Path | None = None) -> Iterator[Path]:
    """Yield the source file of ``plan``; a decoded one is there until the block ends, below ``scratch``.

    Raises:
        UserError: the packed file is damaged, or decodes to another file than the manifest names.
    """
    entry = contents.decoded.get(plan.model_file)
    if entry is None:
        yield bundle / plan.model_file
        return
    packed = bundle / packed_file.FILE
    try:
        content = plan.format.decode(packed.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{bundle}: {packed_file.FILE} cannot be decoded: {error}; get the bundle again") from None
    if len(content) != entry.size_bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise UserError(
            f"{bundle}: {packed_file.FILE} decodes to another {plan.model_file} than the manifest names; "
            "get the bundle again, and if that does not help use the device side that came with it"
        )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        (Path(folder) / plan.model_file).write_bytes(content)
        yield Path(folder) / plan.model_file


def model_sha256(bundle: Path, contents: Manifest, plan: BuildPlan) -> str:
    """Return the SHA-256 of that file; of a packed one as its manifest states it, of several sizes that of all together."""
    entry = contents.decoded.get(plan.model_file)
    largest = sha256(bundle / plan.model_file) if entry is None else entry.sha256
    beside = [entry.sha256 for path, entry in sorted(contents.files.items()) if _is_served(path, plan)]
    return hashlib.sha256("".join([largest, *beside]).encode()).hexdigest() if beside else largest


def _is_served(path: str, plan: BuildPlan) -> bool:
    return path == serving.FILE or path.endswith(f"/{plan.model_file}")
