"""Decoding of images from any source: upright, eight bits, and grey or RGB.

All sources share these rules. An image is turned as its EXIF says, and shown as a viewer shows it. 16 bits keep their upper
8, so that 65535 is white. Palettes, CMYK and two colours become RGB or grey; transparency is dropped; of an animation the
first frame is taken. Floating-point pixels have no known white, and are an error.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from compress.data.fingerprints import thread_pool
from profiles.errors import UserError, one_line

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
"""Kinds of files that are read as images."""

ANIMATED = (".gif", ".png", ".webp", ".tif", ".tiff", ".avif")
"""Kinds of files that may hold more than one frame."""

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


@final
@dataclass(frozen=True, kw_only=True)
class Header:
    """Head of an image file.

    Attributes:
        stored: size of the pixels in the file.
        orientation: value of the EXIF tag, 1 to 8; 1 is upright.
        frames: whether there is more than one, as in an animation.
    """

    stored: Size
    orientation: int
    frames: bool

    @property
    def shown(self) -> Size:
        """Size of the image as a viewer shows it."""
        return self.stored[::-1] if self.orientation in SIDEWAYS else self.stored


def is_inside(name: str) -> bool:
    """Return whether a file's name that a data set gives stays in its folder; links that the user made lead anywhere."""
    return "\0" not in name and not os.path.isabs(name) and ".." not in name.replace("\\", "/").split("/")


def read_names(path: Path) -> list[str]:
    """Read a list of pictures' names, the first word of each line.

    Raises:
        UserError: it cannot be read, or a name leads out of the data set's folder.
    """
    names = [row.split()[0] for row in read_text(path).splitlines() if row.strip()]
    if outside := [name for name in names if not is_inside(name)]:
        raise UserError(f"data: {path} names files outside of the data set: {one_line(', '.join(outside[:4]), 200)}")
    return names


def read_text(path: Path) -> str:
    """Read a text file of a data set, UTF-8 with or without a byte order mark.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"data: {path} is not UTF-8; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise UserError(f"data: {path}: {getattr(error, 'strerror', None) or 'no path'}") from None


def read_header(path: Path) -> Header | str:
    """Read the head of an image file; a fault where it cannot be opened."""
    try:
        with Image.open(path) as image:
            return Header(stored=image.size, orientation=orientation_of(image), frames=_has_frames(image))
    except UNREADABLE as error:
        return f"data: {path} cannot be opened ({reason(error, path)}); remove or replace it"


def read_headers(paths: Sequence[Path]) -> list[Header | str]:
    """Read the heads of image files in threads."""
    return list(thread_pool().map(read_header, paths))


def animation_notes(paths: Sequence[Path]) -> list[str]:
    """Note how many images are animated or have several pages, by the heads of those that may be."""
    heads = read_headers([path for path in paths if path.suffix.lower() in ANIMATED])
    count = sum(isinstance(head, Header) and head.frames for head in heads)
    return [frames_note(count)] if count else []


def frames_note(count: int) -> str:
    """Word the note of ``count`` images of several frames."""
    return f"{count} images have several frames or pages; the first of each is taken"


def other_files_note(suffixes: Counter[str], folder: Path) -> list[str]:
    """Note the files of other kinds in a folder, by suffix; nothing where there are none."""
    if not suffixes:
        return []
    kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in suffixes.most_common(8))
    more = f" and {len(suffixes) - 8} kinds more" if len(suffixes) > 8 else ""
    words = f"{suffixes.total()} files in {folder} are no images of a known kind and were left out ({kinds}{more})"
    return [f"{words}; read are {', '.join(SUFFIXES)}"]


def is_image(name: str) -> bool:
    """Return whether a file has the name of an image, and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in small letters."""
    return os.path.splitext(name)[1].lower()


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


def turned_boxes(boxes: npt.NDArray[np.float32], stored: Size, orientation: int) -> npt.NDArray[np.float32]:
    """Turn boxes (boxes, 5) on stored pixels with their image: [label, x1, y1, x2, y2] on the image as shown."""
    width, height = stored
    label, x1, y1, x2, y2 = boxes.T
    mirrored_x, mirrored_y = (width - x2, width - x1), (height - y2, height - y1)
    x, y = (x1, x2), (y1, y2)
    across, down = {
        2: (mirrored_x, y),
        3: (mirrored_x, mirrored_y),
        4: (x, mirrored_y),
        5: (y, x),
        6: (mirrored_y, x),
        7: (mirrored_y, mirrored_x),
        8: (y, mirrored_x),
    }.get(orientation, (x, y))
    return np.stack([label, across[0], down[0], across[1], down[1]], axis=1).astype(np.float32)


def reason(error: BaseException, path: str | Path) -> str:
    """Word Pillow's exception in one line; what is no image (empty, a pointer, a page) is named for what it is."""
    file = Path(path)
    if isinstance(error, UnidentifiedImageError) and file.is_file():
        with file.open("rb") as opened:
            head = opened.read(200).lstrip().lower()
        kinds = ((b"version https://git-lfs", "it is a Git LFS pointer; git lfs pull"), (b"<", "it is a web page or XML"))
        named = next(
            (words for start, words in kinds if head.startswith(start)),
            "its head is damaged, or it is no image of a known kind",
        )
        return named if head else "it is empty"
    return " ".join(str(error).split())[:160] or type(error).__name__


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


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"  # a phone's JPEG with a preview
    except UNREADABLE:
        return False


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which white is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion makes white of all above 255
        values = np.asarray(image)
        if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
            raise ValueError("its pixels have 32 bits, of which white is not known; save it with 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert(mode)
