"""Splits of samples that are in memory already: arrays and labels, or a PyTorch dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.base import NamedSamples, Splits, array_splits, assign_splits
from compress.data.transforms import Normalise, statistics
from deploy.engines.inputs import Inputs, count, describe
from profiles.errors import UserError

Pair = tuple[Inputs, npt.NDArray[Any]]
PARTS = ("train", "validation", "test")
MOST_CLASSES = 100_000


def split_arrays(
    parts: Mapping[str, Any],
    *,
    classes: Sequence[str] = (),
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: int = 0,
) -> Splits:
    """Split samples in memory; what of validation and test is missing is held out of train, as ``assign_splits`` says.

    Args:
        parts: ``train``, and ``validation`` and ``test`` where there are; each a pair of inputs (samples, ...) and labels
            (samples, ...), or a PyTorch dataset of such samples. Float inputs are taken as they are; uint8 images
            (samples, channels, height, width) are normalised by mean and deviation of the training images. The inputs of
            a model with several are a table by name: ``({"left": ..., "right": ...}, labels)``.
        classes: their names, in the order of the labels; without any they are called by their numbers.
        validation, test: shares below 1, or numbers of samples.

    Returns:
        The four splits; calibration is drawn from train.

    Raises:
        UserError: parts of other names or shapes, or too few samples; all of them.

    Example:
        >>> splits = compress.split_arrays({"train": (images, labels)}, validation=0.2, test=0.2, calibration=32)
        >>> len(splits.train), len(splits.validation), len(splits.test), len(splits.calibration)
        (308, 102, 102, 32)
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown or "train" not in parts:
        raise UserError(f"data: its parts are train, and validation and test where there are; given: {', '.join(parts)}")
    pairs = {name: _pair(name, part) for name, part in parts.items()}
    if faults := _unlike(pairs):
        raise UserError(*faults)
    counts = {name: count(inputs) for name, (inputs, _) in pairs.items()}
    chosen = assign_splits(
        counts, validation=validation, test=test, calibration=calibration, seed=seed, labels=pairs["train"][1]
    )
    inputs, labels = pairs["train"]
    normalise: Normalise | None = None
    if not isinstance(inputs, Mapping) and inputs.dtype == np.uint8:
        mean, deviation = statistics(inputs[chosen["train"][1]])
        normalise = Normalise(mean=mean, deviation=deviation)
    names = tuple(classes) or _numbered(labels)
    return array_splits(pairs, chosen, classes=names, normalise=normalise)


def _unlike(pairs: Mapping[str, Pair]) -> list[str]:
    """Say which parts have other inputs than train: names, shapes of a sample, types."""
    wanted = describe(pairs["train"][0])
    return [
        f"data: the inputs of {name} are {describe(inputs)}; those of train are {wanted}"
        for name, (inputs, _) in pairs.items()
        if describe(inputs) != wanted
    ]


def _numbered(labels: npt.NDArray[Any]) -> tuple[str, ...]:
    """Names of classes by their numbers, where the labels are class numbers."""
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or not labels.size:
        return ()
    most = int(labels.max()) + 1
    if most > max(MOST_CLASSES, labels.size):
        raise UserError(f"data: labels are class numbers from 0 on; the largest is {most - 1}, of {len(labels)} samples")
    return tuple(str(number) for number in range(most))


def _pair(name: str, part: Any) -> Pair:
    """Inputs and labels of one part as arrays."""
    if isinstance(part, tuple | list) and len(part) == 2:
        inputs, labels = _arrays(part[0]), np.asarray(part[1])
    elif hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        samples = [part[index] for index in range(len(part))]
        try:
            inputs, labels = _stacked([sample[0] for sample in samples]), _stacked([sample[1] for sample in samples])
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise UserError(f"data: {name}: its samples are pairs, input and label, of one shape ({error})") from None
    else:
        words = "a Splits, a pair (inputs, labels) or a PyTorch dataset"
        raise UserError(f"data: {name} is {words}; given: a {type(part).__name__}")
    if isinstance(inputs, Mapping):
        if labels.ndim < 1:
            raise UserError(f"data: {name}: labels are (samples, ...); given: {labels.shape}")
        NamedSamples(inputs, labels)  # says what is wrong with them
        return inputs, labels
    if len(inputs) != len(labels) or inputs.dtype == object or labels.dtype == object:
        raise UserError(f"data: {name}: as many labels as inputs, both numbers; given: {inputs.shape} and {labels.shape}")
    floats = inputs.dtype.kind == "f" and inputs.dtype != np.float32
    return np.ascontiguousarray(inputs.astype(np.float32) if floats else inputs), labels


def _arrays(inputs: Any) -> Inputs:
    """Make arrays of inputs: one, or a table by name."""
    try:
        return (
            {name: np.asarray(each) for name, each in inputs.items()} if isinstance(inputs, Mapping) else np.asarray(inputs)
        )
    except ValueError as error:
        raise UserError(f"data: inputs are arrays of one shape a sample ({error})") from None


def _stacked(samples: Sequence[Any]) -> Any:
    """Stack samples of one shape: arrays, or tables of arrays by name."""
    if isinstance(samples[0], Mapping):
        return {name: np.stack([np.asarray(sample[name]) for sample in samples]) for name in samples[0]}
    return np.stack([np.asarray(sample) for sample in samples])
