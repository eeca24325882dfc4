"""Contract of a reader: what a detector's outputs say, in one form whatever they look like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from deploy.processing.detection.arrays import log_odds, sigmoid

Shapes = Sequence[tuple[int, ...]]
"""Shapes of a model's outputs in their order, the number of samples first."""

YOLO_ANCHORS: tuple[tuple[tuple[float, float], ...], ...] = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""Width and height in pixels of the three anchors at strides 8, 16 and 32 (YOLOv5's, by its authors)."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What shapes alone do not say of a detector.

    Attributes:
        classes: how many it tells apart; None where that is not known, and then any number is read.
        size: height and width of its input in pixels; without it, boxes that are shares of the picture stay such.
        strides: pixels that a cell of each map covers, finest first.
        anchors: width and height of each anchor of each map, in pixels.
        priors: corners of an SSD's prior boxes in pixels, (priors, 4).
        points: how many keypoints an object has; 0 where the head gives none.
    """

    classes: int | None = None
    size: tuple[int, int] | None = None
    strides: tuple[int, ...] = (8, 16, 32)
    anchors: tuple[tuple[tuple[float, float], ...], ...] = YOLO_ANCHORS
    priors: npt.NDArray[np.float32] | None = None
    points: int = 0

    def map_sizes(self) -> list[tuple[int, int]]:
        """Return rows and columns of the map at each stride; nothing where the input's size is not known."""
        if self.size is None:
            return []
        height, width = self.size
        return [(-(-height // stride), -(-width // stride)) for stride in self.strides]


@dataclass(frozen=True, kw_only=True)
class AskedHead:
    """How a task wants outputs read: a reader's name or ``auto``, what shapes do not say, and where the decode runs."""

    name: str
    facts: Head
    in_graph: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What a batch of outputs says; arrays or tensors, as they came.

    Attributes:
        boxes: corners in pixels of the input, (samples, places, 4).
        class_logits: of which the sigmoid is each class's score, (samples, places, classes); None where scores came.
        class_scores: from 0 to 1, (samples, places, classes); None where logits came.
        places: centre x, centre y and stride in pixels, (places, 3), of heads that answer from maps.
        distributions: logits of the distance to each side, (samples, places, 4, bins), of heads that have them.
        keypoints: x, y in pixels and a score from 0 to 1, (samples, places, points, 3), of heads that have them.
        coefficients: what each place's mask has of each prototype, (samples, places, prototypes), of heads that segment;
            ``prototypes``: (samples, prototypes, rows, columns).
    """

    boxes: Any
    class_logits: Any = None
    class_scores: Any = None
    places: Any = None
    distributions: Any = None
    keypoints: Any = None
    coefficients: Any = None
    prototypes: Any = None

    @property
    def scores(self) -> Any:
        """Each class's score, from 0 to 1."""
        return sigmoid(self.class_logits) if self.class_scores is None else self.class_scores

    @property
    def logits(self) -> Any:
        """Log-odds of the scores."""
        return log_odds(self.class_scores) if self.class_logits is None else self.class_logits


class Reader(ABC):
    """Reader of one kind of outputs. Subclasses are final.

    Attributes:
        gives: what it reads, in words, for a report and an error.
        suppresses: whether several places answer for one object, so that all but the best are to be suppressed.
        named_only: whether the shapes say too little for ``auto``.
    """

    gives: ClassVar[str]
    suppresses: ClassVar[bool] = True
    named_only: ClassVar[bool] = False

    @abstractmethod
    def fault(self, shapes: Shapes, head: Head) -> str:
        """Say why outputs of these shapes are not read; empty where they are."""

    @abstractmethod
    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        """Read outputs whose shapes have no fault."""


def map_fault(shapes: Shapes, head: Head, channels: str) -> str:
    """Say why outputs are not one map of four dimensions for each stride, finest first; empty where they are."""
    if len(shapes) != len(head.strides) or any(len(shape) != 4 for shape in shapes):
        return f"one map (samples, {channels}, rows, columns) for each of the strides {list(head.strides)}"
    if head.size and [shape[2:] for shape in shapes] != head.map_sizes():
        return f"maps of {head.map_sizes()} rows and columns, finest first"
    return ""
