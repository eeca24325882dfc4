"""``python -m deploy detect``: a bundle's engine on images, to detections, on the device. numpy and the runtime alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.bundle import bundle
from deploy.bundle.golden import run
from deploy.engines import EngineError
from deploy.files.npz import ArraysError, read_array
from deploy.processing.detection import decode
from deploy.processing.postprocessing.boxes import described
from profiles.errors import UserError

CHUNK = 16


def detect(arguments: list[str]) -> int:
    """Run ``detect BUNDLE INPUTS.npy``: print one JSON line of detections for each sample.

    INPUTS.npy is what the model takes, (samples, channels, height, width), or bytes (samples, height, width, channels) where
    it normalises itself, made as ``preprocessing.json`` says. A line is
    ``{"detections": [{"class": "RBC", "score": 0.91, "box": [x1, y1, x2, y2]}, ...]}``, best first, of those above the
    class's threshold; of heads that give them with ``"keypoints": [[x, y, score], ...]``, or a ``"mask"`` in COCO's runs,
    ``{"size": [height, width], "counts": [...]}``. Files of the bundle are checked; its signature is what ``verify`` checks.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy detect")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inputs", type=Path)
    options = parser.parse_args(arguments)
    try:
        for line in lines(options.bundle, options.inputs):
            sys.stdout.write(line + "\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (EngineError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def lines(folder: Path, inputs: Path) -> Iterator[str]:
    """Yield the line of each sample of an .npy file.

    Raises:
        UserError: the bundle is none of a detector, or was altered; or the file is none of inputs.
        EngineError: the runtime refused the model.
        ValueError: the inputs are not of the model's shape.
    """
    samples = _samples(inputs)
    with bundle.opened(folder) as session:
        decoding = decode.load(folder)
        if session.inputs[0].dtype == "uint8" and samples.dtype != np.uint8:  # else floats would become zeros
            raise UserError(f"{inputs}: the model normalises itself: give bytes (uint8), not {samples.dtype}")
        for start in range(0, len(samples), CHUNK):
            for found in decoding.objects(run(session, samples[start : start + CHUNK])):
                yield json.dumps({"detections": [_rounded(each) for each in described(found, decoding.classes)]})


def _rounded(about: dict[str, Any]) -> dict[str, Any]:
    """Round what is printed: scores to four digits, places to hundredths of a pixel."""
    kept = {**about, "score": round(about["score"], 4), "box": [round(side, 2) for side in about["box"]]}
    if "keypoints" in about:
        kept["keypoints"] = [[round(value, 2) for value in point] for point in about["keypoints"]]
    return kept


def _samples(path: Path) -> npt.NDArray[Any]:
    try:
        samples = read_array(path)
    except (OSError, ArraysError) as error:
        raise UserError(f"{path}: no .npy file of inputs ({str(error)[:120]}); write one by numpy.save") from None
    if samples.ndim < 2 or samples.dtype.kind not in "fiu":
        raise UserError(f"{path}: inputs are numbers of shape (samples, ...); write them by numpy.save")
    return samples if samples.dtype == np.uint8 else samples.astype(np.float32)
