"""Raw outputs, for tasks that have no part here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from deploy.processing.postprocessing.base import Answer, Array, Postprocessing
from deploy.processing.preprocessing.base import Prepared


@final
@dataclass(frozen=True, kw_only=True)
class Outputs(Postprocessing):
    """The outputs as they are."""

    gives = "outputs (the model's, in its order, without the axis of samples)"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        return {"outputs": [output[0] for output in outputs]}
