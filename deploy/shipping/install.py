"""The second half of a ship, on the device: assemble a release, build its engine, prove it, switch to it. Or roll back.

Whatever fails before the switch leaves the current release serving; the switch is one rename.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from deploy.bundle import golden as goldens
from deploy.bundle import manifest as manifests
from deploy.bundle import raw_samples
from deploy.bundle.build import build_engines
from deploy.bundle.manifest import MANIFEST, SIGNATURE, Manifest
from deploy.bundle.model_file import model_sha256
from deploy.engines import BuildPlan, Session, build_record, engine
from deploy.engines import base as engines
from deploy.engines.served import Served, open_served
from deploy.files import link_or_copy, sync_tree, write_atomically
from deploy.measure.timing import time_block
from deploy.shipping.first_start import plan_here
from deploy.shipping.receive import admit, digest_of
from deploy.shipping.releases import KEEP, Release, Slot, Store
from profiles.device import facts
from profiles.errors import UserError, one_line

LATENCY_TOLERANCE = 1.5
"""How many times the report's p50 an engine may take here, in the best of up to ``BLOCKS`` blocks.

The report's figure comes from a quiet race, a device in service may have other work; a wrong power mode, throttling or
a fallback to reference kernels costs more than this.
"""
BLOCKS, BLOCK_S = 10, 0.05


class ProofError(RuntimeError):
    """A release that did not prove itself on this device; names what it did instead."""


@final
@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Settings of an install: the device's profile, the latency it may show, the releases it keeps."""

    profile: str | None = None
    latency_tolerance: float = LATENCY_TOLERANCE
    keep: int = KEEP


def install(store: Store, raw: bytes, signature: bytes | None, expected: Expectation) -> dict[str, Any]:
    """Make the bundle whose files are here the current release of its model.

    Raises:
        UserError: the bundle may not be installed (``admit``), a file is missing or altered, or its engine cannot run.
        EngineError: the runtime refused the model.
        ProofError: the engine's outputs or its latency are not those that were proven.
        TryAgainError: another command is at work in the store.
    """
    with store.locked():
        admitted = admit(store, raw, signature)
        slot = store.slot(admitted.name)
        before = slot.current()
        release, proof = _reusable_release(slot, raw, expected) or _assemble(store, slot, admitted, raw, signature, expected)
        slot.activate(release, admitted.version, digest_of(raw), expected.keep)
        for entry in admitted.files.values():
            (store.incoming / entry.sha256).unlink(missing_ok=True)
        was = before.id if before else None
        return {"name": admitted.name, "version": admitted.version, "release": release.id, "was": was, "proof": proof}


def roll_back(store: Store, name: str | None, expected: Expectation) -> dict[str, Any]:
    """Make the release before the current one current again, after it has proven itself once more.

    Raises:
        UserError: there is none before it, or it may not serve any more (altered, key not trusted).
        EngineError, ProofError, TryAgainError: as ``install``.
    """
    with store.locked():
        slot = store.the_slot(name)
        current, back = slot.current(), slot.previous()
        if current is None or back is None:
            raise UserError(f"{slot.folder}: there is no release before {current.id if current else 'none'}")
        _, raw, signature = manifests.read(back.bundle)
        admitted = admit(store, raw, signature, going_back=True)
        ready = _reusable_release(slot, raw, expected)
        release, proof = ready or _assemble(store, slot, admitted, raw, signature, expected)
        slot.go_back(back, release)
        return {"name": slot.name, "version": admitted.version, "release": release.id, "was": current.id, "proof": proof}


def prove(release: Release, expected: Expectation) -> dict[str, Any]:
    """Open a release's engine, run its golden samples and time it.

    Raises:
        EngineError: the runtime refused the engine.
        ProofError: it gave other outputs, or took too long.
    """
    plan = engines.load_plan(release.engine)
    served = open_served(release.engine, plan)
    try:
        check = goldens.check(served, release.bundle / "golden.npz")
    except ValueError as error:
        raise ProofError(f"golden samples: {error}") from None
    wrong = goldens.faults(check, plan.precision)
    if wrong:
        raise ProofError("; ".join(wrong))
    raw = prove_raw(served, release.bundle, plan.precision)
    reference_ms = _reference_ms(release.bundle, expected.profile)
    p50_ms = _measure_p50(served.session, reference_ms, expected.latency_tolerance)
    return {
        "engine": plan.engine,
        "precision": plan.precision,
        "runtime_version": plan.version,
        "golden": check.as_json(),
        "raw": raw,
        "p50_ms": p50_ms,
        "reference_ms": reference_ms,
    }


