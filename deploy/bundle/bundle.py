"""A bundle: one folder with a model, how to build and run it, and samples that prove it. Needs no PyTorch.

    model.onnx          what every engine is built from; in its place, where weights have few values:
    model.packed        the same file with its weights as indices (deploy/packing), decoded to it byte for byte
    plan.json           the engine, precision and options that were proven
    golden.npz          inputs, and the outputs that the proven engine gave
    preprocessing.json  what was done to a sample before the model saw it
    profile.json        the device it was proven on
    report.json         what was measured
    decode.json         of a detector: how its outputs become boxes (deploy/processing/detection)
    decode.md           of a detector: the lines that do so
    priors.npy          where its reader needs them
    postprocessing.json what is made of the outputs (deploy/processing/postprocessing); what is done before them is named by
                        the ``use`` of preprocessing.json (deploy/processing/preprocessing)
    raw.npz             the first golden samples as an application has them: files, texts
    answers.json        the answers to their golden outputs
    serving.json        where it has several sizes or states: which size a sample goes to, what is fed back
    size-64/model.onnx  of a smaller size, with the same weights
    calibration/        of int8 in an engine's own format: the ONNX file with pairs that it was made of, for new ranges
    lineage.json        of a recalibrated bundle: which bundle and which samples it was made of
    README.md           how to run it without this product
    manifest.json       version, target, size and SHA-256 of each file (deploy/bundle/manifest.py)
    manifest.sig        Ed25519 over manifest.json, once it is signed

What else belongs to a model (a calibration or timing cache) is added as ``extras``. Nothing in a bundle is code or names
any: a device builds the engine from the model file and the plan, without a factory, with numpy and the runtime alone.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.bundle import golden as goldens
from deploy.bundle import manifest as manifests
from deploy.bundle import readme
from deploy.bundle import target as targets
from deploy.bundle.build import build_engines
from deploy.bundle.golden import GoldenCheck
from deploy.bundle.manifest import MANIFEST, SIGNATURE, FileEntry, Manifest, Target
from deploy.engines import BuildPlan, engine, serving
from deploy.engines.served import Served, open_served
from deploy.engines.serving import NOTHING, Serving
from deploy.files import UnsafeNameError, sha256, write_atomically
from deploy.files.folders import replaced_folder
from deploy.packing import packed_file
from deploy.processing import whole
from deploy.processing.detection import decode, standalone
from deploy.processing.detection.decode import Decoding
from deploy.processing.raws import ANSWERS_FILE, RAW_FILE, Raw, fitting
from deploy.processing.summaries import summary
from profiles.device import DeviceProfile
from profiles.errors import UserError

OWN = (
    *("plan.json", "golden.npz", "preprocessing.json", "profile.json", "report.json", "README.md"),
    *(packed_file.FILE, decode.FILE, "decode.md", decode.PRIORS, RAW_FILE, ANSWERS_FILE),
)
"""Files that ``write`` makes of what it is given, beside the model's own."""


@final
@dataclass(frozen=True, kw_only=True)
class Signer:
    """A signing key: its id, and the function that returns signatures of 64 bytes."""

    key: str
    sign: Callable[[bytes], bytes]


