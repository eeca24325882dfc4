"""Arrays that are what the model takes already (float arrays in memory, several inputs by name)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from deploy.processing.preprocessing.base import Box, Prepared, Preprocessing
from profiles.errors import UserError, kind_with_article


@final
@dataclass(frozen=True, kw_only=True)
class Array(Preprocessing):
    """One sample as an array, or a table of arrays by the names of the inputs; without the axis of samples."""

    takes = "an array of the input's shape, or a table of arrays by name"

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Array:
        return cls()

    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        arrays = raw if isinstance(raw, Mapping) else {"": raw}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
                given = f"{name or 'it'} is {kind_with_article(array)}"
                raise UserError(f"{self.takes} is taken, made as preprocessing.json says; given: {given}")
        made = {name: np.asarray(array)[None] for name, array in arrays.items()}
        return Prepared(inputs=made if isinstance(raw, Mapping) else made[""])
