"""Soft labels of a teacher as they are stored: in half precision, a byte a class, or two numbers a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from profiles.errors import UserError

SoftLabelForm = Literal["auto", "full", "quantised", "two", "none"]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
MANY_CLASSES = 256
"""Classes from which a byte for each takes more than a small picture's label should."""

SPAN = 24.0
"""Logits further below a sample's largest are stored as that far below: their probability is 4e-11."""


def resolve_form(form: SoftLabelForm, shape: tuple[int, ...], labels: npt.NDArray[Any]) -> str:
    """Return the form that ``auto`` stands for, given the shape of the logits, (samples, ..., classes)."""
    if form != "auto":
        return form
    if len(shape) != 2 or not _are_classes(labels):
        return "none"
    return "two" if shape[1] >= MANY_CLASSES and bool((labels >= 0).all()) else "quantised"


def _are_classes(labels: npt.NDArray[Any]) -> bool:
    return labels.ndim == 1 and labels.dtype.kind in "iu"


def bytes_a_sample(form: str, classes: int) -> int:
    """Return what soft labels of a sample take."""
    return {"none": 0, "full": 2 * classes, "quantised": classes + 4, "two": 4}[form]


def encode(form: str, logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Encode logits, (samples, classes), up to a constant a sample; ``two`` also reads ``labels``, (samples,).

    Raises:
        UserError: the task is not one of classes; or two numbers are asked for samples without a label.
    """
    if form == "none":
        return {}
    if logits.ndim != 2 or not _are_classes(labels):
        given_as = f"given: scores {logits.shape}, targets {labels.shape}"
        raise UserError(f"labels = {form!r} stores a distribution over classes a sample; {given_as}; take 'none'")
    given = logits.astype(np.float64)
    given = given - given.max(axis=-1, keepdims=True)
    if form == "full":
        return {"soft": given.astype(np.float16)}
    if form == "quantised":
        step = (np.minimum(-given.min(axis=-1), SPAN) / 255).astype(np.float32)
        levels = np.rint(np.minimum(-given, SPAN) / np.maximum(step[..., None], 1e-30))
        return {"soft": np.minimum(levels, 255).astype(np.uint8), "soft_step": step}
    if (labels < 0).any():
        raise UserError(
            "labels = 'two' stores two numbers a sample about the class that its label names, and some samples have none; "
            "take 'quantised'"
        )
    return {"soft_distances": distances(given, labels).astype(np.float16)}


def decode(stored: Mapping[str, npt.NDArray[Any]], labels: Labels, classes: int) -> npt.NDArray[np.float32] | None:
    """Return logits (samples, ..., classes), up to a constant a sample; None where none are stored.

    Of two numbers come logits with those distances from the one-hot label, which ``dbr`` alone may read.
    """
    if "soft_distances" in stored:
        return _of_distances(stored["soft_distances"].astype(np.float64), labels, classes)
    if "soft_step" in stored:
        return -stored["soft"].astype(np.float32) * stored["soft_step"][..., None].astype(np.float32)
    return stored["soft"].astype(np.float32) if "soft" in stored else None


def distances(logits: Floats, labels: Labels) -> Floats:
    """Compute cross-entropy and Euclidean distance of softmax(``logits``) from one-hot ``labels``; (samples, 2).

    Example:
        >>> distances(np.log([[0.5, 0.3, 0.2]]), np.array([0])).round(4).tolist()
        [[0.6931, 0.6164]]
    """
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    own = np.take_along_axis(shares, labels[:, None], 1)[:, 0]
    rest = (shares**2).sum(axis=1) - own**2
    return np.stack([-np.log(np.maximum(own, 1e-30)), np.sqrt((1 - own) ** 2 + np.maximum(rest, 0))], axis=1)


def _of_distances(stored: Floats, labels: Labels, classes: int) -> npt.NDArray[np.float32]:
    """Return logits with these distances: one other class has more than the rest, which are alike."""
    own, others = np.exp(-stored[:, 0]), max(classes - 1, 1)
    rest = np.maximum(1 - own, 0)
    mean = rest / others
    square = np.clip(stored[:, 1] ** 2 - rest**2, rest**2 / others, rest**2)
    apart = np.sqrt(np.maximum(square / others - mean**2, 0) / max(others - 1, 1))
    shares = np.repeat((mean - apart)[:, None], classes, 1)
    rows = np.arange(len(labels))
    shares[rows, (labels + 1) % classes] = mean + (others - 1) * apart
    shares[rows, labels] = own
    logits: npt.NDArray[np.float32] = np.log(np.maximum(shares, 1e-30)).astype(np.float32)
    return logits
