"""Image transforms without torchvision: numpy for batches in memory, Pillow for single images.

N = samples, C = channels, H and W = height and width. What is random comes from the generator alone, and is drawn for
the whole batch before a picture is opened, so that neither its size nor the order of threads changes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.options import Sides, as_sides
from profiles.errors import UserError

Bytes = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of red, green and blue (or of grey), white being 1."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

ORDERS = ("rgb", "bgr")
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
"""How images are resized; all but the last average over what they shrink."""
ATTEMPTS = 10
LEAST_RATIO, MOST_RATIO = 3 / 4, 4 / 3


@final
@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Normalisation of bytes: (byte * scale / 255 - mean) / deviation, channel by channel.

    Attributes:
        mean, deviation: a value for each of the model's channels, 3 or 1 for grey, in their order; white is ``scale``.
        order: of the model's channels, "rgb" or "bgr"; images are held as rgb.
        scale: what white is before the mean is taken off: 1, or 255 for models of Caffe's kind.

    Raises:
        UserError: any of them is not of that kind.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    order: str = "rgb"
    scale: float = 1.0

    def __post_init__(self) -> None:
        faults: list[str] = []
        if len(self.mean) != len(self.deviation) or len(self.mean) not in (1, 3):
            given = f"{len(self.mean)} and {len(self.deviation)}"
            faults.append(f"data: mean and deviation have a value for each channel, 3 or 1 for grey; given: {given} values")
        if not all(math.isfinite(value) for value in self.mean):
            faults.append(f"data: mean is made of finite numbers; given: {list(self.mean)}")
        elif any(value > self.scale for value in self.mean) and self.scale > 0:
            words = f"mean is at most what white is, {self.scale:g} (scale); for means up to 255 say scale = 255"
            faults.append(f"data: {words}; given: {list(self.mean)}")
        if not all(math.isfinite(value) and value > 0 for value in self.deviation):
            faults.append(f"data: deviation is made of numbers above 0; given: {list(self.deviation)}")
        if self.order not in ORDERS:
            faults.append(f"data: order is one of {', '.join(ORDERS)}; given: {self.order!r}")
        if not 0 < self.scale < math.inf:
            faults.append(f"data: scale is what white is, 1 or 255; given: {self.scale!r}")
        if faults:
            raise UserError(*faults)

    @property
    def channels(self) -> int:
        """Number of channels, 3 or 1."""
        return len(self.mean)

    def __call__(self, images: Bytes) -> npt.NDArray[np.float32]:
        """Float32 of the same shape (..., C, H, W)."""
        deviation = np.array(self.deviation).reshape(-1, 1, 1)
        factor = (self.scale / 255 / deviation).astype(np.float32)
        offset = (np.array(self.mean).reshape(-1, 1, 1) / deviation).astype(np.float32)
        ordered = images[..., ::-1, :, :] if self.order == "bgr" else images
        result: npt.NDArray[np.float32] = np.multiply(ordered, factor, dtype=np.float32, order="C")
        result -= offset
        return result

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of ``Splits.preprocessing``."""
        order = self.order if self.channels == 3 else "grey"
        return {"mean": list(self.mean), "deviation": list(self.deviation), "order": order, "scale": self.scale}


def make_normalise(
    mean: Sequence[float], deviation: Sequence[float], order: str, scale: float, usual: Statistics
) -> Normalise:
    """Make the normalisation from a source's options; ``usual`` replaces an empty mean or deviation."""
    step = -1 if order == "bgr" else 1
    means, deviations = (tuple(scale * value for value in values[::step]) for values in usual)
    return Normalise(mean=tuple(mean) or means, deviation=tuple(deviation) or deviations, order=order, scale=scale)


