"""compress recalibrate: a bundle of int8 with new activation ranges, of new samples, proven and signed anew.

The bundle comes from elsewhere and is checked first. Scales and zero points of its Q/DQ pairs change and nothing else of its
file (``deploy.qdq.ranges``), so that what was measured of its latency stands. A bundle that this machine does not trust is
never signed by this machine's key: the new one is left unsigned.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from compress.data import Samples
from compress.data.subset import Subset
from compress.execution.locks import only_writer
from compress.execution.progress import Progress, keep_telling, progress_here
from compress.methods.quantization.calibration_checks import check_calibration
from compress.methods.quantization.observer import sample_inputs
from compress.methods.quantization.post_training import Ranges, input_shapes
from compress.pipeline.derived_bundle import place_of, write_derived
from compress.pipeline.exports import PAIRS
from compress.pipeline.given import GivenForModel, open_for_model
from compress.pipeline.recalibration.opened import OpenedBundle, open_bundle
from compress.pipeline.recalibration.proof import Proof, prove
from compress.pipeline.target import ResolvedTarget, resolve
from compress.report.recalibration_record import Recalibration, SampleFacts
from deploy.bundle.manifest import Manifest
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.onnx_graph.take_bytes import without_bytes
from deploy.packing import packed_file
from deploy.processing.detection import decode
from deploy.qdq.ranges import observed_grids, with_grids
from deploy.qdq.strip import strip
from profiles.errors import UserError, one_line

HELD_OUT = 0.2
"""Share of the samples that ranges do not see, and that the new engine is proven on."""
NOTABLE = 0.001
"""By which a cosine has fallen that is told."""
LEAST_HELD_OUT = 4
"""Where fewer would be held out, all samples serve both."""


def recalibrate(
    bundle: str | Path,
    samples: str | Path,
    *,
    device: str = "cpu",
    out: str | Path | None = None,
    ranges: Ranges = "norm",
    most_less: float = 0.5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recalibration:
    """Make new activation ranges for an int8 bundle of new samples, prove them, and write a new bundle beside it.

    Args:
        bundle: its folder, or that of the run that made it; it is not changed.
        samples: a folder of pictures, a .npz file, or a recipe, whose calibration split is taken and validation proves.
        device: ``PROFILE[@URL]``, where the old and the new engine are built and run.
        out: where the new bundle goes; ``BUNDLE-recalibrated`` without.
        ranges: how a range is chosen (``calib.ranges``).
        most_less: points that the new engine may be less accurate than the old one, where samples have labels.
        seed: of the samples that are held out.

    Raises:
        UserError: the bundle was altered, is not int8, or does not hold what it takes; the samples do not fit. All at once.

    Example:
        >>> compress.recalibrate("no-such-bundle", "site.npz")
        Traceback (most recent call last):
            ...
        profiles.errors.UserError: no-such-bundle: no such run, bundle or ONNX file
    """
    progress, target = progress or progress_here(), resolve(device)
    target.tell_warnings(progress.say)
    with keep_telling(progress), ExitStack() as stack:
        opened = open_bundle(Path(bundle), target, stack)
        place = place_of(opened.folder, out, "recalibrated")
        given = open_for_model(str(samples), opened.preprocessing, "--samples", opened.folder)
        check_calibration(given.samples, input_shapes(without_bytes(opened.pairs)))
        calibrated, held = _parts(given, seed)
        progress.say(f"ranges: {len(calibrated)} samples; proof: {len(held)}")
        try:
            grids = observed_grids(
                opened.pairs, opened.recipe, map(opened.side.engine_inputs, sample_inputs(calibrated)), ranges
            )
        except ValueError as error:
            raise UserError(f"{bundle}: {one_line(str(error), 300)}; run the recipe again") from None
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        new = _write_model(with_grids(opened.pairs, grids), opened, scratch)
        proof = prove(opened, new[opened.side.plan.model_file], held, given, target, scratch, most_less, progress)
        before = strip(opened.pairs).activations
        found = Recalibration(
            bundle=str(bundle),
            device=device,
            engine=f"{opened.side.plan.engine} {opened.side.plan.precision}",
            made_of=opened.made_of,
            samples=SampleFacts(
                kind=given.kind,
                digest=given.samples.fingerprint(),
                calibrated=len(calibrated),
                held_out=len(held),
                labelled=given.task is not None,
            ),
            ranges=ranges,
            pairs=len(grids),
            changed=sum((np.float32(grids[name][0]), grids[name][1]) != grid for name, grid in before.items()),
            wider=sum(grids[name][0] > grid[0] for name, grid in before.items()),
            cosine_before=proof.before,
            cosine_after=proof.after,
            accuracy=proof.accuracy,
            refused=tuple(proof.reasons()),
            notes=_notes(opened, proof, calibrated, held),
        )
        if found.refused:
            return found
        with only_writer(place.parent):
            written = _write(opened, found, new, proof, place, target)
    return replace(found, out=str(place), version=written.version, key=written.key)


def _parts(given: GivenForModel, seed: int) -> tuple[Samples, Samples]:
    """Return the samples that ranges are of, and those that prove: others, where there are enough."""
    if given.held_out is not None:
        return given.samples, given.held_out
    held = round(HELD_OUT * len(given.samples))
    if held < LEAST_HELD_OUT:
        return given.samples, given.samples
    order = np.random.default_rng(seed).permutation(len(given.samples))
    return Subset(given.samples, np.sort(order[held:])), Subset(given.samples, np.sort(order[:held]))


def _write_model(pairs: onnx.ModelProto, opened: OpenedBundle, scratch: Path) -> dict[str, Path]:
    """Write the new model: the engine's file by its name, and the pairs or the packed file where the bundle has one."""
    plan, made = opened.side.plan, dict[str, Path]()
    made[plan.model_file] = scratch / f"new-{plan.model_file}"
    made[plan.model_file].write_bytes(model_bytes(pairs, plan))
    if plan.format.exporter:
        made[PAIRS] = scratch / "pairs.onnx"
        onnx.save(pairs, str(made[PAIRS]))
    if opened.contents.decoded:
        content = (opened.folder / packed_file.FILE).read_bytes()
        made[packed_file.FILE] = scratch / packed_file.FILE
        made[packed_file.FILE].write_bytes(packed_file.repack(content, made[plan.model_file].read_bytes()))
    return made


