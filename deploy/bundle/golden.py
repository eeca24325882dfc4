"""Golden samples of a bundle: run them, and compare an engine built here with the proven one.

golden.npz holds ``input`` of shape (samples, ...), or ``input.NAME`` for each input of a model with several, in its order;
``output`` (the first output) and ``output.1``, ``output.2``, ... (the others, in the model's order). Of a model with states
inputs and outputs are whole sequences, (sequences, steps, ...).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.engines import Session
from deploy.engines.inputs import Inputs
from deploy.engines.served import Served
from deploy.engines.served import run as run_served
from deploy.files.npz import ArraysError, read_arrays
from deploy.measure.parity import parity

INPUT = "input"
LEAST_COSINE = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.999, "int8": 0.99}
"""By precision: rounding and another processor's kernels stay above it by far, a wrong build does not."""
MOST_BYTES = 1_000_000
"""Of golden.npz: a bundle is sent to many devices."""
MOST_FLIPS = {"fp32": 0.0}
OTHER_FLIPS = 1 / 16
"""Fraction of samples whose largest output may be another one: a tie may fall either way, except in fp32."""


@final
@dataclass(frozen=True, kw_only=True)
class GoldenCheck:
    """Distance of an engine's outputs from a bundle's golden outputs; of several outputs, the worst.

    Attributes:
        flips: samples whose largest value is another one, of an output of shape (samples, classes); 0 for other shapes.
    """

    max_abs: float
    cosine: float
    top1_agreement: float
    flips: int
    samples: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def pack(inputs: Inputs, outputs: Sequence[npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of golden.npz."""
    given = {f"{INPUT}.{name}": a for name, a in inputs.items()} if isinstance(inputs, Mapping) else {INPUT: inputs}
    return {**given, **{_name(i): output for i, output in enumerate(outputs)}}


def fitting(arrays: Mapping[str, npt.NDArray[Any]], most_bytes: int = MOST_BYTES) -> bytes:
    """Return golden.npz of as many first samples as ``most_bytes`` hold, deflated; of one at least, however large.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(16, 1000))
        >>> content = fitting({"input": noise, "output": np.ones((16, 2))}, 50_000)
        >>> len(content) <= 50_000, len(np.load(io.BytesIO(content))["input"])
        (True, 6)
    """
    samples = min((len(array) for array in arrays.values()), default=0)
    while True:
        stream = io.BytesIO()
        np.savez_compressed(stream, **{name: array[:samples] for name, array in arrays.items()})  # type: ignore[arg-type]
        size = stream.tell()
        if size <= most_bytes or samples <= 1:
            return stream.getvalue()
        samples = max(min(samples - 1, int(samples * most_bytes / size)), 1)


def normal_difference(precision: str) -> str:
    """Say which difference from the golden outputs is normal, for all of a model's outputs together."""
    least, most = LEAST_COSINE[precision], MOST_FLIPS.get(precision, OTHER_FLIPS)
    flips = "no sample" if most == 0 else f"one sample in {1 / most:.0f}"
    return f"each output has a cosine of {least:g} or more with the golden one, and {flips} another largest class"


def check(session: Session | Served, golden: Path) -> GoldenCheck:
    """Run the golden samples and compare every output.

    Raises:
        ValueError: the engine has other inputs, or gives outputs of another number, shape, or not a number.
    """
    arrays = read(golden)
    inputs, expected = unpack(arrays)
    return compare(expected, run(session, inputs))


def unpack(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Inputs, list[npt.NDArray[Any]]]:
    """Return the inputs and the outputs among the arrays of golden.npz."""
    given = {name.removeprefix(f"{INPUT}."): array for name, array in arrays.items() if _is_input(name)}
    return arrays.get(INPUT, given), [arrays[_name(i)] for i in range(len(arrays) - len(given))]


def read(golden: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of golden.npz: numbers, of as many samples each, under the names that ``pack`` gives.

    Raises:
        ValueError: it is another file.
    """
    try:
        arrays = read_arrays(golden)
    except OSError as error:
        raise ValueError(f"{golden.name} cannot be read ({error.strerror})") from None
    except ArraysError as error:
        raise ValueError(f"{golden.name} {error}") from None
    inputs = {name for name in arrays if _is_input(name)}
    if len(inputs) != 1 and INPUT in inputs:
        raise ValueError(f"{golden.name} holds no samples with their outputs")
    names = {*inputs, *(_name(i) for i in range(len(arrays) - len(inputs)))}
    is_plain = all(a.ndim > 0 and len(a) > 0 and a.dtype.kind in "fiub" for a in arrays.values())
    if (
        set(arrays) != names
        or not 0 < len(inputs) < len(names)
        or not is_plain
        or len({len(a) for a in arrays.values()}) != 1
    ):
        raise ValueError(f"{golden.name} holds no samples with their outputs")
    return arrays


def run(session: Session | Served, inputs: Inputs) -> list[npt.NDArray[Any]]:
    """Return outputs of an engine for ``inputs`` of shape (samples, ...), or several by name; of sequences at every step.

    Raises:
        ValueError: the engine has other inputs.
    """
    return run_served(session, inputs, every=True)


def compare(expected: Sequence[npt.NDArray[Any]], got: Sequence[npt.NDArray[Any]]) -> GoldenCheck:
    """Compare two lists of outputs.

    Raises:
        ValueError: their number or shapes differ, or one is not a number.
    """
    if len(expected) != len(got):
        raise ValueError(f"the engine gives {len(got)} outputs; the golden samples have {len(expected)}")
    if not all(np.isfinite(value).all() for value in got):
        raise ValueError("the engine's outputs hold what is not a number")
    parities = [parity(a, b) for a, b in zip(expected, got, strict=True)]
    flips = [_flips(a, b) for a, b in zip(expected, got, strict=True)]
    return GoldenCheck(
        max_abs=max(p.max_abs for p in parities),
        cosine=min(p.cosine for p in parities),
        top1_agreement=min(p.top1_agreement for p in parities),
        flips=max(flips),
        samples=parities[0].samples,
    )


def faults(result: GoldenCheck, precision: str) -> list[str]:
    """Return why the engine is not the one that was proven; empty where it is."""
    least, most = LEAST_COSINE[precision], MOST_FLIPS.get(precision, OTHER_FLIPS) * result.samples
    reasons = []
    if not result.cosine >= least:
        reasons.append(f"golden outputs differ: cosine {result.cosine:.5f}; {precision} must reach {least}")
    if result.flips > most:
        reasons.append(
            f"golden outputs differ: {result.flips} of {result.samples} samples have another largest value; "
            f"{precision} may have {most:g}"
        )
    return reasons


def _flips(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    return int((a.argmax(-1) != b.argmax(-1)).sum()) if a.ndim == 2 and a.shape[1] > 1 else 0


def _is_input(name: str) -> bool:
    return name == INPUT or name.startswith(f"{INPUT}.")


def _name(index: int) -> str:
    return f"output.{index}" if index else "output"
