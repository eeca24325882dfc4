"""compress classes: a bundle whose head is class vectors, with the vectors of other classes; proven and signed anew.

A model that gives cosines with vectors of classes (``class_vectors`` of the stage distill) learns a class by a row. The
bundle comes from elsewhere and is checked first; all of its file but the last layer stays as it is. What a report says of
accuracy is of the classes that the model was trained for.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx

from compress.execution.locks import only_writer
from compress.execution.progress import Progress, keep_telling, progress_here
from compress.pipeline.check.sides import Side, open_side, read_preprocessing
from compress.pipeline.derived_bundle import is_trusted, made_of, place_of, write_derived
from compress.pipeline.exports import PAIRS
from compress.pipeline.recalibration.opened import load_plain, read_profile
from compress.pipeline.target import ResolvedTarget, resolve, runtime_versions
from deploy.bundle import golden
from deploy.bundle import manifest as manifests
from deploy.engines import BuildPlan
from deploy.engines.inputs import as_feed, input_names
from deploy.files.npz import ArraysError, read_array
from deploy.measure.parity import parity
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.onnx_graph.run import onnx_session
from deploy.processing.whole import AFTER_FILE, read_table
from deploy.qdq.class_vectors import find_vectors, with_vectors
from deploy.qdq.strip import strip
from deploy.worker.client import RemoteWorker
from profiles.device import DeviceProfile
from profiles.errors import UserError, one_line
from profiles.quantization import QUANTIZATION, QuantizationRecipe

MOST_CLASSES = 1 << 17


@final
@dataclass(frozen=True, kw_only=True)
class NewClasses:
    """A bundle with other classes.

    Attributes:
        before, classes: names, of the old bundle and of the new one.
        cosine: of the new engine's outputs with its float graph's, on the bundle's golden inputs.
        key: that signed it; None where it is not signed.
    """

    bundle: str
    out: str
    before: tuple[str, ...]
    classes: tuple[str, ...]
    cosine: float
    version: int
    key: str | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        new = [name for name in self.classes if name not in self.before]
        gone = [name for name in self.before if name not in self.classes]
        lines = [
            f"{self.bundle}: {len(self.before)} classes before, {len(self.classes)} now; "
            f"new: {', '.join(new[:10]) or 'none'}; gone: {', '.join(gone[:10]) or 'none'}",
            f"cosine with the float graph on the golden inputs: {self.cosine:.5f}",
            *(f"note: {note}" for note in self.notes),
        ]
        signed = f"signed by key {self.key}" if self.key else f"not signed: look at it, then `compress sign {self.out}`"
        return "\n".join([*lines, f"{self.out}: version {self.version}, {signed}"])


def change_classes(
    bundle: str | Path,
    vectors: str | Path,
    names: str | Path,
    *,
    device: str = "cpu",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> NewClasses:
    """Write a bundle beside ``bundle`` whose model gives the scores of other classes.

    Args:
        bundle: its folder, or that of the run that made it; it is not changed.
        vectors: a .npy file (classes, width): the new classes' vectors, of the teacher that the old ones are of.
        names: a text file with the name of each, one a line.
        device: ``PROFILE[@URL]``, where the new engine is built and its golden outputs are made.
        out: where the new bundle goes; ``BUNDLE-classes`` without.

    Raises:
        UserError: the bundle's model has no class vectors, or the files do not fit it; all at once.

    Example:
        >>> change_classes("no-such-bundle", "vectors.npy", "names.txt")
        Traceback (most recent call last):
            ...
        profiles.errors.UserError: no-such-bundle: no such run, bundle or ONNX file
    """
    progress, target = progress or progress_here(), resolve(device)
    target.tell_warnings(progress.say)
    with keep_telling(progress), ExitStack() as stack:
        side = open_side(Path(bundle), target.profile, runtime_versions(target.device), stack)
        if side.folder is None:
            raise UserError(f"{bundle}: an ONNX file; give the bundle, which says how it is run and what its classes are")
        contents, raw, signature = manifests.read(side.folder)
        place, trusted = place_of(side.folder, out, "classes"), is_trusted(contents, raw, signature)
        rows, classes, model, profile = _read(side, Path(vectors), Path(names))
        changed = with_vectors(model, rows, _recipe(profile, side.plan))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = scratch / side.plan.model_file
        file.write_bytes(model_bytes(changed, side.plan))
        plan = replace(side.plan, version=runtime_versions(target.device)[side.plan.engine])
        arrays, cosine = _prove(side.folder, file, changed, plan, target, scratch)
        about = read_preprocessing(side.folder)
        found = NewClasses(
            bundle=str(bundle),
            out=str(place),
            before=tuple(about.get("classes", ())),
            classes=classes,
            cosine=cosine,
            version=0,
            key=None,
            notes=_notes(trusted=trusted),
        )
        extras = {PAIRS: scratch / "pairs.onnx"} if plan.format.exporter else {}
        for path in extras.values():
            onnx.save(changed, str(path))
        with only_writer(place.parent):
            written = write_derived(
                place,
                side.folder,
                contents,
                target,
                {"made_of": made_of(contents, raw), "classes": list(classes)},
                about="other classes",
                trusted=trusted,
                extras=extras,
                path_files=_after(side.folder, classes),
                preprocessing={**about, "classes": list(classes)},
                model=file,
                plan=plan,
                profile=profile,
                golden=arrays,
            )
    return replace(found, version=written.version, key=written.key)


def _read(
    side: Side, vectors: Path, names: Path
) -> tuple[npt.NDArray[Any], tuple[str, ...], onnx.ModelProto, DeviceProfile]:
    """Read the files, and the model as ONNX; all faults at once."""
    assert side.folder is not None
    faults: list[str] = []
    plan, folder = side.plan, side.folder
    rows, classes = _rows(vectors, faults), _names(names, faults)
    if rows is not None and classes and len(classes) != len(rows):
        faults.append(f"--names {names}: {len(classes)} names for {len(rows)} vectors; one a line for each")
    model = None
    path = folder / PAIRS if plan.format.exporter else side.model
    if plan.format.made_from == "program" or not path.is_file():
        words = f"{plan.model_file} is made of more than an ONNX file that the bundle holds"
        faults.append(f"{side.given}: {words}; run the recipe with the new vectors, or on ONNX Runtime or OpenVINO")
    else:
        model = load_plain(path)
        try:
            width = find_vectors(model).rows.shape[1]
            if rows is not None and rows.shape[1] != width:
                faults.append(f"--vectors {vectors}: {rows.shape[1]} wide; the model's class vectors are {width} wide")
        except ValueError as error:
            words = "`class_vectors = true` of the stage distill makes such a head"
            faults.append(f"{side.given}: its head is no class vectors: {error}; {words}")
    profile = read_profile(folder, faults)
    if faults or rows is None or model is None or profile is None:
        raise UserError(*faults)
    return rows, classes, model, profile


def _rows(path: Path, faults: list[str]) -> npt.NDArray[np.float32] | None:
    try:
        rows = np.asarray(read_array(path), np.float32)
    except (OSError, ArraysError, TypeError, ValueError) as error:
        faults.append(f"--vectors {path}: a .npy file of numbers (classes, width); given: {one_line(str(error), 100)}")
        return None
    if rows.ndim != 2 or not 1 <= len(rows) <= MOST_CLASSES or not np.isfinite(rows).all() or not rows.any(axis=1).all():
        words = "(classes, width) of finite numbers, no row all zeros"
        faults.append(f"--vectors {path}: {words}; given: shape {rows.shape}")
        return None
    return rows


def _names(path: Path, faults: list[str]) -> tuple[str, ...]:
    try:
        found = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        faults.append(f"--names {path}: a text file with a name a line; given: {one_line(str(error), 100)}")
        return ()
    if not found or len(set(found)) != len(found):
        twice = sorted({name for name in found if found.count(name) > 1})
        given = f"{one_line(', '.join(twice[:3]), 100)} twice" if twice else "none"
        faults.append(f"--names {path}: a name a line, each once; given: {given}")
    return found


def _recipe(profile: DeviceProfile, plan: BuildPlan) -> QuantizationRecipe | None:
    """Return the rules of a plan's pairs; None where it has none."""
    return QUANTIZATION[str(profile.runtime(plan.engine).quantization)] if plan.precision == "int8" else None


