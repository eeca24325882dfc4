"""Similarity: an embedding of length 1, so that the product of two is their cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from deploy.processing.postprocessing.base import Answer, Array, Postprocessing
from deploy.processing.preprocessing.base import Prepared

TINY = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class Embedding(Postprocessing):
    """An embedding (1, width) over its length."""

    gives = "embedding (float32, (width,), of length 1: a @ b is the similarity of two)"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        values = np.asarray(outputs[0], np.float64)
        if values.ndim != 2 or values.shape[0] != 1:
            raise ValueError(f"the model gives {values.shape} for one sample, which is no embedding (1, width)")
        return {"embedding": (values[0] / max(float(np.linalg.norm(values[0])), TINY)).astype(np.float32)}
