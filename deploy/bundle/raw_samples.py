"""raw.npz and answers.json of a bundle: the golden samples as an application has them, and the answers to expect.

A device proves its preprocessing by the golden inputs, its postprocessing by the answers to the golden outputs, and both
with its engine by the outputs for the raw samples.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.bundle import golden as goldens
from deploy.bundle.application import Application
from deploy.engines import Session
from deploy.engines.inputs import by_name, rows
from deploy.engines.served import Served
from deploy.files.npz import read_arrays
from deploy.measure.parity import parity
from deploy.processing import whole
from deploy.processing.raws import ANSWERS_FILE, RAW_FILE, Raw, unpack
from deploy.processing.summaries import is_alike, summary
from profiles.errors import UserError, one_line

LEAST_COSINE = 0.999
"""Of inputs made here with the golden ones: decoders of JPEG differ by a step here and there, a wrong mean by far more."""
MOST_ANSWERS_BYTES = 1 << 22


def read(folder: Path) -> list[Raw]:
    """Read raw.npz.

    Raises:
        ValueError: it is another file.
    """
    try:
        return unpack(read_arrays(folder / RAW_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{RAW_FILE}: {one_line(str(error), 120)}") from None


def unproven(folder: Path) -> str:
    """Say why the samples of a bundle cannot be proven from raw ones here; empty where they can, or have to fail."""
    if not (folder / RAW_FILE).is_file():
        return "the bundle has no raw samples"
    if importlib.util.find_spec("PIL") is None:
        return "Pillow is not installed here"
    is_text = (folder / "tokenizer.json").is_file()
    return "tokenizers is not installed here" if is_text and importlib.util.find_spec("tokenizers") is None else ""


def check(session: Session | Served, folder: Path, precision: str) -> int:
    """Run the raw samples of a bundle to answers, and compare each step with the golden one; return how many.

    Raises:
        UserError: the bundle's processing is unknown here, or its settings are not possible.
        ValueError: an input, an output or an answer is another; says which.
    """
    model = Application(session, whole.load(folder))
    raws = read(folder)
    inputs, expected = goldens.unpack(goldens.read(folder / "golden.npz"))
    wanted = _answers(folder)
    if not 0 < len(raws) <= len(expected[0]) or len(wanted) != len(raws):
        raise ValueError(f"{len(raws)} raw samples and {len(wanted)} answers are of {len(expected[0])} golden samples")
    got: list[list[npt.NDArray[Any]]] = []
    for number, raw in enumerate(raws):
        try:
            prepared = model.processing.prepare(raw)
        except UserError as error:
            raise ValueError(f"raw sample {number}: {error}") from None
        _compare_inputs(number, by_name(rows(inputs, slice(number, number + 1))), by_name(prepared.inputs))
        answer = summary(model.answer([output[number : number + 1] for output in expected], prepared))
        if not is_alike(answer, wanted[number]):
            raise ValueError(f"raw sample {number}: the answer to the golden outputs is another than in {ANSWERS_FILE}")
        outputs = model.run(prepared)
        model.answer(outputs, prepared)
        got.append(outputs)
    ours = [np.concatenate(parts) for parts in zip(*got, strict=True)]
    result = goldens.compare([output[: len(raws)] for output in expected], ours)
    if faults := goldens.faults(result, precision):
        raise ValueError(f"from raw samples: {'; '.join(faults)}")
    return len(raws)


def _compare_inputs(number: int, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if [array.shape for array in wanted.values()] != [given[name].shape for name in wanted if name in given]:
        raise ValueError(f"raw sample {number}: its inputs are of other shapes or names than the golden ones")
    for name, array in wanted.items():
        is_same = (
            parity(array, given[name]).cosine >= LEAST_COSINE
            if array.dtype.kind == "f" and array.any()
            else np.array_equal(array, given[name])
        )
        if not is_same:
            raise ValueError(f"raw sample {number}: the preprocessing here makes other inputs of it than the golden ones")


def _answers(folder: Path) -> Sequence[Any]:
    file = folder / ANSWERS_FILE
    try:
        if file.stat().st_size > MOST_ANSWERS_BYTES:
            raise ValueError(f"longer than {MOST_ANSWERS_BYTES} bytes")
        answers = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{ANSWERS_FILE} cannot be read ({one_line(str(error), 120)})") from None
    if not isinstance(answers, list):
        raise ValueError(f"{ANSWERS_FILE} holds no list")
    return answers
