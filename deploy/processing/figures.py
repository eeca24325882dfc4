"""Figures cut out of pictures by their boxes, for models of keypoints. numpy and Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploy.processing.normalisation import Bytes
from deploy.processing.resizing import FILL

Array = npt.NDArray[Any]


def placed(size: tuple[int, int], box: Sequence[float], padding: float) -> Array:
    """Return the affine map (2, 3) from pixels of a picture to those of the input, the figure in its middle, not stretched.

    Args:
        size: height and width of the input.
        box: x, y, width and height of the figure.
        padding: share of its box's sides that is seen around it.
    """
    (high, wide), (x, y, width, height) = size, box
    factor = min(wide / width, high / height) / (1 + padding)
    turned = factor * np.array([[1.0, -0.0], [0.0, 1.0]])
    offset = np.array([wide / 2, high / 2]) + np.zeros(2) - turned @ (x + width / 2, y + height / 2)
    return np.column_stack([turned, offset])


def cut_figure(image: Image.Image, made: Array, size: tuple[int, int], channels: int) -> Bytes:
    """Cut a figure out of an upright image by an affine map: uint8 (height, width, channels).

    Averaged down by whole pixels first: bilinear alone would leave most of a large image out.
    """
    less = max(1, min(int(abs(np.linalg.det(made[:, :2])) ** -0.5), *image.size))
    image = image.reduce(less) if less > 1 else image
    back = np.linalg.inv(made[:, :2])
    origin = -back @ made[:, 2] / less
    back = back / less
    coefficients = (*back[0], origin[0], *back[1], origin[1])
    fill = FILL if channels == 1 else (FILL,) * 3
    cut = image.transform(size[::-1], Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill)
    return np.asarray(cut).reshape(*size, channels)