def write(
    folder: Path,
    *,
    title: str,
    model: Path,
    plan: BuildPlan,
    profile: DeviceProfile,
    golden: dict[str, npt.NDArray[Any]],
    report: bytes,
    name: str = "model",
    preprocessing: Mapping[str, Any] | None = None,
    target: Target | None = None,
    versions: Mapping[str, str] | None = None,
    extras: Mapping[str, Path] | None = None,
    packed: Path | None = None,
    signer: Signer | None = None,
    decoding: Decoding | None = None,
    path_files: Mapping[str, bytes] | None = None,
    raws: Sequence[Raw] = (),
    served: Serving = NOTHING,
    smaller: Mapping[int, Path] | None = None,
    newer_than: int = 0,
) -> Manifest:
    """Replace ``folder`` by a bundle; it is there whole or not at all. What holds files of others is kept beside it.

    A bundle with the same content as the one it replaces keeps that one's version and dates, and its signature where
    no ``signer`` gives another.

    Args:
        name: of the model; a device keeps one line of releases for each name.
        target: the machine it was proven on; this one by default.
        versions: what made it, by package.
        extras: further files by their path in the bundle.
        packed: the model as a packed file, which then is in the bundle in its place.
        decoding: how a detector's outputs are read.
        path_files: what describes the processing around the model beside ``preprocessing``.
        raws: the first golden samples as an application has them.
        served: how samples reach the engines.
        smaller: the models of the smaller sizes.
        newer_than: a version of the same name that the new one has to follow.

    Raises:
        ValueError: ``packed`` does not decode to ``model``.
    """
    with replaced_folder(folder, keep=bool(manifests.unlisted(folder))) as part:
        decoded = _copy_model(part, model, plan, packed)
        (part / "plan.json").write_text(json.dumps(plan.as_json(), indent=1, sort_keys=True))
        (part / "profile.json").write_text(json.dumps(profile.as_json(), indent=1, sort_keys=True))
        (part / "report.json").write_bytes(report)
        (part / "preprocessing.json").write_text(json.dumps(dict(preprocessing or {}), indent=1, sort_keys=True))
        raw, _ = fitting(raws)
        (part / "golden.npz").write_bytes(goldens.fitting(golden, goldens.MOST_BYTES - len(raw)))
        for described, content in (path_files or {}).items():
            (part / described).write_bytes(content)
        serving.save(part, served)
        for size, file in (smaller or {}).items():
            (part / serving.part(size)).mkdir()
            shutil.copyfile(file, part / serving.part(size) / plan.model_file)
        if decoding is not None:
            _write_decoding(part, decoding)
        if raws:
            _write_raws(part, raws)
        around = readme.around_text(part) if raws else ""
        about = around + (readme.READ if decoding else "") + readme.serving_text(served)
        (part / "README.md").write_text(readme.text(title, plan, profile, decoded) + about)
        check_extras(extras or {})
        for path, source in (extras or {}).items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, part / path)
        draft = Manifest(
            name=name,
            version=1,
            created="",
            target=target or targets.here(plan),
            files=manifests.entries(part),
            versions=dict(versions or {}),
            decoded=decoded,
        )
        written = _release(draft, folder, newer_than)
        if signer is None and written.key is not None:
            shutil.copyfile(folder / MANIFEST, part / MANIFEST)
            shutil.copyfile(folder / SIGNATURE, part / SIGNATURE)
        else:
            written = _write_manifest(part, written, signer)
    return written


def _write_decoding(part: Path, decoding: Decoding) -> None:
    (part / decode.FILE).write_text(json.dumps(decoding.as_json(), indent=1, sort_keys=True))
    (part / "decode.md").write_text(standalone.text(decoding.head))
    if decoding.facts.priors is not None:
        np.save(part / decode.PRIORS, decoding.facts.priors)


def _write_raws(part: Path, raws: Sequence[Raw]) -> None:
    """Write as many raw samples as there are golden ones and fit, and the answers to their golden outputs."""
    _, outputs = goldens.unpack(goldens.read(part / "golden.npz"))
    content, count = fitting(raws[: len(outputs[0])])
    if not count:
        return
    processing = whole.load(part)
    prepared = [processing.prepare(raw) for raw in raws[:count]]
    answers = [processing.answer([out[n : n + 1] for out in outputs], each) for n, each in enumerate(prepared)]
    (part / RAW_FILE).write_bytes(content)
    (part / ANSWERS_FILE).write_text(json.dumps([summary(answer) for answer in answers], indent=1))


def check_extras(extras: Mapping[str, Path]) -> None:
    """Check the paths of a bundle's further files.

    Raises:
        UnsafeNameError: one cannot be in a bundle.
    """
    for path in extras:
        if not manifests.is_path(path):
            raise UnsafeNameError(f"{ascii(path)[:80]} is no name for a file of a bundle")


