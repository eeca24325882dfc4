"""Image transforms without torchvision: numpy for batches in memory, Pillow for single images.

N = samples, C = channels, H and W = height and width. What is random comes from the generator alone, and is drawn for
the whole batch before a picture is opened, so that neither its size nor the order of threads changes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.processing.normalisation import Bytes as Bytes
from deploy.processing.normalisation import Normalise as Normalise
from deploy.processing.resizing import INTERPOLATIONS as INTERPOLATIONS
from deploy.processing.resizing import Box as Box
from deploy.processing.resizing import centre_box as centre_box
from deploy.processing.resizing import resize_crop as resize_crop

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of red, green and blue (or of grey), white being 1."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

ATTEMPTS = 10
LEAST_RATIO, MOST_RATIO = 3 / 4, 4 / 3


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
