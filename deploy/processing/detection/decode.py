"""decode.json of a bundle: all that makes detections of a detector's outputs, as data. numpy alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.files.npz import read_array
from deploy.processing.detection.base import Head, Reading
from deploy.processing.detection.choose import choose, reader, readers
from deploy.processing.detection.objects import Objects, objects_of
from deploy.processing.detection.suppression import Detections, placed_detections
from profiles.errors import UserError, one_line

SCHEMA = 1
FILE, PRIORS = "decode.json", "priors.npy"
MOST_BYTES = 1 << 20
MOST_POINTS = 1000


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Decoding:
    """How a detector's outputs are read.

    Attributes:
        head: name of ``READERS``; the shapes of the outputs must fit it.
        facts: what the shapes do not say.
        classes: names, by label.
        thresholds: of each class, the score from which a detection is shown.
        most_overlap: of two boxes of a class that overlap more (IoU), the less sure one goes; heads that answer once for an
            object suppress nothing.
    """

    head: str
    facts: Head
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    most_overlap: float

    def detect(self, outputs: Sequence[npt.NDArray[Any]], least_score: float | None = None) -> list[Detections]:
        """Return the detections of each sample, best first.

        Args:
            outputs: the model's, in its order, each (samples, ...).
            least_score: instead of ``thresholds``, for all classes: to judge, not to show.

        Raises:
            UserError: the outputs' shapes are not those of the head.

        >>> import numpy as np
        >>> facts, classes = Head(classes=2), ("cat", "dog")
        >>> shown = {"thresholds": (0.5, 0.5), "most_overlap": 0.6}
        >>> two = Decoding(head="end_to_end", facts=facts, classes=classes, **shown)
        >>> two.detect([np.array([[[8, 8, 24, 24, 0.9, 1], [0, 0, 9, 9, 0.2, 0]]], np.float32)])[0].round(2).tolist()
        [[1.0, 0.8999999761581421, 8.0, 8.0, 24.0, 24.0]]
        """
        return [rows for rows, _ in self._placed(outputs, least_score)[0]]

    def objects(self, outputs: Sequence[npt.NDArray[Any]]) -> list[Objects]:
        """Return the detections of each sample, best first, with the keypoints or masks of heads that give them."""
        return list(self.each_objects(outputs))

    def each_objects(self, outputs: Sequence[npt.NDArray[Any]], least_score: float | None = None) -> Iterator[Objects]:
        """Return what ``objects`` does, of one sample at a time: a hundred masks of each would fill the memory.

        Args:
            least_score: instead of ``thresholds``, for all classes.
        """
        found, reading = self._placed(outputs, least_score)
        size = self.facts.size or (0, 0)
        for sample, (rows, places) in enumerate(found):
            yield objects_of(rows, places, reading, sample, size)

    def _placed(
        self, outputs: Sequence[npt.NDArray[Any]], least_score: float | None
    ) -> tuple[list[tuple[Detections, npt.NDArray[np.int64]]], Reading]:
        found = [np.asarray(each, np.float32) for each in outputs]
        name = choose(self.head, [each.shape for each in found], self.facts)
        with np.errstate(over="ignore", invalid="ignore"):  # what is no number is no detection
            reading = reader(name).read(found, self.facts)
            scores = reading.scores
        least = np.array(self.thresholds, np.float32) if least_score is None else least_score
        overlap = self.most_overlap if reader(name).suppresses else None
        pairs = zip(reading.boxes, scores, strict=True)
        return [placed_detections(box, score, least_score=least, most_overlap=overlap) for box, score in pairs], reading

    def as_json(self) -> dict[str, Any]:
        """Return decode.json; priors are a file of their own."""
        return {
            "schema": SCHEMA,
            "head": self.head,
            "classes": list(self.classes),
            "thresholds": list(self.thresholds),
            "most_overlap": self.most_overlap,
            "size": None if self.facts.size is None else list(self.facts.size),
            "strides": list(self.facts.strides),
            "anchors": [[list(anchor) for anchor in each] for each in self.facts.anchors],
            "points": self.facts.points,
        }


def files(decoding: Decoding) -> dict[str, bytes]:
    """Return the files of a bundle that hold ``decoding``, by name."""
    held = {FILE: json.dumps(decoding.as_json(), indent=1, sort_keys=True).encode()}
    if decoding.facts.priors is not None:
        stream = io.BytesIO()
        np.save(stream, decoding.facts.priors)
        held[PRIORS] = stream.getvalue()
    return held


def load(folder: Path) -> Decoding:
    """Read decode.json of the bundle in ``folder``.

    Raises:
        UserError: there is none, or it does not say how outputs are read.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {FILE}; this is no detector's bundle")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"longer than {MOST_BYTES} bytes")
        data = json.loads(path.read_bytes())
        priors = read_array(folder / PRIORS) if (folder / PRIORS).is_file() else None
        return _parsed(data, priors)
    except (OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise UserError(f"{path}: does not say how outputs are read ({reason}); get the bundle again") from None


def _parsed(data: Mapping[str, Any], priors: npt.NDArray[Any] | None) -> Decoding:
    if data["schema"] != SCHEMA or data["head"] not in readers():
        raise ValueError(f"schema {data['schema']!r}, head {data['head']!r}")
    classes = tuple(str(name) for name in data["classes"])
    thresholds = tuple(float(value) for value in data["thresholds"])
    size = None if data["size"] is None else (int(data["size"][0]), int(data["size"][1]))
    strides = tuple(int(stride) for stride in data["strides"])
    if len(thresholds) != len(classes) or not all(0 <= value <= 1 for value in (*thresholds, float(data["most_overlap"]))):
        raise ValueError("thresholds are one number from 0 to 1 for each class")
    if not strides or min(strides) < 1 or (size is not None and min(size) < 1):
        raise ValueError("sizes and strides are 1 or more")
    anchors = tuple(tuple((float(w), float(h)) for w, h in each) for each in data["anchors"])
    points = int(data.get("points", 0))
    if not 0 <= points <= MOST_POINTS:
        raise ValueError(f"points are 0 to {MOST_POINTS}")
    facts = Head(classes=len(classes), size=size, strides=strides, anchors=anchors, priors=as_priors(priors), points=points)
    return Decoding(
        head=str(data["head"]),
        facts=facts,
        classes=classes,
        thresholds=thresholds,
        most_overlap=float(data["most_overlap"]),
    )


def as_priors(priors: npt.NDArray[Any] | None) -> npt.NDArray[np.float32] | None:
    """Check prior boxes, (priors, 4) in pixels.

    Raises:
        ValueError: they are of another shape, hold no number, or a right side is left of the left one.
    """
    if priors is None:
        return None
    if priors.ndim != 2 or priors.shape[1] != 4 or priors.dtype.kind not in "fiu" or not np.isfinite(priors).all():
        raise ValueError(f"priors are numbers of shape (priors, 4); given: {priors.dtype} of {priors.shape}")
    if not (priors[:, 2:] > priors[:, :2]).all():
        raise ValueError("priors are corners x1, y1, x2, y2 with x2 > x1 and y2 > y1")
    return priors.astype(np.float32)
