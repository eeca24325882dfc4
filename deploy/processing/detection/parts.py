"""What heads of YOLO give of each place beside box and scores: keypoints, or masks; and which output is which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from deploy.processing.detection.arrays import library, sigmoid
from deploy.processing.detection.base import Head, Shapes

NUMBERS = 3
"""Of a keypoint: x, y and its score."""
USUAL_BINS = 16
"""Of a side's distribution; a map of a multiple of four times as many channels is of boxes before any other."""


@dataclass(frozen=True, kw_only=True)
class MapsApart:
    """Indices of the outputs of a head that gives maps apart, a stride after the other, finest first.

    Attributes:
        parts: of the maps of keypoints or coefficients; empty where there are none.
        prototypes: of the prototypes of masks.
    """

    boxes: tuple[int, ...]
    scores: tuple[int, ...]
    parts: tuple[int, ...] = ()
    prototypes: int | None = None


def maps_apart(shapes: Shapes, head: Head) -> MapsApart | None:
    """Find which map is which by size and channels; None where they are no such maps.

    Two maps of each size, or three; one more of a size of its own is of prototypes. Where the channels of two leave a
    choice, the first is the boxes'; where those of three do, they are not read.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_size.setdefault(tuple(shape[2:]), []).append(index)
    alone = [members[0] for members in by_size.values() if len(members) == 1]
    groups = [members for _, members in sorted(by_size.items(), reverse=True) if len(members) > 1]
    if len(alone) > 1 or len({len(members) for members in groups}) != 1 or len(groups[0]) not in (2, 3):
        return None
    prototypes = alone[0] if alone else None
    channels = None if prototypes is None else shapes[prototypes][1]
    found = [_roles(members, shapes, head, channels) for members in groups]
    if any(roles is None for roles in found):
        return None
    boxes, scores, *parts = zip(*[roles for roles in found if roles], strict=True)
    return MapsApart(boxes=boxes, scores=scores, parts=parts[0] if parts else (), prototypes=prototypes)


def _roles(members: Sequence[int], shapes: Shapes, head: Head, prototypes: int | None) -> tuple[int, ...] | None:
    """Order the maps of one size: boxes, scores, and what else there is."""
    fits = []
    for order in permutations(members):
        boxes, scores, *rest = (shapes[index][1] for index in order)
        right = boxes % 4 == 0 and (head.classes is None or scores == head.classes)
        if right and not parts_fault(rest, [] if prototypes is None else [prototypes], head):
            fits.append((boxes % (4 * USUAL_BINS) != 0, order))
    fits.sort()
    if len(members) > 2 and len(fits) > 1 and fits[0][0] == fits[1][0]:
        return None  # scores or coefficients: nothing tells them apart, and a guess would be silent
    return fits[0][1] if fits else None


def parts_fault(parts: Sequence[int], prototypes: Sequence[int], head: Head) -> str:
    """Say why outputs beside boxes and scores are no keypoints and no masks; empty where they are, or there are none.

    Args:
        parts: channels of what is given for each place; ``prototypes``: of prototypes of masks.
    """
    if len(parts) > 1 or len(prototypes) > 1:
        return "at most one output of keypoints or of masks' coefficients for each place, and one of prototypes"
    if prototypes:
        return "" if list(parts) == list(prototypes) else f"{prototypes[0]} coefficients a place, as there are prototypes"
    if not parts:
        return f"{head.points} keypoints a place" if head.points else ""
    if head.points:
        return "" if parts[0] == NUMBERS * head.points else f"{NUMBERS * head.points} channels of {head.points} keypoints"
    return "" if parts[0] and parts[0] % NUMBERS == 0 else f"keypoints of {NUMBERS} numbers each"


def decode_keypoints(raw: Any, places: Any, direct: bool) -> Any:
    """Compute keypoints (samples, places, points, 3), pixels and a score, of raw numbers (samples, places, 3 points).

    Ultralytics' heads of v8 to v12 give half the distance in strides from the corner of the cell; with ``direct``, those of
    v26, the distance itself from its middle.

    Args:
        places: centre x, centre y and stride, (places, 3), in pixels.

    >>> import numpy as np
    >>> place, raw = np.array([[12.0, 20.0, 8.0]]), np.array([[[1.0, -0.5, 0.0]]])
    >>> decode_keypoints(raw, place, False).tolist(), decode_keypoints(raw, place, True).tolist()
    ([[[[24.0, 8.0, 0.5]]]], [[[[20.0, 16.0, 0.5]]]])
    """
    found = raw.reshape(*raw.shape[:2], -1, NUMBERS)
    middle, stride = places[:, None, :2], places[:, None, 2:]
    away = found[..., :2] * stride
    at = middle + away if direct else middle - stride / 2 + 2 * away
    return library(raw).concatenate([at, sigmoid(found[..., 2:])], -1)


def more_channels(shapes: Shapes, head: Head) -> int:
    """Return how many numbers behind a place's scores are of its mask or its keypoints, in outputs that are decoded."""
    return shapes[1][1] if len(shapes) == 2 else NUMBERS * head.points


def read_more(numbers: Any, prototypes: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of a ``Reading`` that numbers behind the scores stand for, (samples, places, numbers)."""
    if prototypes:
        return {"coefficients": numbers, "prototypes": prototypes[0]}
    return {"keypoints": numbers.reshape(*numbers.shape[:2], -1, NUMBERS)} if numbers.shape[-1] else {}
