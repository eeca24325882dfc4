"""Images and what a model is to make of them: folders of pairs, or images whose inputs are made worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.data.base import Splits, assign_splits
from compress.data.box_samples import PARTS, first_faults
from compress.data.box_transforms import USUAL
from compress.data.decoding import SUFFIXES
from compress.data.options import Seed, Sides, as_sides, checked_options
from compress.data.paired_files import PairFinder, files_below
from compress.data.patches import DegradedImages, FilePairs, PairStore, PatchPreprocessing, PatchSamples
from compress.data.transforms import make_normalise
from profiles.errors import UserError

INPUTS = ("inputs", "input", "low", "lr", "noisy", "images", "rgb")
TARGETS = ("targets", "target", "high", "hr", "clean", "depth")
"""Names that the two folders may have, of which the first that is there is taken."""


@checked_options("data: pairs")
def pairs(
    *,
    path: str | Path,
    size: Sides,
    enlarge: int = 1,
    degrade: bool = False,
    noise: float = 0.0,
    inputs: str = "",
    targets: str = "",
    input_suffix: str = "",
    target_suffix: str = "",
    step: float = 0.0,
    invalid: Sequence[float] = (),
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    mirror: bool = True,
    turn: bool = True,
) -> Splits:
    """Read patches of images, and of what a model is to make of them, as float32 (channels, height, width).

    ``path`` holds ``train/inputs`` and ``train/targets`` (the same of ``val`` and ``test``), or ``inputs/train`` and
    ``targets/train``, or the two alone, pairs by their names. With ``degrade`` it holds images, in ``train``, ``val`` and
    ``test`` or in any folders: they are the targets, and their inputs are made, ``enlarge`` times smaller and with
    ``noise``; that of validation and test is the same each time. What is missing is held out as
    ``compress.data.base.assign_splits`` says. Training sees patches from anywhere, the rest the middle of each image.

    Args:
        size: height and width of an input patch, or one number for both.
        enlarge: how many times an input's sides its target has.
        noise: standard deviation, in steps of 255.
        step: targets are numbers (depth, heat), grey of 8 or 16 bits or .npy, and a stored step is worth this; 0 for
            images, whose white is 1.
        invalid: stored numbers that stand for no value, such as 0 of a depth camera.

    Raises:
        UserError: folders or pairs that are missing, or an option that is not possible; all of them.

    Example: ``{ use = "pairs", path = "photos", degrade = true, enlarge = 2, size = 48 }`` for super-resolution.
    """
    normalise = make_normalise(mean, deviation, order, scale, usual=USUAL)
    view = PatchPreprocessing(normalise=normalise, size=as_sides(size), enlarge=enlarge, mirror=mirror, turn=turn)
    root = Path(path).expanduser()
    channels = normalise.channels
    faults: list[str] = []
    if noise < 0:
        faults.append(f"data: noise is a standard deviation in steps of 255, 0 or more; given: {noise}")
    if not degrade and noise:
        faults.append("data: noise is added to images that are made worse; say degrade = true, or leave it out")
    if degrade and (step or (enlarge == 1 and not noise)):
        words = "degrade makes images smaller (enlarge) or noisy (noise), and their targets are no numbers (step)"
        faults.append(f"data: {words}; given: enlarge = {enlarge}, noise = {noise:g}, step = {step:g}")
    notes: list[str] = []
    stores: dict[str, PairStore] = {}
    if degrade:
        names = _images(root)
        stores = {part: DegradedImages(root, found, channels, enlarge, noise) for part, found in names.items()}
        counts = {part: len(found) for part, found in names.items()}
    else:
        first, second = (inputs,) if inputs else INPUTS, (targets,) if targets else TARGETS
        kinds = (*SUFFIXES, ".npy") if step else SUFFIXES
        finder = PairFinder(root, first, second, input_suffix, target_suffix, kinds)
        listed = _listed(finder, faults)
        stores = {part: FilePairs(root, found, channels, step, invalid) for part, found in listed.items()}
        counts = {part: len(found) for part, found in listed.items()}
        notes += [f"{finder.unused} targets without an input were left out"] if finder.unused else []
    if faults:
        raise UserError(*first_faults(faults))
    chosen = assign_splits(counts, validation=validation, test=test, calibration=calibration, seed=seed)
    samples: dict[str, Any] = {name: PatchSamples(stores[part], indices, view) for name, (part, indices) in chosen.items()}
    about = dict(view.as_json()) | ({"step": step} if step else {"white": 1.0})
    return Splits(**samples, classes=(), preprocessing=about, notes=tuple(notes))


def _listed(finder: PairFinder, faults: list[str]) -> dict[str, list[tuple[str, str]]]:
    """List the pairs of each part; what is wrong is added to ``faults``."""
    try:
        listed = finder.pairs()
    except UserError as error:
        faults += error.faults
        return {}
    faults += finder.faults
    return listed


def _images(root: Path) -> Mapping[str, list[str]]:
    """List the images of each part, as names under the root."""
    if not root.is_dir():
        raise UserError(f"data: {root} is not a folder; give one that holds images")
    folders = {PARTS[name]: root / name for name in PARTS if (root / name).is_dir()}
    folders = folders if "train" in folders else {"train": root}
    found = {
        part: [str((folder / name).relative_to(root)) for name in files_below(folder)] for part, folder in folders.items()
    }
    empty = [folders[part] for part, names in found.items() if not names]
    if empty:
        raise UserError(*[f"data: {each} holds no image; known kinds: {', '.join(SUFFIXES)}" for each in empty])
    return found
