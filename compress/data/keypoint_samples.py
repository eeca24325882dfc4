"""Figures with keypoints, each cut out of its image to the input's size: turned, enlarged and mirrored with its points."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.base import Batch, Indices, Samples
from compress.data.box_samples import first_faults
from compress.data.box_transforms import FILL, vary_colour
from compress.data.decoding import UNREADABLE, reason, upright
from compress.data.fingerprints import file_digests, thread_pool
from compress.data.transforms import Bytes, Normalise
from deploy.processing.figures import cut_figure
from deploy.processing.raws import Raw
from profiles.errors import UserError

Array = npt.NDArray[Any]


@final
@dataclass(frozen=True, kw_only=True)
class FigurePreprocessing:
    """How a figure is cut out, and augmented.

    Attributes:
        size: height and width of the input, in pixels.
        padding: share of its box's sides that is seen around a figure; nothing is stretched.
        mirror: whether half of the augmented figures are mirrored; left and right change places.
        turn: augmented figures are turned by up to so many degrees.
        zoom: enlarged by a factor from 1 / (1 + zoom) to 1 + zoom.
        move: moved by up to this share of the input's sides.
        colour: contrast and the gain of each channel vary by up to this share.

    Raises:
        UserError: any of them is not possible; all of them.
    """

    normalise: Normalise
    size: tuple[int, int]
    padding: float = 0.25
    mirror: bool = True
    turn: float = 30.0
    zoom: float = 0.25
    move: float = 0.1
    colour: float = 0.1

    def __post_init__(self) -> None:
        faults: list[str] = []
        if not all(side > 0 for side in self.size):
            faults.append(f"data: size is the input's height and width in pixels; given: {self.size}")
        if not 0 <= self.turn <= 180:
            faults.append(f"data: turn is an angle from 0 (none) to 180 degrees; given: {self.turn}")
        if not 0 <= self.padding <= 4 or not 0 <= self.zoom <= 4:
            faults.append(f"data: padding and zoom are from 0 (none) to 4; given: {self.padding} and {self.zoom}")
        shares = {"move": self.move, "colour": self.colour}
        faults += [f"data: {k} is a share from 0 (none) to below 1; given: {v}" for k, v in shares.items() if not 0 <= v < 1]
        if faults:
            raise UserError(*faults)

    def placed(self, box: Sequence[float], draws: Array | None = None) -> Array:
        """Return the affine map (2, 3) from pixels of the image to those of the input.

        Args:
            box: x, y, width and height of the figure.
            draws: five numbers from 0 to 1: zoom, move across and down, turn, mirror; None for none of it.
        """
        (high, wide), (x, y, width, height) = self.size, box
        factor = min(wide / width, high / height) / (1 + self.padding)
        shift, angle, mirrored = np.zeros(2), 0.0, False
        if draws is not None:
            factor *= (1 + self.zoom) ** (2 * draws[0] - 1)
            shift = self.move * (2 * draws[1:3] - 1) * (wide, high)
            angle = np.deg2rad(self.turn * (2 * draws[3] - 1))
            mirrored = self.mirror and draws[4] < 0.5
        turned = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = np.array([wide / 2, high / 2]) + shift - turned @ (x + width / 2, y + height / 2)
        made = np.column_stack([turned, offset])
        return made if not mirrored else np.array([[-1.0], [1.0]]) * made + np.array([[0, 0, wide], [0, 0, 0]])

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of ``Splits.preprocessing``."""
        about = {
            "use": "figure",
            "size": list(self.size),
            "padding": self.padding,
            "resize": "in proportion, around the figure's box",
        }
        return {**about, "fill": FILL, "interpolation": "bilinear", **self.normalise.as_json()}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """A figure: its image, box (x, y, width, height), area, and points (points, 3) of x, y and visibility, in pixels."""

    file: str
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    area: float
    points: Array


@final
class KeypointSamples(Samples):
    """Figures as images (channels, height, width), and targets (points + 1, 3), float32.

    A row of a target is x and y in pixels of the input, and 2 for a point that is seen, 1 for one that is hidden, 0 for one
    that is not labelled; the last row is the figure's area in square pixels of the input, and the input's width and height.
    ``pairs`` are the points that change places in a mirror.
    """

    def __init__(
        self,
        root: Path,
        figures: Sequence[Figure],
        view: FigurePreprocessing,
        names: tuple[str, ...],
        pairs: Sequence[tuple[int, int]],
    ) -> None:
        self.classes, self.figures = names, figures
        self._root, self._view = root, view
        self._swapped = np.arange(len(names))
        for left, right in pairs:
            self._swapped[[left, right]] = right, left
        self._content = ""

    def __len__(self) -> int:
        return len(self.figures)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        """Load the figures at ``indices``.

        Raises:
            UserError: images that cannot be read, or are of another size than their annotation says.
        """
        view = self._view
        draws = None if augment is None else augment.random((len(indices), 9))
        pixels = np.empty((len(indices), *view.size, view.normalise.channels), np.uint8)
        targets = np.zeros((len(indices), len(self.classes) + 1, 3), np.float32)

        def cut(row: int) -> list[str]:
            figure = self.figures[indices[row]]
            made = view.placed(figure.box, None if draws is None else draws[row, :5])
            targets[row] = self._target(figure, made, inside=draws is not None)
            return self._cut(figure, made, pixels[row])

        faults = [fault for found in thread_pool().map(cut, range(len(indices))) for fault in found]
        if faults:
            raise UserError(*first_faults(faults))
        if draws is not None and view.colour:
            vary_colour(pixels, 1 + view.colour * (2 * draws[:, 5:] - 1))
        return Batch(view.normalise(np.moveaxis(pixels, 3, 1)), targets)

    def raw(self, index: int) -> Raw:
        figure = self.figures[index]
        return Raw(value=(self._root / figure.file).read_bytes(), box=figure.box)

    def _target(self, figure: Figure, made: Array, *, inside: bool) -> Array:
        """A figure's target; ``inside``: what the input does not show is not labelled."""
        mirrored = np.linalg.det(made[:, :2]) < 0
        points = figure.points[self._swapped] if mirrored else figure.points
        placed = points[:, :2] @ made[:, :2].T + made[:, 2]
        seen = points[:, 2] > 0
        if inside:
            seen = seen & (placed >= 0).all(axis=1) & (placed < self._view.size[::-1]).all(axis=1)
        area = figure.area * abs(np.linalg.det(made[:, :2]))
        rows = np.column_stack([placed, points[:, 2]]) * seen[:, None]
        return np.concatenate([rows, [[area, *self._view.size[::-1]]]])

    def _cut(self, figure: Figure, made: Array, result: Bytes) -> list[str]:
        path = self._root / figure.file
        try:
            with Image.open(path) as picture:
                image = upright(picture, self._view.normalise.channels)
        except UNREADABLE as error:
            return [f"data: {path} cannot be decoded ({reason(error, path)}); remove or replace it"]
        if image.size != figure.size:
            given, stated = (f"{wide}x{high}" for wide, high in (image.size, figure.size))
            return [f"data: {path} is of {given} pixels, and its annotation says {stated}; points would be off"]
        result[:] = cut_figure(image, made, self._view.size, self._view.normalise.channels)
        return []

    def fingerprint(self) -> str:
        if not self._content:
            digest = hashlib.sha256(repr((self._view, self.classes, self._swapped.tolist())).encode())
            known = file_digests(self._root, dict.fromkeys(figure.file for figure in self.figures))
            for figure in self.figures:
                digest.update(repr((known[figure.file], figure.box, figure.area, figure.points.tolist())).encode())
            self._content = digest.hexdigest()
        return self._content