def _notes(opened: OpenedBundle, proof: Proof, calibrated: Samples, held: Samples) -> tuple[str, ...]:
    notes = [f"the old engine is not the one that was proven: {reason}" for reason in proof.altered]
    if not opened.trusted:
        who = f"by key {opened.contents.key}, which is not on this machine" if opened.contents.key else "by nobody"
        notes.append(f"the bundle was signed {who}: its files are those of its manifest, and whose that is is not known")
    if proof.after < proof.before - NOTABLE:
        notes.append("outputs are farther from the float graph's than before; without labels nothing tells what that costs")
    if calibrated is held:
        notes.append(f"so few samples ({len(held)}) serve ranges and proof alike")
    if (opened.folder / decode.FILE).is_file():
        notes.append("the scores from which classes are shown (decode.json) are those of the old ranges")
    return tuple(notes)


def _write(
    opened: OpenedBundle, found: Recalibration, new: Mapping[str, Path], proof: Proof, place: Path, target: ResolvedTarget
) -> Manifest:
    """Write the new bundle, signed where the old one is trusted and there is a key."""
    plan, folder = opened.side.plan, opened.folder
    return write_derived(
        place,
        folder,
        opened.contents,
        target,
        found.lineage(),
        about="recalibrated",
        trusted=opened.trusted,
        extras={PAIRS: new[PAIRS]} if PAIRS in new else {},
        path_files={},
        model=new[plan.model_file],
        packed=new.get(packed_file.FILE),
        plan=plan,
        profile=opened.profile,
        golden=proof.golden,
        preprocessing=opened.preprocessing,
        decoding=decode.load(folder) if (folder / decode.FILE).is_file() else None,
    )