def sign(folder: Path, signer: Signer, *, version: int | None = None, expires_in: timedelta | None = None) -> Manifest:
    """Sign the bundle in ``folder``, after a check of its files; interrupted, it is left unsigned.

    Raises:
        UserError: it is no bundle, its files are not those of its manifest, or ``version`` is none.
    """
    contents, _, _ = manifests.read(folder)
    manifests.check_files(folder, contents)
    if version is not None:
        contents = replace(contents, version=version)
    if expires_in is not None:
        contents = replace(contents, expires=manifests.as_text(datetime.now(timezone.utc) + expires_in))
    manifests.parse(contents.canonical(), str(folder))
    (folder / SIGNATURE).unlink(missing_ok=True)
    return _write_manifest(folder, contents, signer)


def verify(folder: Path) -> GoldenCheck:
    """Check every file of a bundle, build its engine here and run its golden samples. The signature is not checked.

    Raises:
        UserError: a file is missing, altered, not in the manifest or decodes to another than that names; or the engine
            cannot run here.
        EngineError: the runtime refused the model.
        ValueError: the engine's outputs cannot be compared with the golden ones.
    """
    with opened(folder) as served:
        return goldens.check(served, folder / "golden.npz")


@contextmanager
def opened(folder: str | os.PathLike[str]) -> Iterator[Served]:
    """Check every file of a bundle, build its engines here and open them. The signature is not checked.

    Raises:
        UserError: as ``verify``.
        EngineError: the runtime refused the model.
    """
    folder = Path(folder)
    contents, _, _ = manifests.read(folder)
    manifests.check_files(folder, contents)
    plan = load_plan(folder)
    runtime = engine(plan.engine)
    able = runtime.affinity()
    if able.score < 0:
        raise UserError(f"{folder}: its engine {plan.engine} cannot run here: {able.reason}")
    with tempfile.TemporaryDirectory() as scratch:
        build_engines(folder, contents, plan, Path(scratch))
        yield open_served(Path(scratch), plan)


def load_plan(folder: Path) -> BuildPlan:
    """Read the plan of the engine that a bundle was proven with.

    Raises:
        UserError: plan.json is no plan.
    """
    try:
        return BuildPlan.from_json(json.loads((folder / "plan.json").read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: plan.json is no plan ({type(error).__name__}); get the bundle again") from None


def _release(draft: Manifest, folder: Path, newer_than: int) -> Manifest:
    """Return ``draft`` with version and dates, and the key of the bundle in ``folder`` where the content is the same."""
    now = max(int(time.time()), newer_than + 1)
    previous = _previous_manifest(folder)
    if previous is not None and previous.name == draft.name:
        unchanged = replace(
            draft, version=previous.version, created=previous.created, expires=previous.expires, key=previous.key
        )
        if unchanged == previous:
            return unchanged
        now = max(now, previous.version + 1)
    return replace(draft, version=now, created=manifests.as_text(datetime.now(timezone.utc)))


def _previous_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of the bundle in ``folder``; None where there is none, or half of one."""
    try:
        contents, _, signature = manifests.read(folder)
    except UserError:
        return None
    return contents if (signature is None) == (contents.key is None) else None


def _write_manifest(folder: Path, draft: Manifest, signer: Signer | None) -> Manifest:
    """Write the manifest and, after it, its signature."""
    keyed = replace(draft, key=signer.key if signer else None)
    write_atomically(folder / MANIFEST, keyed.canonical())
    if signer is not None:
        write_atomically(folder / SIGNATURE, signer.sign(keyed.canonical()))
    return keyed


def _copy_model(part: Path, model: Path, plan: BuildPlan, packed: Path | None) -> dict[str, FileEntry]:
    """Copy the model, or the packed file; return the entries of decoded files."""
    if packed is None:
        shutil.copyfile(model, part / plan.model_file)
        return {}
    if plan.format.decode(packed.read_bytes()) != model.read_bytes():
        raise ValueError(f"{packed} does not decode to {model}")
    shutil.copyfile(packed, part / packed_file.FILE)
    return {plan.model_file: FileEntry(size_bytes=model.stat().st_size, sha256=sha256(model))}
