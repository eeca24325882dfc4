"""Folders of images and masks, one mask for each image, in one of the layouts that data sets come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from compress.data.base import Indices, Splits
from compress.data.box_samples import PARTS, first_faults
from compress.data.box_transforms import make_box_preprocessing
from compress.data.decoding import SUFFIXES, UNREADABLE, Size, is_image, read_names, reason
from compress.data.fingerprints import file_digests
from compress.data.mask_samples import Labels, MaskStore, mask_splits
from compress.data.mask_values import UNKNOWN, LabelValues, Value
from compress.data.options import Seed, Sides, checked_options
from compress.data.paired_files import PairFinder
from profiles.errors import UserError

IMAGES = ("images", "imgs", "img", "img_dir", "image", "JPEGImages", "leftImg8bit")
MASKS = ("masks", "labels", "mask", "annotations", "ann_dir", "SegmentationClass", "gtFine", "gt")
"""Names that the two folders may have, of which the first that is there is taken."""

LISTS = Path("ImageSets") / "Segmentation"
"""Where Pascal VOC lists the images of each part."""

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@checked_options("data: masks")
def masks(
    *,
    path: str | Path,
    size: Sides,
    classes: Sequence[str] = (),
    values: Sequence[Value] = (),
    ignore: Sequence[Value] = (255,),
    images: str = "",
    masks: str = "",
    unlabelled: Path | None = None,
    image_suffix: str = "",
    mask_suffix: str = "",
    resize: str = "plain",
    antialias: bool = True,
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    mirror: bool = True,
    upside_down: bool = False,
    zoom: float = 0.25,
    move: float = 0.1,
    colour: float = 0.1,
) -> Splits:
    """Read images with a label for each pixel, as float32 (channels, height, width) and int64 (height, width).

    ``path`` holds ``train/images`` and ``train/masks`` (the same of ``val`` and ``test``), or ``images/train`` and
    ``masks/train``, or ``images`` and ``masks`` alone, or is laid out as Pascal VOC (``JPEGImages``,
    ``SegmentationClass`` and the lists of ``ImageSets/Segmentation``). What is missing is held out as
    ``compress.data.base.assign_splits`` says. A mask has its image's name, ``image_suffix`` replaced by ``mask_suffix``
    before the dot. The other options are those of ``compress.data.box_transforms.BoxPreprocessing``.

    Args:
        classes: names in the order of the labels; Pascal VOC's own where it is laid out so.
        values: what stands for each class in a mask, numbers or colours; without, 0, 1, 2 and so on.
        ignore: values that stand for no label: no loss, no metric.
        images, masks: names of the folders; without, the usual ones.
        unlabelled: a folder of images without masks, which are added to train for losses that ask the teacher alone.

    Raises:
        UserError: folders, masks or values that are missing or not known; all of them.

    Example: ``{ use = "masks", path = "camvid", size = [176, 240], classes = ["sky", ...], ignore = [11] }``.
    """
    view = make_box_preprocessing(
        size=size,
        mean=mean,
        deviation=deviation,
        order=order,
        scale=scale,
        resize=resize,
        antialias=antialias,
        mirror=mirror,
        upside_down=upside_down,
        zoom=zoom,
        move=move,
        colour=colour,
    )
    root = Path(path).expanduser()
    finder = PairFinder(root, (images,) if images else IMAGES, (masks,) if masks else MASKS, image_suffix, mask_suffix)
    is_voc = (root / LISTS / "train.txt").is_file()
    pairs = _listed(root, finder.faults) if is_voc else finder.pairs()
    names = tuple(classes) or (VOC_CLASSES if is_voc else ())
    key = LabelValues.of(names, values, ignore, finder.faults)
    if finder.faults or key is None:
        raise UserError(*first_faults(finder.faults))
    more = _pictures(unlabelled) if unlabelled else []
    left = f"{finder.unused} masks without an image were left out"
    return mask_splits(
        root,
        {part: [image for image, _ in found] for part, found in pairs.items()},
        {part: _Files(root, [mask for _, mask in found], key) for part, found in pairs.items()},
        view,
        classes=names,
        notes=[left] if finder.unused else [],
        validation=validation,
        test=test,
        calibration=calibration,
        seed=seed,
        unlabelled=more,
    )


def _pictures(folder: Path) -> list[str]:
    """Return the images of a folder by their whole paths.

    Raises:
        UserError: it is none, or holds no image.
    """
    found = sorted(file for file in folder.iterdir() if is_image(file.name)) if folder.is_dir() else []
    if not found:
        raise UserError(f"data: unlabelled: {folder} is no folder with images; give one, of {', '.join(SUFFIXES)}")
    return [str(file.absolute()) for file in found]


@final
class _Files(MaskStore):
    """Masks that are image files."""

    def __init__(self, root: Path, names: Sequence[str], key: LabelValues) -> None:
        self._root, self._names, self._key = root, names, key

    def read(self, index: int, sizes: Sequence[Size]) -> Labels:
        path = self._root / self._names[index]
        try:
            with Image.open(path) as picture:
                values = self._key.read(picture)
        except UNREADABLE as error:
            raise UserError(f"data: {path} cannot be read as a mask ({reason(error, path)})") from None
        labels = self._key.label(values)
        if (labels == UNKNOWN).any():
            strange = ", ".join(self._key.shown(int(each)) for each in np.unique(values[labels == UNKNOWN])[:5])
            known = ", ".join(self._key.shown(int(each)) for each in self._key.known[:12])
            more = " and so on" if len(self._key.known) > 12 else ""
            raise UserError(
                f"data: {path} has pixels of {strange}, which stand for no class; known: {known}{more}; name them in "
                "values, or in ignore"
            )
        return labels.astype(np.uint8)

    def digests(self, indices: Indices) -> list[str]:
        names = [self._names[index] for index in indices]
        known = file_digests(self._root, names)
        key = repr((self._key.known.tolist(), self._key.labels.tolist(), self._key.coloured))
        return [known[name] + key for name in names]


def _listed(root: Path, faults: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of image and mask of each part of Pascal VOC, as names under the root."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, part in PARTS.items():
        file = root / LISTS / f"{name}.txt"
        if file.is_file():
            found[part] = [(f"JPEGImages/{stem}.jpg", f"SegmentationClass/{stem}.png") for stem in read_names(file)]
    listed = [root / name for pairs in found.values() for pair in pairs for name in pair]
    faults += [f"data: {file} is in the lists of {LISTS}, and not there" for file in listed if not file.is_file()]
    return found
