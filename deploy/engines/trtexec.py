"""NVIDIA's own timing tool, asked for by name only: its flags by version, and what it writes.

Its defaults changed in TensorRT 11 (CUDA graph on, copies off, spin-wait on), so that the same words measure something
else: ``arguments`` says all of it in the words of the version. Facts: trtexec's source of 10.3 and 11.1.
"""

from __future__ import annotations

import json
from pathlib import Path

PATH_ON_JETSON = "/usr/src/tensorrt/bin/trtexec"
WARM_UP_MS = 1000
TIME_KEYS = ("h2dMs", "computeMs", "d2hMs", "latencyMs")


def arguments(engine: Path, version: str, seconds: float, times: Path, *, copies: bool) -> list[str]:
    """What follows ``trtexec`` to time an engine file and write each inference's times to ``times``.

    Args:
        version: of TensorRT, whose trtexec it is.
        copies: whether copies to and from the GPU are timed; the sessions of this product time them.
    """
    major = int(version.split(".")[0])
    if major >= 11:
        chosen = ["--includeDataTransfers"] if copies else []
    else:
        chosen = ["--useCudaGraph", "--useSpinWait", *([] if copies else ["--noDataTransfers"])]
    timing = [f"--warmUp={WARM_UP_MS}", f"--duration={max(1, round(seconds))}", "--iterations=10"]
    return [f"--loadEngine={engine}", *timing, *chosen, f"--exportTimes={times}"]


def times_ms(written: str) -> dict[str, list[float]]:
    """Milliseconds of each inference by what took them, from the JSON of ``--exportTimes``.

    ``latencyMs`` is the sum of the two copies and the computation, not the time that passed on the host.

    Raises:
        ValueError: it is not that file.
    """
    try:
        rows = json.loads(written)
        return {key: [float(row[key]) for row in rows] for key in TIME_KEYS}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not what trtexec --exportTimes writes: {error!r}") from None
