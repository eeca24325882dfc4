"""Raw pictures as they come: a path, a file's bytes, an image of Pillow, an array; opened, and bounded in size."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from deploy.processing.normalisation import Bytes, Normalise
from deploy.processing.pictures import UNREADABLE
from deploy.processing.preprocessing.base import unlike
from profiles.errors import UserError, kind_with_article, one_line

MOST_PIXELS = 2**27
"""Of a picture, 134 million: decoded it takes 400 MB. More is taken for a bomb."""
MOST_FILE_BYTES = 2**28

TAKES = "a picture: its path, its file's bytes, an image of Pillow, or an array (height, width[, 3]) of bytes"


@contextmanager
def opened(raw: Any) -> Iterator[Image.Image]:
    """Open a raw picture; what Pillow raises inside the block is told in one line too.

    Raises:
        UserError: it is none, damaged, or too large.
    """
    name = _name(raw)
    try:
        image = _image(raw)
        if image.width * image.height > MOST_PIXELS:
            raise UserError(
                f"{name}: of {image.width}x{image.height} pixels; at most {MOST_PIXELS:,} are decoded: make it smaller first"
            )
        if image is raw:
            image.load()  # whole: what is decoded smaller or grey here would be so for its owner from then on
        yield image
    except UnidentifiedImageError:
        raise UserError(f"{name}: no picture that can be read; give {TAKES}") from None
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or one_line(str(error), 160) or type(error).__name__
        raise UserError(f"{name}: the picture cannot be decoded ({reason}); give another") from None


def _image(raw: Any) -> Image.Image:
    if isinstance(raw, Image.Image):
        return raw
    if isinstance(raw, np.ndarray):
        if raw.dtype != np.uint8 or raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] not in (1, 3)) or not raw.size:
            raise UserError(
                f"an array of {raw.dtype} {raw.shape}: pictures are uint8 of (height, width) or (height, width, 3)"
            )
        return Image.fromarray(raw[..., 0] if raw.shape[2:] == (1,) else raw)
    if isinstance(raw, bytes | bytearray | memoryview):
        return Image.open(io.BytesIO(raw))
    if isinstance(raw, str | os.PathLike):
        return Image.open(Path(raw))
    raise UserError(f"{kind_with_article(raw)} is no picture; give {TAKES}")


def _name(raw: Any) -> str:
    return one_line(str(raw), 200) if isinstance(raw, str | os.PathLike) else "the picture"


def as_inputs(pixels: Bytes, normalise: Normalise, *, takes_bytes: bool) -> npt.NDArray[Any]:
    """Return pixels (channels, height, width) as one input: normalised, or as bytes (1, height, width, channels)."""
    if not takes_bytes:
        return normalise(pixels)[None]
    return np.array(np.moveaxis(pixels, 0, 2), order="C")[None]  # a copy: Pillow's own is read-only, which OpenVINO refuses


def input_faults(
    inputs: Mapping[str, tuple[int, ...]], size: tuple[int, int], normalise: Normalise, *, takes_bytes: bool
) -> list[str]:
    """Say why an engine takes other samples than ``as_inputs`` makes; empty where it fits."""
    return unlike(inputs, (*size, normalise.channels) if takes_bytes else (normalise.channels, *size))


def normalise_from(data: Mapping[str, Any]) -> Normalise:
    """Read mean, deviation, order and scale.

    Raises:
        UserError, LookupError, TypeError: they are not possible.
    """
    order = "rgb" if data["order"] == "grey" else data["order"]
    mean, deviation = (tuple(float(value) for value in data[key]) for key in ("mean", "deviation"))
    return Normalise(mean=mean, deviation=deviation, order=order, scale=float(data["scale"]))