def statistics(images: Bytes) -> Statistics:
    """Compute mean and deviation of each channel of (N, C, H, W), rounded to four digits.

    A channel that never varies has the deviation of one step of its 255, so that it can be divided by.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        share = np.bincount(images[:, channel].reshape(-1), minlength=256) / images[:, channel].size
        mean = float(share @ values)
        means.append(round(mean, 4))
        deviations.append(round(max(math.sqrt(share @ (values - mean) ** 2), 1 / 255), 4))
    return tuple(means), tuple(deviations)


def random_shift(images: npt.NDArray[Any], most: int, augment: np.random.Generator, fill: float = 0) -> npt.NDArray[Any]:
    """Shift each image of (N, C, H, W) by its own offset of up to ``most`` pixels, padded with ``fill``."""
    if most == 0:
        return np.array(images)
    count, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    top, left = augment.integers(0, 2 * most + 1, (2, count))
    moved: npt.NDArray[Any] = np.ascontiguousarray(windows[np.arange(count), :, top, left])
    return moved


def random_mirror(images: npt.NDArray[Any], augment: np.random.Generator) -> None:
    """Mirror half of the images of (N, C, H, W) left to right, in place."""
    flip = augment.random(len(images)) < 0.5
    images[flip] = images[flip, :, :, ::-1]


def apply_self_mix(images: npt.NDArray[Any], share: float, augment: np.random.Generator) -> npt.NDArray[Any]:
    """Copy a region onto another within each image, in a ``share`` of the images of (N, C, H, W).

    FerKD's SelfMix (Shen 2023, paper 58): unlike CutMix it brings in no other class, so a label stays true. A region is a
    quarter to a half of the image a side.
    """
    mixed: npt.NDArray[Any] = images.copy()
    height, width = images.shape[2:]
    chosen, sizes, places = augment.random(len(images)), augment.random((len(images), 2)), augment.random((len(images), 4))
    for index in np.flatnonzero(chosen < share):
        h, w = (max(1, int(n * (0.25 + 0.25 * r))) for n, r in zip((height, width), sizes[index], strict=True))
        y0, y1 = (int(r * (height - h + 1)) for r in places[index, :2])
        x0, x1 = (int(r * (width - w + 1)) for r in places[index, 2:])
        mixed[index, :, y0 : y0 + h, x0 : x0 + w] = images[index, :, y1 : y1 + h, x1 : x1 + w]
    return mixed


def apply_cut_mix(images: npt.NDArray[Any], share: float, augment: np.random.Generator) -> npt.NDArray[Any]:
    """Replace a region by another image's, in a ``share`` of the images of (N, C, H, W).

    CutMix (Yun et al. 2019, equation 2): the region has the image's ratio, its area is uniform from nothing to all, its
    middle is anywhere, and what lies outside of the image is cut off. Which classes are seen only a teacher can tell.
    """
    mixed: npt.NDArray[Any] = images.copy()
    count, _, height, width = images.shape
    others, chosen, places = augment.permutation(count), augment.random(count), augment.random((count, 3))
    for index in np.flatnonzero(chosen < share):
        area, down, across = places[index]
        top, bottom = _span(height, area, down)
        left, right = _span(width, area, across)
        mixed[index, :, top:bottom, left:right] = images[others[index], :, top:bottom, left:right]
    return mixed


def _span(size: int, area: float, middle: float) -> tuple[int, int]:
    """From where to where a region of an ``area`` reaches along a side of ``size``, its middle a share of it."""
    half = int(size * math.sqrt(area)) // 2
    return max(0, int(middle * size) - half), min(size, int(middle * size) + half)


def random_draws(count: int, augment: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw the random numbers of ``random_box`` for ``count`` images: (N, attempts, 4), in [0, 1)."""
    return augment.random((count, ATTEMPTS, 4))


def random_box(width: int, height: int, least_area: float, draws: npt.NDArray[np.float64], aspect: float = 1.0) -> Box:
    """Choose the crop of GoogLeNet's training (Szegedy et al. 2015, section 6).

    An area of ``least_area`` to all of the image and a ratio of 3:4 to 4:3, the first of the attempts in ``draws``
    (attempts, 4) that fits; where none does, the largest crop in the middle whose ratio is within those bounds.

    Args:
        aspect: width over height of the input, by which the bounds of the ratio are multiplied.
    """
    least, most = LEAST_RATIO * aspect, MOST_RATIO * aspect
    for area, ratio, across, down in draws:
        pixels = width * height * (least_area + (1 - least_area) * area)
        shape = least * (most / least) ** ratio
        wide, high = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(across * (width - wide + 1)), int(down * (height - high + 1))
            return (left, top, left + wide, top + high)
    wide, high = max(1, min(width, round(height * most))), max(1, min(height, round(width / least)))
    left, top = (width - wide) // 2, (height - high) // 2
    return (left, top, left + wide, top + high)


def centre_box(width: int, height: int, size: Sides, short_side: int) -> Box:
    """Return the part of an image that is left when it is resized and ``size`` is cut from its middle.

    The image is resized in proportion until it covers ``size``, enlarged so that its shorter side is ``short_side``. The
    part is in pixels of the image: resizing it is resizing and then cropping, in one pass, to the pixel.
    """
    rows, columns = as_sides(size)
    enlarged = short_side / min(rows, columns)
    if width * rows <= height * columns:  # the width is what just covers
        wide = round(columns * enlarged)
        high = int(wide * height / width)
    else:
        high = round(rows * enlarged)
        wide = int(high * width / height)
    left, top = round((wide - columns) / 2), round((high - rows) / 2)
    across, down = width / wide, height / high
    return (left * across, top * down, (left + columns) * across, (top + rows) * down)


def resize_crop(image: Image.Image, size: Sides, box: Box, interpolation: str = "bilinear") -> Image.Image:
    """Resize the box of an image to ``size``, height and width, by one of ``INTERPOLATIONS``; antialiased."""
    return image.resize(as_sides(size)[::-1], INTERPOLATIONS[interpolation], box=box)
