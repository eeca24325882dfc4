"""Decoding of images from any source: upright, eight bits, and grey or RGB.

All sources share the rules of ``deploy.processing.pictures``, as a device does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from compress.data.fingerprints import thread_pool
from deploy.processing.pictures import SIDEWAYS
from deploy.processing.pictures import TURNS as TURNS
from deploy.processing.pictures import UNREADABLE as UNREADABLE
from deploy.processing.pictures import Size as Size
from deploy.processing.pictures import orientation_of as orientation_of
from deploy.processing.pictures import shown_size as shown_size
from deploy.processing.pictures import upright as upright
from profiles.errors import UserError, one_line

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
"""Kinds of files that are read as images."""

ANIMATED = (".gif", ".png", ".webp", ".tif", ".tiff", ".avif")
"""Kinds of files that may hold more than one frame."""


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


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"  # a phone's JPEG with a preview
    except UNREADABLE:
        return False
