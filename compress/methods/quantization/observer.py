"""Observer: histograms of a float model's tensors, kept for the next recipe of the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import final

import onnx

from calib.ranges import Histogram
from compress.data import Samples
from deploy.engines.inputs import Inputs
from deploy.onnx_graph.observe import observe
from deploy.qdq.placement import Placement, place
from profiles.quantization import QUANTIZATION

CHUNK = 64
MOST_MODELS = 4


@final
class Observer:
    """Histograms of tensors by model and samples, of the last ``MOST_MODELS``; 16 KiB a tensor whatever the samples.

    The recipes of a device place their pairs at nearly the same tensors, so a model is run once for all of them.

    Args:
        recipes: names of ``QUANTIZATION`` that a model will be calibrated for besides the one it is watched for first.
    """

    def __init__(self, recipes: Iterable[str] = ()) -> None:
        self._recipes = tuple(recipes)
        self._seen: dict[str, dict[str, Histogram]] = {}

    def histograms(self, model: onnx.ModelProto, placement: Placement, samples: Samples) -> dict[str, Histogram]:
        """Return the histogram of each tensor that has a scale of its own in ``placement``, and perhaps of others.

        Raises:
            ValueError: a tensor held NaN or infinity; it is named.
        """
        content = model.SerializeToString(deterministic=True)
        key = hashlib.sha256(content).hexdigest() + samples.fingerprint()
        seen = self._seen.pop(key, {})
        wanted = scale_sources(placement)
        if not seen.keys() >= set(wanted):
            for recipe in self._recipes:
                wanted += scale_sources(place(model, QUANTIZATION[recipe]))
            seen |= observe(model, [name for name in wanted if name not in seen], sample_inputs(samples))
        self._seen[key] = seen  # the last used are last
        while len(self._seen) > MOST_MODELS:
            del self._seen[next(iter(self._seen))]
        return seen


def scale_sources(placement: Placement) -> list[str]:
    """List the tensors that the scales of a placement are computed from."""
    return list(dict.fromkeys(tensor for tensors in placement.observed_tensors().values() for tensor in tensors))


def sample_inputs(samples: Samples) -> Iterator[Inputs]:
    """Yield the inputs of all samples, some at a time."""
    for batch in samples.batches(CHUNK):
        yield batch.inputs
