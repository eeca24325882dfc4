"""Contract of a postprocessing: a model's outputs for one sample to its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from deploy.processing.preprocessing.base import Prepared

if TYPE_CHECKING:
    from typing_extensions import Self

Answer = dict[str, Any]
"""Plain data, but for pictures, masks, values and embeddings, which are arrays."""
Array = npt.NDArray[Any]
MOST_CLASSES = 1 << 17


class Postprocessing(ABC):
    """Postprocessing of one kind of outputs. Subclasses are final.

    Attributes:
        gives: the keys of an answer, in words, for documents.
    """

    gives: ClassVar[str]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Self:
        """Make it from postprocessing.json; further files are in ``folder``. One without settings needs no other.

        Raises:
            UserError, ValueError, TypeError, LookupError, OSError: the settings are not possible.
        """
        return cls()

    @abstractmethod
    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        """Make the answer of the outputs of one sample, (1, ...) each, in the model's order.

        Raises:
            ValueError: they have another shape than this reads.
        """


@dataclass(frozen=True, kw_only=True)
class OfClasses(Postprocessing):
    """Postprocessing of outputs that stand for classes by their place.

    Attributes:
        classes: their names, in the outputs' order.
    """

    classes: tuple[str, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Self:
        return cls(classes=class_names(data))


def class_names(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the names of the classes.

    Raises:
        ValueError: they are no list of texts.
    """
    names = data["classes"]
    if not isinstance(names, list) or len(names) > MOST_CLASSES or not all(isinstance(name, str) for name in names):
        raise ValueError("classes are names")
    return tuple(names)


def scores_of(outputs: Sequence[Array], classes: Sequence[str], axes: int, axis: int) -> npt.NDArray[np.float64]:
    """Return the first output of one sample without the axis of samples.

    Args:
        axes: that it has, ``axis`` that of the classes.

    Raises:
        ValueError: it has another shape, or holds NaN.
    """
    first = np.asarray(outputs[0], np.float64)
    if first.ndim != axes or first.shape[0] != 1 or first.shape[axis] != len(classes):
        raise ValueError(f"the model gives {first.shape} for one sample, and there are {len(classes)} classes")
    if np.isnan(first).any():
        raise ValueError("the model gives what is no number (NaN) for this sample: no class can be told")
    return np.asarray(first[0])
