"""A bundle that is made of another: where it goes, who signed the old one, its lineage, and how it is written.

The old one comes from elsewhere. A bundle that this machine does not trust is never signed by this machine's key: the new
one is left unsigned.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress import __version__
from compress.pipeline import signing_keys
from compress.pipeline.target import ResolvedTarget, device_facts
from compress.report.recalibration_record import FILE
from deploy.bundle import bundle as bundles
from deploy.bundle import manifest as manifests
from deploy.bundle import signing
from deploy.bundle.manifest import MANIFEST, Manifest
from profiles.errors import UserError, one_line


def place_of(folder: Path, out: str | Path | None, ending: str) -> Path:
    """Return where a bundle that is made of the one in ``folder`` goes: beside it, its name with ``ending``, or ``out``.

    Raises:
        UserError: it is the bundle itself, something else, or in no folder.
    """
    place = Path(out) if out is not None else folder.with_name(f"{folder.name}-{ending}")
    if place.exists() and place.resolve() == folder.resolve():
        raise UserError(f"--out {place}: that is the bundle itself, which stays as it is; give another folder")
    if folder.resolve() in place.resolve().parents:
        raise UserError(f"--out {place}: that is inside the bundle, which stays as it is; give another folder")
    if place.exists() and not (place / MANIFEST).is_file():
        raise UserError(f"--out {place}: it is there and no bundle; give a folder that is not there, or a bundle to replace")
    if place.exists() and (others := manifests.unlisted(place)):
        named = one_line(", ".join(others[:3]), 100)
        raise UserError(f"{place}: it has files that are not of its bundle ({named}); move them, or give another --out")
    if not place.absolute().parent.is_dir():
        raise UserError(f"--out {place}: {place.parent} is no folder; make it first")
    return place


def is_trusted(contents: Manifest, raw: bytes, signature: bytes | None) -> bool:
    """Return whether a key of this machine signed it.

    Raises:
        UserError: it says so, and it is not true.
    """
    key = signing_keys.by_id(contents.key) if contents.key else None
    if key is None:
        return False
    signing.check(contents, raw, signature, {key.id: signing.from_pem(key.pem, key.name)})
    return True


def made_of(contents: Manifest, raw: bytes) -> dict[str, Any]:
    """Return what tells the old bundle from all others, for the lineage of the new one; ``raw`` is its manifest."""
    digest = hashlib.sha256(raw).hexdigest()
    return {"name": contents.name, "version": contents.version, "key": contents.key, "manifest_sha256": digest}


def write_derived(
    place: Path,
    folder: Path,
    contents: Manifest,
    target: ResolvedTarget,
    lineage: Mapping[str, Any],
    *,
    about: str,
    trusted: bool,
    extras: Mapping[str, Path],
    path_files: Mapping[str, bytes],
    **made: Any,
) -> Manifest:
    """Write a bundle made of the one in ``folder``: its name, report and further files, and what is new.

    Args:
        lineage: what the new one tells of how it was made; that of the old one comes behind.
        about: what is new, behind the name in its title.
        trusted: whether a key of this machine signed the old one; the new one is then signed, where there is a key.
        extras, path_files: that replace those of the old one.
        made: model, plan, profile, golden samples, preprocessing and the rest, as ``deploy.bundle.bundle.write`` takes them.
    """
    key, facts, plan = signing_keys.default() if trusted else None, device_facts(target.device)[0], made["plan"]
    own = {*bundles.OWN, *path_files, plan.model_file}
    kept = {name: folder / name for name in contents.files if name not in own}
    machine = replace(contents.target, arch=facts.arch, system=facts.system.partition(" ")[0], runtime_version=plan.version)
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch, FILE)
        told.write_text(json.dumps({**lineage, "before": earlier_lineage(folder)}, indent=1, sort_keys=True))
        return bundles.write(
            place,
            name=contents.name,
            title=f"{contents.name}, {about}",
            report=(folder / "report.json").read_bytes(),
            target=machine,
            versions={**contents.versions, "edge-compress": __version__},
            extras={**kept, **extras, FILE: told},
            path_files=path_files,
            signer=signing_keys.signer(key) if key else None,
            newer_than=contents.version,
            **made,
        )


def earlier_lineage(folder: Path) -> list[object]:
    """Return the lineage of the bundle itself, the last recalibration first; empty of one that a run made."""
    if not (folder / FILE).is_file():
        return []
    try:
        told = json.loads((folder / FILE).read_text())
        return [{key: value for key, value in told.items() if key != "before"}, *told["before"]]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder}: {FILE} is no lineage ({type(error).__name__}); get the bundle again") from None
