"""Pictures to pixels: upright, eight bits, grey or RGB. numpy and Pillow.

Training and devices share these rules. An image is turned as its EXIF says, and shown as a viewer shows it. 16 bits keep
their upper 8, so that 65535 is white. Palettes, CMYK and two colours become RGB or grey; transparency is dropped; of an
animation the first frame is taken. Floating-point pixels have no known white, and are an error.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
from PIL import Image

UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)
"""Pillow's exceptions for damaged files; a broken PNG is a ``SyntaxError`` to it."""

ORIENTATION = 0x0112
"""EXIF tag of the camera's orientation."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition for each value of the tag; Pillow's own ``exif_transpose`` fails where other tags are damaged."""

SIDEWAYS = (5, 6, 7, 8)
"""Values of the tag that exchange width and height."""

GAP = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves this many times the pixels a side that are needed."""

Size = tuple[int, int]
"""Width and height in pixels."""


def shown_size(image: Image.Image) -> Size:
    """Return the size of an opened image as a viewer shows it."""
    return image.size[::-1] if orientation_of(image) in SIDEWAYS else image.size


def upright(image: Image.Image, channels: int, at_least: Size | None = None) -> Image.Image:
    """Decode an opened image: upright, RGB for 3 channels and grey for 1, eight bits.

    Args:
        at_least: a JPEG may be decoded smaller, though not below this size (width, height) as shown.

    Raises:
        UNREADABLE: the file is damaged, or its pixels are floating-point numbers.
    """
    orientation = orientation_of(image)
    mode = "RGB" if channels == 3 else "L"
    if at_least is not None:
        image.draft(mode, at_least[::-1] if orientation in SIDEWAYS else at_least)
    image.load()
    flat = _eight_bits(image, mode)
    return flat.transpose(TURNS[orientation]) if orientation in TURNS else flat


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write pixels (height, width, channels) as a PNG, which loses nothing."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it is damaged. A TIFF is turned by Pillow itself."""
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image in search of a tag behind it
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which white is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion makes white of all above 255
        values = np.asarray(image)
        if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
            raise ValueError("its pixels have 32 bits, of which white is not known; save it with 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert(mode)
