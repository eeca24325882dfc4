"""What is before and after a model, of a bundle's data: raw sample -> inputs, outputs -> answer. numpy and Pillow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy.typing as npt

from deploy.processing.postprocessing import POSTPROCESSING
from deploy.processing.postprocessing.base import Answer, Postprocessing
from deploy.processing.preprocessing import PREPROCESSING
from deploy.processing.preprocessing.base import Prepared, Preprocessing
from deploy.processing.raws import Raw
from deploy.processing.tiles import run_in_tiles
from profiles.errors import UserError, one_line
from profiles.tables import load_object

BEFORE_FILE, AFTER_FILE = "preprocessing.json", "postprocessing.json"
SCHEMA = 1
PACKAGES = {"PIL": "pillow"}
MOST_BYTES = 1 << 22
MARGIN = 16
"""Pixels that tiles of a picture overlap to each side, at most a quarter of a tile."""
OTHER = (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError)


@final
@dataclass(frozen=True, kw_only=True)
class Processing:
    """Preprocessing and postprocessing of one model."""

    before: Preprocessing
    after: Postprocessing

    def prepare(self, raw: Raw) -> Prepared:
        """Prepare a raw sample.

        Raises:
            UserError: it is none that the model takes.
        """
        if raw.box is not None and not self.before.takes_box:
            raise UserError("a box is of a figure with keypoints; this model takes the whole picture")
        return self.before(raw.value, raw.box) if self.before.takes_box else self.before(raw.value)

    def answer(self, outputs: Sequence[npt.NDArray[Any]], prepared: Prepared) -> Answer:
        """Make the answer of the outputs of one sample, (1, ...) each.

        Raises:
            ValueError: they are of another shape than is read.
        """
        return self.after(outputs, prepared)


def is_described(data: Mapping[str, Any]) -> bool:
    """Return whether a preprocessing.json names a part; those of earlier versions, and of sources of one's own, do not."""
    return "use" in data


def load(folder: Path) -> Processing:
    """Read what is before and after the model of the bundle in ``folder``.

    Raises:
        UserError: it is not described, or names parts or settings that there are not.
    """
    before = read_table(folder, BEFORE_FILE)
    if not is_described(before):
        raise UserError(
            f"{folder}: {BEFORE_FILE} names no preprocessing: the bundle is of an earlier version, or its data of a source "
            "of one's own; make the inputs as the file says and use deploy.bundle.bundle.opened, or run compress again"
        )
    if not (folder / AFTER_FILE).exists():
        raise UserError(
            f"{folder}: there is no {AFTER_FILE}: the bundle takes inputs as the model does; use deploy.bundle.bundle.opened"
        )
    after = read_table(folder, AFTER_FILE)
    return Processing(
        before=_part(folder, BEFORE_FILE, before, PREPROCESSING), after=_part(folder, AFTER_FILE, after, POSTPROCESSING)
    )


def read_table(folder: Path, name: str) -> dict[str, Any]:
    """Read one of a bundle's two tables of parts.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        if (folder / name).stat().st_size > MOST_BYTES:
            raise ValueError(f"longer than {MOST_BYTES} bytes")
        data = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error), 120)
        raise UserError(f"{folder}: {name} cannot be read ({reason}); get the bundle again") from None
    if not isinstance(data, dict):
        raise UserError(f"{folder}: {name} holds no table; get the bundle again")
    return data


def _part(folder: Path, name: str, data: Mapping[str, Any], table: Mapping[str, str]) -> Any:
    use = data.get("use")
    if not isinstance(use, str) or use not in table or data.get("schema", SCHEMA) != SCHEMA:
        given = one_line(ascii(use), 60)
        raise UserError(
            f"{folder}: {name} asks for {given} of schema {ascii(data.get('schema'))[:20]}; this device side has "
            f"{', '.join(table)} of schema {SCHEMA}: bring the one that came with the bundle"
        )
    try:
        return load_object(table[use]).from_json(data, folder)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(error.name or "", error.name)
        raise UserError(f"{folder}: {name} asks for {use!r}, which needs {package} here; pip install {package}") from None
    except UserError as error:
        reason = "; ".join(error.faults)
    except OTHER as error:
        reason = f"{type(error).__name__}: {error}"
    raise UserError(f"{folder}: {name} has settings that are not possible ({one_line(reason, 200)}); get the bundle again")


def run_tiles(run: Any, inputs: npt.NDArray[Any], size: tuple[int, int], batch: int) -> npt.NDArray[Any]:
    """Run an engine of one size on a picture (1, channels, height, width) of any, in tiles that overlap."""
    margin = min(MARGIN, min(size) // 4)
    if inputs.shape[2:] == size:
        margin = 0
    return run_in_tiles(run, inputs[0], size, margin, batch)[None]
