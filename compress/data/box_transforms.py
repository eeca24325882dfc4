"""Resizing of images with boxes, and augmentation of both together.

A box is [label, x1, y1, x2, y2]: corners in pixels, from the outer edge of the first to the outer edge of the last
pixel, so that its width is x2 - x1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.fingerprints import thread_pool
from compress.data.object_rows import empty_row, mirror_points, move_points
from compress.data.options import Sides, as_sides
from compress.data.transforms import Bytes, Normalise, make_normalise
from deploy.processing.resizing import FILL as FILL
from deploy.processing.resizing import RESIZE, fit, fitted
from profiles.errors import UserError

Boxes = npt.NDArray[np.float32]
"""(boxes, 5), or (samples, most, 5) with label -1 in rows that only fill up."""

USUAL = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and deviation unless given: detectors mostly take pixels from 0 to 1."""

LEAST_SIDE_PX = 1.0
"""A box not wider or not higher than this, once it is cut to its picture, is none: a click without a drag."""

LEAST_VISIBLE = 0.25
"""An augmented box of which less than this share is left in the frame is dropped."""


@final
@dataclass(frozen=True, kw_only=True)
class BoxPreprocessing:
    """Resizing, normalisation and augmentation of an image with boxes.

    Attributes:
        size: height and width of the input, in pixels.
        resize: "plain" (each side on its own) or "letterbox" (in proportion, the rest grey).
        antialias: whether shrinking averages over all pixels that fall into one; many detectors were trained on pictures
            that OpenCV shrank, which does not.
        mirror: whether half of the augmented pictures are mirrored, left to right.
        upside_down: whether half of them are turned over, top to bottom.
        zoom: augmented pictures are enlarged by a factor from 1 / (1 + zoom) to 1 + zoom.
        move: and moved by up to this share of each side.
        colour: contrast and the gain of each channel vary by up to this share.
        pairs: keypoints that change places in a mirror.

    Raises:
        UserError: any of them is not possible; all of them.
    """

    normalise: Normalise
    size: tuple[int, int]
    resize: str = "plain"
    antialias: bool = True
    mirror: bool = True
    upside_down: bool = False
    zoom: float = 0.25
    move: float = 0.1
    colour: float = 0.1
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        faults: list[str] = []
        if len(self.size) != 2 or not all(isinstance(side, int) and side > 0 for side in self.size):
            faults.append(f"data: size is the input's height and width in pixels, such as [256, 320]; given: {self.size!r}")
        if self.resize not in RESIZE:
            faults.append(f"data: resize is one of {', '.join(RESIZE)}; given: {self.resize!r}")
        if not 0 <= self.zoom <= 4:
            faults.append(f"data: zoom is from 0 (none) to 4; given: {self.zoom}")
        shares = {"move": self.move, "colour": self.colour}
        faults += [f"data: {k} is a share from 0 (none) to below 1; given: {v}" for k, v in shares.items() if not 0 <= v < 1]
        if faults:
            raise UserError(*faults)

    def fit(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return factors across and down, and offsets from left and top, from image pixels to input pixels."""
        return fit(self.size, self.resize, width, height)

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of ``Splits.preprocessing``."""
        kind = "bilinear, antialiased" if self.antialias else "bilinear"
        about: dict[str, Any] = {"use": "fitted", "size": list(self.size), "resize": self.resize, "interpolation": kind}
        if self.resize == "letterbox":
            about |= {"fill": FILL, "placed": "centre"}
        return {**about, **self.normalise.as_json()}


def make_box_preprocessing(
    *, size: Sides, mean: Sequence[float], deviation: Sequence[float], order: str, scale: float, **others: Any
) -> BoxPreprocessing:
    """Make the preprocessing from a source's options; ``others`` are its other fields."""
    normalise = make_normalise(mean, deviation, order, scale, usual=USUAL)
    return BoxPreprocessing(normalise=normalise, size=as_sides(size), **others)


def fit_image(picture: Image.Image, view: BoxPreprocessing) -> Bytes:
    """Resize an upright image to the input: uint8 (height, width, channels)."""
    return fitted(picture, view.size, view.normalise.channels, view.resize, antialias=view.antialias)


def augment_with_boxes(
    pixels: Bytes, boxes: Boxes, view: BoxPreprocessing, augment: np.random.Generator
) -> tuple[Bytes, Boxes]:
    """Zoom, move, mirror and colour images (N, H, W, C) and their rows (N, most, numbers), in place.

    Rows are boxes, with polygons or keypoints or without (``deploy.processing.detection.rows``).
    """
    count, height, width = pixels.shape[:3]
    draws = augment.random((count, 9))
    zoom = (1 + view.zoom) ** (2 * draws[:, 0] - 1)
    right, down = (view.move * (2 * draws[:, index] - 1) for index in (1, 2))
    if view.zoom or view.move:
        left, top = (width * (0.5 - zoom / 2 + right), height * (0.5 - zoom / 2 + down))
        pixels = move_images(pixels, zoom, left, top)
        move_points(boxes, zoom, left, top, (width, height))
        _move(boxes, zoom, left, top, width, height)
    if view.mirror:
        flip = draws[:, 3] < 0.5
        pixels[flip] = pixels[flip, :, ::-1]
        boxes[flip, :, 1:5:2] = np.where(boxes[flip, :, :1] >= 0, width - boxes[flip, :, 3::-2], 0)
        boxes[flip] = _mirrored(boxes[flip], width, view, across=True)
    if view.upside_down:
        flip = draws[:, 4] < 0.5
        pixels[flip] = pixels[flip, ::-1]
        boxes[flip, :, 2:5:2] = np.where(boxes[flip, :, :1] >= 0, height - boxes[flip, :, 4:1:-2], 0)
        boxes[flip] = _mirrored(boxes[flip], height, view, across=False)
    if view.colour:
        vary_colour(pixels, 1 + view.colour * (2 * draws[:, 5:] - 1))
    return pixels, boxes


def move_images(pixels: Bytes, zoom: npt.NDArray[Any], left: npt.NDArray[Any], top: npt.NDArray[Any]) -> Bytes:
    """Enlarge each picture by ``zoom``, and put its corner at ``left`` and ``top``; bilinear, grey outside."""
    result = np.empty_like(pixels)
    grey = FILL if pixels.shape[3] == 1 else (FILL,) * pixels.shape[3]

    def move(row: int) -> None:
        z, x, y = float(zoom[row]), float(left[row]), float(top[row])
        back = (1 / z, 0, -x / z, 0, 1 / z, -y / z)
        source = Image.fromarray(pixels[row, :, :, 0] if pixels.shape[3] == 1 else pixels[row])
        wide = source.transform(source.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR, fillcolor=grey)
        result[row] = np.asarray(wide).reshape(pixels.shape[1:])

    list(thread_pool().map(move, range(len(pixels))))
    return result


def _move(
    boxes: Boxes, zoom: npt.NDArray[Any], left: npt.NDArray[Any], top: npt.NDArray[Any], width: int, height: int
) -> None:
    """Move boxes with their pictures, in place, cut to the frame; what hardly shows any more is no box."""
    corners = boxes[:, :, 1:5].astype(np.float64)
    corners *= zoom[:, None, None]
    corners += np.stack([left, top, left, top], axis=1)[:, None]
    before = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
    corners[..., 0::2] = corners[..., 0::2].clip(0, width)
    corners[..., 1::2] = corners[..., 1::2].clip(0, height)
    wide, high = corners[..., 2] - corners[..., 0], corners[..., 3] - corners[..., 1]
    gone = (wide <= LEAST_SIDE_PX) | (high <= LEAST_SIDE_PX) | (wide * high < LEAST_VISIBLE * before) | (boxes[..., 0] < 0)
    boxes[..., 1:5] = corners
    boxes[gone] = empty_row(boxes.shape[2])


def _mirrored(boxes: Boxes, side: int, view: BoxPreprocessing, *, across: bool) -> Boxes:
    """Return rows whose points are mirrored; those that only fill up stay."""
    moved = boxes.copy()
    mirror_points(moved, side, across=across, pairs=view.pairs)
    return np.where(boxes[..., :1] >= 0, moved, boxes)


def vary_colour(pixels: Bytes, factors: npt.NDArray[Any]) -> None:
    """Vary contrast around the middle, then each channel's gain, in place; ``factors`` of shape (N, 4)."""
    levels = np.arange(256.0)
    for picture, (contrast, *gains) in zip(pixels, factors, strict=True):
        for channel, gain in zip(range(picture.shape[2]), gains, strict=False):
            table = (((levels - 128) * contrast + 128) * gain).clip(0, 255).round().astype(np.uint8)
            picture[:, :, channel] = table[picture[:, :, channel]]
