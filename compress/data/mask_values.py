"""Values of masks: numbers or colours, and the class that each stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.mask_samples import MOST_CLASSES, NONE

UNKNOWN = -2
"""Label of a value that stands for nothing."""

MOST_VALUE = 2**24

Value = int | Sequence[int]
"""A number in a mask, or a colour [red, green, blue]."""


@final
@dataclass(frozen=True, kw_only=True)
class LabelValues:
    """What the values of a mask stand for: by number, or by colour as red * 65536 + green * 256 + blue.

    Attributes:
        known: sorted values.
        labels: the class of each, ``NONE`` for those without a label.
        coloured: whether values are colours.
    """

    known: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    coloured: bool

    @classmethod
    def of(
        cls, classes: Sequence[str], values: Sequence[Value], ignore: Sequence[Value], faults: list[str]
    ) -> LabelValues | None:
        """Make it from a source's options; None, and faults, where they do not fit."""
        before = len(faults)
        given = list(values) or list(range(len(classes)))
        if not 1 < len(classes) <= MOST_CLASSES:
            words = f"classes has the names of the classes in the order of the labels, 2 to {MOST_CLASSES}"
            faults.append(f"data: {words}; given: {len(classes)}")
        elif len(given) != len(classes):
            faults.append(f"data: values has one for each class, {len(classes)}; given: {len(given)}")
        coloured = bool(given) and not isinstance(given[0], int)
        # of colours the usual ignored number means nothing
        left_out = [each for each in ignore if isinstance(each, int) != coloured]
        codes = [_code(each) for each in (*given, *left_out)]
        if None in codes or any(isinstance(each, int) == coloured for each in given):
            faults.append(f"data: values are all numbers from 0 on, or all colours [red, green, blue]; given: {given[:4]}")
        twice = sorted({str(each) for each, code in zip(given, codes, strict=False) if codes.count(code) > 1})
        if twice:
            faults.append(f"data: values and ignore name each value once; more than once: {', '.join(twice[:5])}")
        if len(faults) > before:
            return None
        labels = [*range(len(given)), *[NONE] * len(left_out)]
        order = np.argsort(np.array(codes, np.int64))
        return cls(known=np.array(codes, np.int64)[order], labels=np.array(labels)[order], coloured=coloured)

    def read(self, picture: Image.Image) -> npt.NDArray[np.int64]:
        """Read the values of an opened mask, (height, width).

        Raises:
            ValueError: it is a colour picture where numbers are expected.
        """
        if self.coloured:
            red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(np.int64), 2, 0)
            codes: npt.NDArray[np.int64] = red * 65536 + green * 256 + blue
            return codes
        numbers = np.asarray(picture)
        if numbers.ndim != 2:
            words = "a mask of numbers has one channel; for one of colours say values = [[red, green, blue], ...]"
            raise ValueError(f"it is a picture of mode {picture.mode}; {words}")
        return numbers.astype(np.int64)

    def label(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Replace values by labels, ``UNKNOWN`` for those that stand for nothing."""
        places = np.searchsorted(self.known, values).clip(max=len(self.known) - 1)
        return np.where(self.known[places] == values, self.labels[places], UNKNOWN)

    def shown(self, code: int) -> str:
        """Word a value as the recipe would have it."""
        return str([code >> 16, code >> 8 & 255, code & 255]) if self.coloured else str(code)


def _code(value: Value) -> int | None:
    if isinstance(value, int):
        return value if 0 <= value < MOST_VALUE else None
    right = len(value) == 3 and all(0 <= part <= 255 for part in value)
    return (value[0] << 16) + (value[1] << 8) + value[2] if right else None
