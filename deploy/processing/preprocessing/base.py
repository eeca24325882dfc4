"""Contract of a preprocessing: one raw sample to what the model takes, and where in the sample that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

Box = Sequence[float]
"""x, y, width and height of a figure in pixels of the picture."""


@final
@dataclass(frozen=True, kw_only=True)
class Window:
    """Where the input's pixels are in the picture.

    Attributes:
        picture: width and height of the picture as shown.
        size: height and width of the input.
        scale: pixels of the input that a pixel of the picture has, across and down.
        offset: of the picture's upper left corner, in pixels of the input, across and down.
    """

    picture: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_picture(self, points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Move points (..., 2), x and y in pixels of the input, to pixels of the picture.

        Example:
            >>> seen = Window(picture=(200, 100), size=(64, 64), scale=(0.32, 0.32), offset=(0.0, 16.0))
            >>> seen.to_picture(np.array([32.0, 32.0])).round(6).tolist()
            [100.0, 50.0]
        """
        moved: npt.NDArray[np.float64] = (np.asarray(points, np.float64) - self.offset) / self.scale
        return moved


@final
@dataclass(frozen=True, kw_only=True)
class Words:
    """Words of a text.

    Attributes:
        text: the whole; words that came apart are joined by a space.
        spans: first character of each word, and the one behind its last.
        first_tokens: of each token the number of the word that begins there; -1 for others, (tokens,).
    """

    text: str
    spans: Sequence[tuple[int, int]]
    first_tokens: npt.NDArray[np.int64]


@final
@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One sample as a model takes it: an array (1, ...), or several by name; and what its answer needs of the raw one."""

    inputs: Any
    window: Window | None = None
    words: Words | None = None


class Preprocessing(ABC):
    """Preprocessing of one kind of raw samples. Subclasses are final.

    Attributes:
        takes: what a raw sample is, in words, for errors and documents.
        takes_box: whether a figure's box is read beside it.
        any_size: whether inputs have the picture's own size, so that they run through the engine in tiles.
    """

    takes: ClassVar[str]
    takes_box: ClassVar[bool] = False
    any_size: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Preprocessing:
        """Make it from preprocessing.json; further files are in ``folder``.

        Raises:
            UserError, ValueError, TypeError, LookupError, OSError: the settings are not possible.
        """

    @abstractmethod
    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        """Prepare one sample.

        Raises:
            UserError: it is none of this kind, or too large.
        """

    def faults(self, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Say why an engine with these inputs (shapes by name, samples first) takes other samples; empty where it fits."""
        return []


def whole(data: Mapping[str, Any], key: str, most: int, least: int = 1) -> int:
    """Read a whole number within bounds.

    Raises:
        ValueError: it is none.
    """
    value = data[key]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} is a whole number from {least} to {most}")
    return value


def sides(data: Mapping[str, Any], most: int = 16384) -> tuple[int, int]:
    """Read ``size``, the input's height and width.

    Raises:
        ValueError: it is none, or larger than an input can be.
    """
    values = data["size"]
    if not isinstance(values, list) or len(values) != 2 or not all(type(v) is int and 1 <= v <= most for v in values):
        raise ValueError(f"size is the input's height and width, from 1 to {most}")
    return values[0], values[1]


def unlike(inputs: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]) -> list[str]:
    """Say that an engine does not have one input of this shape of a sample; empty where it has."""
    if [given[1:] for given in inputs.values()] == [shape]:
        return []
    given = ", ".join(f"{name} {each[1:]}" for name, each in inputs.items())
    return [f"it makes samples of {shape}, and the engine takes {given}"]
