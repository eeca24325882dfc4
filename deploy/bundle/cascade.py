"""A cascade: a small model answers, and where it is unsure a large one does. Numpy and the runtimes alone.

    cascade.json        how sure the small one has to be: ``{"margin": 0.4}``
    small/, large/      two bundles

The margin of an answer is the difference of its two largest probabilities, from 0 to 1.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.bundle.bundle import opened
from deploy.engines import Session
from deploy.files import write_atomically
from profiles.errors import UserError
from profiles.json_text import read_json

FILE = "cascade.json"
SMALL, LARGE = "small", "large"


def margins(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return how sure a model is of each answer: the difference of its two largest probabilities; logits (samples, classes).

    Example:
        >>> margins(np.log(np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]]))).round(3).tolist()
        [0.5, 0.0]
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    largest = np.sort(shifted / shifted.sum(axis=1, keepdims=True), axis=1)
    return np.asarray(largest[:, -1] - largest[:, -2])


def write(folder: Path, margin: float) -> None:
    """Write ``cascade.json`` beside the two bundles."""
    write_atomically(folder / FILE, json.dumps({"margin": margin}).encode())


@final
class Cascade:
    """Two engines that answer as one, a sample at a time.

    Args:
        kept: holds what the engines were opened from, as long as this is there.

    Attributes:
        asked, went_on: samples so far, and those of them that the large model answered.
    """

    def __init__(self, small: Session, large: Session, margin: float, kept: ExitStack | None = None) -> None:
        self._small, self._large, self._margin, self._kept = small, large, margin, kept
        self.asked = self.went_on = 0

    def __call__(self, sample: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the logits (1, classes) for a sample of shape (1, ...)."""
        self.asked += 1
        answer = self._run(self._small, sample)
        if margins(answer)[0] >= self._margin:
            return answer
        self.went_on += 1
        return self._run(self._large, sample)

    def _run(self, session: Session, sample: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return next(iter(session.infer({session.inputs[0].name: sample}).values()))


def read_margin(folder: Path) -> float:
    """Read how sure the small model has to be.

    Raises:
        UserError: it is no cascade.
    """
    try:
        margin = float(read_json(folder / FILE)["margin"])
        if not margin >= 0:
            raise ValueError("a margin is a number from 0")
        return margin
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{folder}: no {FILE} with a margin ({type(error).__name__}); this is no cascade") from None


def load(folder: str | os.PathLike[str]) -> Cascade:
    """Build and open both engines of a cascade here.

    Raises:
        UserError: it is no cascade, or a bundle in it was altered.
        EngineError: a runtime refused its model.
    """
    folder = Path(folder)
    margin = read_margin(folder)
    with ExitStack() as stack:
        small, large = (stack.enter_context(opened(folder / name)) for name in (SMALL, LARGE))
        return Cascade(small.session, large.session, margin, stack.pop_all())
