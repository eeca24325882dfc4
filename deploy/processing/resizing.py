"""Pictures to the input's size: a part of one resized, or the whole fitted in. Pillow.

Training and devices share this arithmetic, so that a device gives a model what it was trained on, bit for bit (the decoder
of a JPEG aside, of which versions differ).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from deploy.processing.normalisation import Bytes
from deploy.processing.pictures import GAP, shown_size, upright

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

RESIZE = ("plain", "letterbox")
FILL = 114
"""The grey around letterboxed and moved pictures."""

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
"""How images are resized; all but the last average over what they shrink."""


def centre_box(width: int, height: int, size: int | tuple[int, int], short_side: int) -> Box:
    """Return the part of an image that is left when it is resized and ``size`` is cut from its middle.

    The image is resized in proportion until it covers ``size``, enlarged so that its shorter side is ``short_side``. The
    part is in pixels of the image: resizing it is resizing and then cropping, in one pass, to the pixel.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
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


def resize_crop(image: Image.Image, size: int | tuple[int, int], box: Box, interpolation: str = "bilinear") -> Image.Image:
    """Resize the box of an image to ``size``, height and width, by one of ``INTERPOLATIONS``; antialiased."""
    wanted = (size, size) if isinstance(size, int) else size
    return image.resize(wanted[::-1], INTERPOLATIONS[interpolation], box=box)


def decoded(
    picture: Image.Image,
    size: tuple[int, int],
    channels: int,
    box: Callable[[int, int], Box],
    interpolation: str = "bilinear",
) -> Bytes:
    """Decode a part of an opened image as (channels, height, width), by the rules of ``pictures``.

    Args:
        box: from the image's width and height to the part that is wanted.
    """
    rows, columns = size
    width, height = shown_size(picture)
    left, top, right, bottom = box(width, height)
    needed = int(width * columns / (right - left) * GAP), int(height * rows / (bottom - top) * GAP)
    image = upright(picture, channels, at_least=needed)
    shrunk = (image.width / width, image.height / height)
    part = (left * shrunk[0], top * shrunk[1], right * shrunk[0], bottom * shrunk[1])
    pixels: Bytes = np.asarray(resize_crop(image, size, part, interpolation))
    return np.moveaxis(pixels.reshape(rows, columns, channels), 2, 0)


def fit(size: tuple[int, int], resize: str, width: int, height: int) -> tuple[float, float, float, float]:
    """Return factors across and down, and offsets from left and top, from pixels of a picture to those of the input.

    Args:
        size: height and width of the input.
        resize: "plain" (each side on its own) or "letterbox" (in proportion, in the middle).
    """
    down, across = size[0] / height, size[1] / width
    if resize == "plain":
        return across, down, 0.0, 0.0
    factor = min(across, down)
    wide, high = max(1, round(width * factor)), max(1, round(height * factor))
    return wide / width, high / height, (size[1] - wide) // 2, (size[0] - high) // 2


def fitted(picture: Image.Image, size: tuple[int, int], channels: int, resize: str, *, antialias: bool) -> Bytes:
    """Resize an upright image to the input: uint8 (height, width, channels)."""
    across, down, left, top = fit(size, resize, *picture.size)
    wide, high = round(across * picture.width), round(down * picture.height)
    small = _shrunk(picture, wide, high, antialias=antialias)
    result = np.full((*size, channels), FILL, np.uint8)
    result[int(top) : int(top) + high, int(left) : int(left) + wide] = np.asarray(small).reshape(high, wide, channels)
    return result


def _shrunk(picture: Image.Image, width: int, height: int, *, antialias: bool) -> Image.Image:
    if antialias:
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    across, down = picture.width / width, picture.height / height
    back = (across, 0, 0, 0, down, 0)
    return picture.transform((width, height), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
