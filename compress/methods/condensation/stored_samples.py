"""Stored set as a split: tiles cut out and enlarged, compensators added, images shifted and mirrored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from compress.data import Batch, Samples
from compress.data.base import Augmentation, Indices
from compress.data.transforms import random_mirror, random_shift
from compress.methods.condensation.stored import StoredSet, file_bytes
from deploy.engines.inputs import join, rows
from profiles.errors import UserError

Floats = npt.NDArray[np.float32]


@final
class StoredSamples(Samples):
    """Samples of a stored set: of each input its tiles, of each tile one for every compensator."""

    def __init__(self, stored: StoredSet, classes: tuple[str, ...] = ()) -> None:
        self._stored, self.classes = stored, classes
        self._normalise, self._tiles = stored.normalise, int(stored.facts["tiles"])
        self.augmentation = Augmentation(**stored.facts["augmentation"])
        self.labels = stored.targets.astype(np.int64) if stored.targets.dtype.kind in "iu" else stored.targets
        self._fingerprint = hashlib.sha256(file_bytes(stored)).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        inputs, targets = self._stored.inputs, self.labels[indices]
        if isinstance(inputs, Mapping):
            return Batch(rows(inputs, indices), targets)
        images = self._decoded(inputs, indices)
        if augment is not None and images.ndim == 4:
            images = self._augmented(images, augment)
        return Batch(images, targets)

    def fingerprint(self) -> str:
        return self._fingerprint

    def _decoded(self, inputs: npt.NDArray[Any], indices: Indices) -> Floats:
        compensators, tiles = self._stored.compensators, self._tiles
        copies = 1 if compensators is None else len(compensators)
        place, copy = np.divmod(indices, copies)
        place, tile = np.divmod(place, tiles**2)
        held = inputs[place]
        if held.dtype.kind not in "fu":
            return held
        images = held.astype(np.float32) if self._normalise is None else self._normalise(held)
        if tiles > 1:
            images = cut_tiles(images, tile, tiles)
        if compensators is not None:
            images = images + compensators[copy].astype(np.float32)
        return images

    def _augmented(self, images: Floats, augment: np.random.Generator) -> Floats:
        black = np.zeros((1, images.shape[1], 1, 1), np.float32)
        if self._normalise is not None:
            black = self._normalise(np.zeros((1, images.shape[1], 1, 1), np.uint8))
        moved: Floats = random_shift(images - black, self.augmentation.shift, augment) + black
        if self.augmentation.mirror:
            random_mirror(moved, augment)
        return moved


def cut_tiles(images: Floats, tile: Indices, tiles: int) -> Floats:
    """Cut one of ``tiles`` x ``tiles`` parts out of each image and enlarge it bilinearly to the image's size.

    Args:
        images: (samples, channels, height, width), sides that ``tiles`` divides.
        tile: (samples,), row by row.
    """
    if not len(images):
        return images
    height, width = images.shape[2] // tiles, images.shape[3] // tiles
    top, left = np.divmod(tile, tiles)
    cuts = [
        (slice(None), slice(t * height, (t + 1) * height), slice(x * width, (x + 1) * width))
        for t, x in zip(top, left, strict=True)
    ]
    windows = np.stack([image[cut] for image, cut in zip(images, cuts, strict=True)])
    enlarged: Floats = functional.interpolate(
        torch.from_numpy(windows), size=images.shape[2:], mode="bilinear", align_corners=False
    ).numpy()
    return enlarged


def join_tiles(images: Floats, tiles: int) -> Floats:
    """Combine each ``tiles ** 2`` images into one, each averaged down; what ``cut_tiles`` takes apart.

    Args:
        images: (samples, channels, height, width), a multiple of ``tiles ** 2`` of them, sides that ``tiles`` divides.
    """
    count, channels, height, width = images.shape
    small = functional.interpolate(
        torch.from_numpy(images),
        size=(height // tiles, width // tiles),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    ).numpy()
    grid = small.reshape(count // tiles**2, tiles, tiles, channels, height // tiles, width // tiles)
    joined: Floats = np.ascontiguousarray(grid.transpose(0, 3, 1, 4, 2, 5)).reshape(-1, channels, height, width)
    return joined


@final
class MixedSamples(Samples):
    """Stored set, and pictures without labels beside it: ``share`` of the samples are such.

    Both are gone through whole in an epoch: the smaller one as often as it takes. Targets of pictures are -1, or NaN.

    Raises:
        UserError: the pictures are of another shape.
    """

    def __init__(self, stored: Samples, pictures: Samples, share: float) -> None:
        self._stored, self._pictures, self.classes = stored, pictures, stored.classes
        self._share, self.augmentation = share, stored.augmentation
        count = max(len(stored) / (1 - share), len(pictures) / share)
        self.unlabelled = round(count * share)
        self.labelled = round(count) - self.unlabelled
        shapes = [np.shape(each.load(np.arange(1)).inputs) for each in (stored, pictures)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"[recovery] unlabelled: pictures are of shape {shapes[1][1:]}, and the set's of {shapes[0][1:]}; "
                "give it the size of the data"
            )

    def __len__(self) -> int:
        return self.labelled + self.unlabelled

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        known, other = indices < self.labelled, indices >= self.labelled
        ours = self._stored.load(indices[known] % len(self._stored), augment)
        theirs = self._pictures.load((indices[other] - self.labelled) % len(self._pictures), augment)
        nothing = -1 if ours.targets.dtype.kind in "iu" else np.nan
        absent = np.full((int(other.sum()), *ours.targets.shape[1:]), nothing, ours.targets.dtype)
        order = np.argsort(np.concatenate([np.flatnonzero(known), np.flatnonzero(other)]))
        return Batch(rows(join([ours.inputs, theirs.inputs]), order), np.concatenate([ours.targets, absent])[order])

    def fingerprint(self) -> str:
        return f"{self._stored.fingerprint()}-{self._pictures.fingerprint()}-{self._share}"