def prove_raw(session: Session | Served, bundle: Path, precision: str) -> dict[str, Any]:
    """Run a bundle's raw samples to answers; return how many, or why not one.

    Raises:
        ProofError: an input, an output or an answer is another than the golden one.
    """
    if why_not := raw_samples.unproven(bundle):
        return {"samples": 0, "why_not": why_not}
    try:
        return {"samples": raw_samples.check(session, bundle, precision), "why_not": ""}
    except (UserError, ValueError) as error:
        raise ProofError(f"from raw samples to answers: {one_line(str(error), 300)}") from None


def serve_check(store: Store, name: str | None) -> list[dict[str, Any]]:
    """Open what is current, check its files and run its golden samples, for one model or all.

    Raises:
        UserError: nothing is served, or a file was altered, or its runtime is not the one the engine was built by.
        EngineError, ProofError: as ``prove``.
    """
    slots = [store.the_slot(name)] if name is not None else store.slots()
    if not slots:
        raise UserError(f"{store.root}: no model is served here")
    return [_check_slot(slot) for slot in slots]


def status(store: Store) -> dict[str, Any]:
    """Describe every served model: since when, its releases, and its proof."""
    try:
        keys, faults = sorted(store.keys()), []
    except (UserError, OSError) as error:
        keys, faults = [], [one_line(str(error))]
    faults += [f"{slot.folder}: {fault}" for slot in store.empty_slots() for fault in slot.faults()]
    return {
        "root": str(store.root),
        "models": [_slot_status(slot) for slot in store.slots()],
        "keys": keys,
        "faults": faults,
        "free_bytes": store.free_bytes() if store.root.is_dir() else None,
    }


def _check_slot(slot: Slot) -> dict[str, Any]:
    release = slot.current()
    assert release is not None, "slots have a current release"
    manifests.check_files(release.bundle, release.manifest())
    misfits = engine_mismatches(release)
    if misfits:
        raise UserError(*[f"{slot.name}: {fact}: ship the bundle again, its engine is built anew" for fact in misfits])
    return {"name": slot.name, "version": release.manifest().version, **prove(release, Expectation())}


def _slot_status(slot: Slot) -> dict[str, Any]:
    release, back, faults = slot.current(), slot.previous(), slot.faults()
    assert release is not None, "slots have a current release"
    description: dict[str, Any] = {"name": slot.name, "release": release.id, "previous": back.id if back else None}
    description["releases"] = [other.id for other in slot.all()]
    try:
        contents = release.manifest()
        description |= {"version": contents.version, "created": contents.created}
        description |= {"expires": contents.expires, "key": contents.key}
        description |= {"since": int((slot.folder / "current").lstat().st_mtime), "proof": release.proof()}
    except (UserError, OSError, ValueError, RecursionError) as error:
        description["version"] = None
        faults = [f"its files are damaged: {one_line(str(error))}", *faults]
    return {**description, "fault": "; ".join(faults) or None}


def _reusable_release(slot: Slot, raw: bytes, expected: Expectation) -> tuple[Release, dict[str, Any]] | None:
    """Return a whole release of this very bundle, built by this runtime, that proves itself; else None."""
    for release in reversed(slot.all()):
        try:
            contents, present, _ = manifests.read(release.bundle)
            if present != raw or engine_mismatches(release):
                continue
            manifests.check_files(release.bundle, contents)
            return release, prove(release, expected)
        except (UserError, OSError, ValueError, engines.EngineError, ProofError):
            continue
    return None


