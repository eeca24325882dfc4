"""Images of any size through an engine of one size: tiles that overlap, of each the inside is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def run_in_tiles(run: Callable[[Array], Array], image: Array, tile: tuple[int, int], margin: int, batch: int = 1) -> Array:
    """Run ``run`` on an image of any size, tile by tile.

    A tile's ``margin`` lies in its neighbours, and its results there are left out. No seam is seen where nothing farther
    away than the margin has a say in a result: of 3x3 convolutions each adds a pixel of the input to it. At the edges of
    the image tiles end with it, as they would whole.

    Args:
        run: from (``batch``, channels, *tile) to (``batch``, channels, times both sides), the same ``times`` each time.
        image: (channels, height, width); what is smaller than a tile is repeated at its right and lower edge.
        margin: pixels of the input.

    Raises:
        ValueError: a margin that leaves nothing of a tile.

    Example:
        >>> run_in_tiles(lambda tiles: 2 * tiles, np.ones((3, 50, 70)), (32, 32), margin=4).shape
        (3, 50, 70)
    """
    if margin < 0 or 2 * margin >= min(tile):
        raise ValueError(f"a margin of {margin} pixels leaves nothing of tiles of {tile[1]}x{tile[0]}")
    _, height, width = image.shape
    spare = [(0, 0), *[(0, max(0, side - own)) for side, own in zip(tile, (height, width), strict=True)]]
    padded = np.pad(image, spare, mode="edge")
    rows, columns = (_starts(own, side, margin) for own, side in zip(padded.shape[1:], tile, strict=True))
    places = [(top, left) for top in rows for left in columns]
    result: Array | None = None
    times = 1
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        cut = np.stack([padded[:, top : top + tile[0], left : left + tile[1]] for top, left in some])
        filled = np.concatenate([cut, *[cut[-1:]] * (batch - len(some))])
        made = run(np.ascontiguousarray(filled))
        times = made.shape[-1] // tile[1]
        if result is None:
            result = np.empty((made.shape[1], times * padded.shape[1], times * padded.shape[2]), made.dtype)
        for part, (top, left) in zip(made, some, strict=False):
            down, across = _inside(top, rows, tile[0], margin), _inside(left, columns, tile[1], margin)
            inside = part[:, times * down[0] : times * down[1], times * across[0] : times * across[1]]
            y, x = times * (top + down[0]), times * (left + across[0])
            result[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
    assert result is not None
    return result[:, : times * height, : times * width]


def _starts(length: int, tile: int, margin: int) -> list[int]:
    """Return where tiles begin along a side, so that their insides cover it; the last ends with it."""
    last = length - tile
    return [*range(0, last, tile - 2 * margin), last]


def _inside(start: int, starts: list[int], tile: int, margin: int) -> tuple[int, int]:
    """Return what of a tile is taken: all but the margins, and these too at an edge of the image."""
    return (0 if start == starts[0] else margin), (tile if start == starts[-1] else tile - margin)
