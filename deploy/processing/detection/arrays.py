"""Arithmetic that numpy's arrays and torch's tensors share, so that a reader is written once.

A reader runs on a device (numpy alone), in training (torch, with gradients), and captured into a graph. torch is never
imported here: who gives a tensor has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FARTHEST = 80.0
"""Beyond it a sigmoid is 0 or 1 in float32, and exp overflows."""
LEAST_PROBABILITY = 1e-6


def library(values: Any) -> Any:
    """Return torch for a tensor, numpy for an array: of either, the functions of the same name and order of arguments."""
    return sys.modules["torch"] if type(values).__module__.startswith("torch") else np


def constant(values: npt.NDArray[Any], like: Any) -> Any:
    """Return constant ``values`` as what ``like`` is: an array, or a tensor on its device."""
    kind = library(like)
    return values.astype(like.dtype) if kind is np else kind.from_numpy(values).to(like)


def sigmoid(values: Any) -> Any:
    """Compute 1 / (1 + exp(-x)) without overflow."""
    if library(values) is not np:
        return values.sigmoid()
    return 1 / (1 + np.exp(-np.clip(values, -FARTHEST, FARTHEST)))


def softmax(values: Any) -> Any:
    """Compute the softmax over the last axis."""
    if library(values) is not np:
        return values.softmax(-1)
    with np.errstate(invalid="ignore"):  # infinity less infinity: not a number, and dropped as such
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def softplus(values: Any) -> Any:
    """Compute log(1 + exp(x))."""
    if library(values) is not np:
        return library(values).nn.functional.softplus(values)
    with np.errstate(invalid="ignore"):
        return np.logaddexp(values, np.zeros((), values.dtype))


def log_odds(probabilities: Any) -> Any:
    """Compute log(p / (1 - p)), with p kept ``LEAST_PROBABILITY`` away from 0 and 1."""
    kind = library(probabilities)
    kept = kind.clip(probabilities, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return kind.log(kept) - kind.log(1 - kept)


def flatten_maps(maps: Sequence[Any]) -> Any:
    """Return maps (samples, channels, rows, columns) as one array (samples, places, channels), row by row."""
    kind = library(maps[0])
    return kind.concatenate([kind.moveaxis(each.reshape(*each.shape[:2], -1), 1, 2) for each in maps], 1)


def map_places(sizes: Sequence[tuple[int, int]], strides: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return centre x, centre y and stride of each place of maps, row by row, in pixels: (places, 3).

    Args:
        sizes: rows and columns of each map.
    """
    parts = []
    for (rows, columns), stride in zip(sizes, strides, strict=True):
        y, x = np.mgrid[:rows, :columns] + 0.5
        parts.append(np.stack([x * stride, y * stride, np.full_like(x, stride)], axis=-1).reshape(-1, 3))
    return np.concatenate(parts).astype(np.float32)


def corners_around(places: Any, distances: Any) -> Any:
    """Return corners (samples, places, 4) at distances to left, top, right and bottom, in strides, from ``places``."""
    away = distances * places[:, 2:]
    return library(away).concatenate([places[:, :2] - away[..., :2], places[:, :2] + away[..., 2:]], -1)


def corners_of(centres: Any, sizes: Any) -> Any:
    """Return corners x1, y1, x2, y2 of boxes from their centres and sizes, (..., 2) each."""
    return library(centres).concatenate([centres - sizes / 2, centres + sizes / 2], -1)