def _assemble(
    store: Store, slot: Slot, contents: Manifest, raw: bytes, signature: bytes | None, expected: Expectation
) -> tuple[Release, dict[str, Any]]:
    """Make a new release of the bundle beside the others: whole, synced and proven."""
    with _part(slot, f"{contents.version}-{digest_of(raw)[:12]}") as part:
        _lay_out(store, part.bundle, contents, raw, signature)
        seconds = _build(part)
        proof = {**prove(part, expected), "build_seconds": seconds, "at": int(time.time())}
        write_atomically(part.folder / "proof.json", json.dumps(proof, indent=1, sort_keys=True).encode())
        sync_tree(part.folder)
        return slot.finish(part.folder), proof


@contextmanager
def _part(slot: Slot, release_id: str) -> Iterator[Release]:
    part = Release(slot.fresh_part(release_id))
    try:
        yield part
    finally:
        shutil.rmtree(part.folder, ignore_errors=True)


def _lay_out(store: Store, bundle: Path, contents: Manifest, raw: bytes, signature: bytes | None) -> None:
    """Put the bundle's files in place, from incoming files and other releases; each is read and checked."""
    held = store.held({entry.sha256 for entry in contents.files.values()})
    gone = [path for path, entry in contents.files.items() if entry.sha256 not in held]
    if gone:
        raise UserError(f"bundle {contents.name} {contents.version}: {', '.join(sorted(gone))} did not come; ship it again")
    for path, entry in contents.files.items():
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(held[entry.sha256], bundle / path)
        (bundle / path).chmod(0o444)
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / SIGNATURE).write_bytes(signature or b"")
    manifests.check_files(bundle, contents)


def _build(release: Release) -> float:
    """Build the engine of a release with this machine's runtime; return seconds."""
    plan = plan_here(release.bundle)
    started = time.perf_counter()
    release.engine.mkdir()
    build_engines(release.bundle, release.manifest(), plan, release.engine, release.folder)
    engines.save_plan(release.engine, plan)
    build_record.save(release.engine, _record(release, plan))
    return time.perf_counter() - started


def engine_mismatches(release: Release) -> tuple[str, ...]:
    """Return the changed inputs of a release's engine: the runtime's version, the GPU, the power mode."""
    built = build_record.load(release.engine)
    if built is None:
        return ("it is not known what its engine was built for",)
    return build_record.mismatches(built, _record(release, plan_here(release.bundle)))


def _record(release: Release, plan: BuildPlan) -> dict[str, Any]:
    digest = model_sha256(release.bundle, release.manifest(), plan)
    return build_record.record_from_sha256(digest, plan, engine(plan.engine).machine())


def _measure_p50(session: Session, reference_ms: float | None, tolerance: float) -> float:
    """Return median milliseconds of one block, or of the quietest of a few while it is over the limit.

    Raises:
        ProofError: every block took longer.
    """
    most_ms = tolerance * reference_ms if reference_ms and tolerance > 0 else float("inf")
    medians_ms: list[float] = []
    while len(medians_ms) < BLOCKS:
        medians_ms.append(statistics.median(time_block(session, BLOCK_S).called))
        if medians_ms[-1] <= most_ms:
            return medians_ms[-1]
    raise ProofError(
        f"p50 is {min(medians_ms):.3f} ms; the report has {reference_ms:.3f} ms, and {tolerance:g} times that is allowed"
    )


def _reference_ms(bundle: Path, profile: str | None) -> float | None:
    """Return the bundle's reported p50 if it was measured on a device like this one; else None.

    Alike: the same profile, processor and number of cores.
    """
    try:
        report = json.loads((bundle / "report.json").read_text())
        proven = json.loads((bundle / "profile.json").read_text())
        there, here = report.get("environment", {}).get("device", {}), asdict(facts())
        if profile != proven["name"] or any(there.get(key) != here[key] for key in ("processor", "cores")):
            return None
        best = report["verdict"]["best"]
        p50_ms = next((row["latency_ms"]["p50"] for row in report["rows"] if row["name"] == best), None)
        if p50_ms is not None and report.get("folded"):  # what ships does more than the row that was timed
            p50_ms = max(float(p50_ms), float(report["folded"]["after"]["engine"]["p50"]))
        return None if p50_ms is None else float(p50_ms)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ProofError(f"report.json or profile.json of the bundle cannot be read ({type(error).__name__})") from None