def _prove(
    folder: Path, file: Path, model: onnx.ModelProto, plan: BuildPlan, target: ResolvedTarget, scratch: Path
) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """Run the new engine on the golden inputs; return them with its outputs, and its cosine with its float graph.

    Raises:
        UserError: the golden samples are none, or the engine is not its graph.
    """
    try:
        inputs, _ = golden.unpack(golden.read(folder / "golden.npz"))
    except ValueError as error:
        raise UserError(f"{folder}: {one_line(str(error), 200)}; get the bundle again") from None
    with RemoteWorker(target.device) as worker:
        worker.build(file, plan, scratch / "engine")
        given = as_feed(inputs, input_names(worker.open(scratch / "engine")))
        outputs = list(worker.infer(given).values())
    expected = onnx_session(strip(model).model)(inputs)
    cosine = min(parity(a, b).cosine for a, b in zip(expected, outputs, strict=True))
    if cosine < golden.LEAST_COSINE[plan.precision]:
        least = golden.LEAST_COSINE[plan.precision]
        raise UserError(f"{folder}: the new engine's cosine with its float graph is {cosine:.5f}; {least} is needed")
    return golden.pack(given if isinstance(inputs, Mapping) else inputs, outputs), cosine


def _notes(*, trusted: bool) -> tuple[str, ...]:
    notes = ["the report's accuracy is of the classes before; samples of the new ones tell what they are worth"]
    if not trusted:
        notes.append(
            "no key of this machine signed the bundle: its files are those of its manifest, whose that is is not known"
        )
    return tuple(notes)


def _after(folder: Path, classes: Sequence[str]) -> dict[str, bytes]:
    """Return postprocessing.json with the new classes, where the bundle has one."""
    if not (folder / AFTER_FILE).is_file():
        return {}
    told = read_table(folder, AFTER_FILE)
    return {AFTER_FILE: json.dumps({**told, "classes": list(classes)}, indent=1, sort_keys=True).encode()}
