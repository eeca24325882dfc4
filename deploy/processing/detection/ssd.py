"""SSD: offsets from prior boxes, and a softmax over classes of which the first is the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from deploy.processing.detection.arrays import constant, corners_of, library, softmax
from deploy.processing.detection.base import Head, Reader, Reading, Shapes

VARIANCES = (0.1, 0.2)
"""Of offsets of the centre and of the log of the size (Liu et al. 2016; torchvision's weights 10 and 5)."""
LARGEST_POWER = 20.0
"""Of e: a side longer than any picture."""


@final
class Ssd(Reader):
    """Boxes (samples, priors, 4) and logits (samples, priors, 1 + classes), in this order where both may be either.

    A box is, from its prior: centre + 0.1 offset times the prior's size, size times exp(0.2 offset).
    """

    gives = "offsets from prior boxes, and logits with the background first"

    def fault(self, shapes: Shapes, head: Head) -> str:
        if head.priors is None:
            return "priors: corners of the prior boxes in pixels"
        count = len(head.priors)
        right = len(shapes) == 2 and all(len(shape) == 3 and shape[1] == count for shape in shapes)
        if not right or _order(shapes, head) is None:
            return f"boxes (samples, {count}, 4) and logits (samples, {count}, 1 + {head.classes or 'classes'})"
        return ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        chosen = _order([tuple(each.shape) for each in outputs], head)
        assert chosen is not None, "checked by fault"
        assert head.priors is not None, "checked by fault"
        offsets, logits = (outputs[index] for index in chosen)
        priors, kind = constant(head.priors, offsets), library(offsets)
        size = priors[:, 2:] - priors[:, :2]
        centres = (priors[:, :2] + priors[:, 2:]) / 2 + VARIANCES[0] * offsets[..., :2] * size
        sizes = size * kind.exp(kind.clip(VARIANCES[1] * offsets[..., 2:], -LARGEST_POWER, LARGEST_POWER))
        return Reading(boxes=corners_of(centres, sizes), class_scores=softmax(logits)[..., 1:])


def _order(shapes: Shapes, head: Head) -> tuple[int, int] | None:
    """Indices of boxes and logits; None where two outputs are not those."""
    for boxes, logits in ((0, 1), (1, 0)):
        if shapes[boxes][2] == 4 and (head.classes is None or shapes[logits][2] == 1 + head.classes):
            return boxes, logits
    return None
