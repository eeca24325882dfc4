"""Pictures of which the middle, or all, is resized to the input (the sources images, huggingface, cifar, npz, digits)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from deploy.processing.normalisation import Normalise
from deploy.processing.pictures import shown_size
from deploy.processing.preprocessing.base import Box, Prepared, Preprocessing, Window, sides, whole
from deploy.processing.preprocessing.pixels import TAKES, as_inputs, input_faults, normalise_from, opened
from deploy.processing.resizing import INTERPOLATIONS, centre_box, decoded

MOST_SHORT_SIDE = 32768


@final
@dataclass(frozen=True, kw_only=True)
class ImagePart(Preprocessing):
    """A part of a picture.

    Attributes:
        size: height and width of the input.
        takes_bytes: whether the model normalises itself.
        short_side: what the shorter side is brought to before the middle is cut out; 0 for the whole picture.
        interpolation: of ``deploy.processing.resizing.INTERPOLATIONS``.
    """

    takes = TAKES
    size: tuple[int, int]
    short_side: int
    interpolation: str
    normalise: Normalise
    takes_bytes: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> ImagePart:
        crop, interpolation = data["crop"], str(data["interpolation"]).split(",")[0]
        if crop not in ("centre", "none") or interpolation not in INTERPOLATIONS:
            raise ValueError(f"crop {crop!r}, interpolation {interpolation!r}")
        short = whole(data, "short_side", MOST_SHORT_SIDE) if crop == "centre" else 0
        size = sides(data)
        normalise, takes_bytes = normalise_from(data), bool(data.get("bytes"))
        return cls(size=size, short_side=short, interpolation=interpolation, normalise=normalise, takes_bytes=takes_bytes)

    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        seen: list[tuple[float, float, float, float]] = []

        def part(width: int, height: int) -> tuple[float, float, float, float]:
            whole_picture = (0.0, 0.0, float(width), float(height))
            seen.append(centre_box(width, height, self.size, self.short_side) if self.short_side else whole_picture)
            return seen[0]

        with opened(raw) as picture:
            shown = shown_size(picture)
            pixels = decoded(picture, self.size, self.normalise.channels, part, self.interpolation)
        left, top, right, bottom = seen[0]
        across, down = self.size[1] / (right - left), self.size[0] / (bottom - top)
        window = Window(picture=shown, size=self.size, scale=(across, down), offset=(-left * across, -top * down))
        return Prepared(inputs=as_inputs(pixels, self.normalise, takes_bytes=self.takes_bytes), window=window)

    def faults(self, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
        return input_faults(inputs, self.size, self.normalise, takes_bytes=self.takes_bytes)
