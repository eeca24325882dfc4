"""Our post-training int8 against NNCF's and onnxruntime's own: same float file, same samples, on both engines.

Ours also looks at labels of validation, as the stage ``quantize_model`` does: of four ways it takes the best one.

``python -m tests.bench int8`` takes a network after the other; ``int8:vit`` one of them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from compress.execution.progress import StreamProgress
from compress.methods.quantization.observer import Observer
from compress.methods.quantization.option_search import choose_options
from compress.methods.quantization.post_training import QuantizedModel, quantize_model
from compress.stages.quantize import QuantizeStage
from deploy.devices import device
from deploy.engines import engine
from deploy.engines.inputs import Inputs, as_feed, input_names
from deploy.measure.parity import parity
from deploy.worker.client import RemoteWorker
from profiles.device import load
from tests.bench.figure import Figure, Table, at_most
from tests.bench.int8_subjects import FROM_DATA, SUBJECTS, Subject
from tests.bench.prunable import Some
from tests.bench.running import MISSING
from tests.bench.timing import Variant, p50_ms
from tests.bench.tools import nncf_int8, ort_int8

PARTS = tuple(SUBJECTS)
ENGINES = ("openvino", "onnxruntime")
TOOLS = ("nncf", "onnxruntime")
LEEWAY_POINTS, LEEWAY_TIME = 0.1, 1.02
UNTIMED = ("squeezenet_seen",)
"""The same network on other samples."""
DRAWS = {"resnet20": 3, "resnet56": 3, "squeezenet": 3, "squeezenet_seen": 3, "fastestdet": 3}
"""Of half of the calibration samples, where one draw tells little: all three tools get each, and means are compared."""
SECONDS, ROUNDS = 2.5, 5
"""Of a variant's timing in one process, and processes: what a process gets of the machine's memory stays with it."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file is worth on an engine.

    Attributes:
        cosine: of its outputs to the float file's there.
        rounds_ms: its p50 in each round, in which all variants were timed by turns.
    """

    accuracy: float
    cosine: float
    rounds_ms: tuple[float, ...]


def run(part: str) -> Table:
    if part in FROM_DATA and "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    subject = SUBJECTS[part]()
    draws = [
        _judged_once(each, timed=number == 0 and part not in UNTIMED)
        for number, each in enumerate(_draws(subject, DRAWS.get(part, 1)))
    ]
    figures = [figure for name in ENGINES for figure in _figures(name, [found for found, _ in draws])]
    size = len(subject.test)
    told = "; ".join(", ".join(f"{ways[name]} on {name}" for name in ENGINES) for _, ways in draws)
    remarks = [
        f"{size:,} test samples: a tenth of a point is {size / 1000:.1f} of them",
        f"ours chooses on {len(subject.validation):,} samples of validation: {told}",
    ]
    if len(draws) > 1:
        remarks.append(
            f"accuracies and cosines are means over {len(draws)} draws of the calibration samples, with half the range"
        )
    return Table(figures=figures, remarks=remarks)


def _draws(subject: Subject, draws: int) -> list[Subject]:
    half = len(subject.calibration) // 2
    drawn = [replace(subject, calibration=Some(subject.calibration, half, seed)) for seed in range(draws)]
    return drawn if draws > 1 else [subject]


def _judged_once(subject: Subject, *, timed: bool) -> tuple[dict[tuple[str, str], Found], dict[str, str]]:
    with tempfile.TemporaryDirectory() as scratch:
        made, ways = files(subject, Path(scratch))
        return measured(subject, made, SECONDS if timed else 0.0), ways


def files(subject: Subject, scratch: Path) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
    """The float file and the three int8 files by who made them and engine, and over which ranges ours is.

    Ours is made for each engine's recipe.
    """
    samples = subject.calibration.load(np.arange(min(subject.calibrated_on, len(subject.calibration)))).inputs
    paths = {who: scratch / f"{who}.onnx" for who in ("float", "nncf", "onnxruntime")}
    onnx.save(subject.model, str(paths["float"]))
    onnx.save(nncf_int8(subject.model, samples, transformer=subject.transformer), str(paths["nncf"]))
    ort_int8(paths["float"], paths["onnxruntime"], samples, scratch)
    made = {who: dict.fromkeys(ENGINES, path) for who, path in paths.items()}
    made["ours"], ways = {}, {}
    recipes = {name: load("cpu").runtime(name).quantization for name in ENGINES}
    for recipe in set(recipes.values()):
        path = scratch / f"ours-{recipe}.onnx"
        found, way = _ours(subject, recipe)
        onnx.save(found.onnx(), str(path))
        for name in ENGINES:
            if recipes[name] == recipe:
                made["ours"][name], ways[name] = path, way
    return made, ways


def _ours(subject: Subject, recipe: str) -> tuple[QuantizedModel, str]:
    """As the first attempt of the stage ``quantize_model`` makes it."""
    observer = Observer()
    ways = QuantizeStage().ways()
    found = {way: quantize_model(subject.model, subject.calibration, recipe, way, observer) for way in ways}
    best, _ = choose_options(found, subject.task, subject.validation, StreamProgress())
    return found[best], f"{best.ranges}{'' if best.biases else ' without biases'}"


def measured(subject: Subject, made: dict[str, dict[str, Path]], seconds: float = SECONDS) -> dict[tuple[str, str], Found]:
    """Accuracy, cosine and p50 of each file on each engine, all latencies interleaved."""
    variants: dict[str, Variant] = {
        f"{who} {name}": (path, name, "fp32" if who == "float" else "int8")
        for who, paths in made.items()
        for name, path in paths.items()
    }
    feed = as_feed(subject.test.load(np.arange(1)).inputs, [given.name for given in subject.model.graph.input])
    rounds = [p50_ms(variants, feed, seconds) for _ in range(ROUNDS if seconds else 0)]
    outputs = {key: _judged(subject, *variant) for key, variant in variants.items()}
    found = {}
    for key, (accuracy, made_there) in outputs.items():
        who, name = key.split()
        cosine = parity(outputs[f"float {name}"][1], made_there).cosine
        found[who, name] = Found(accuracy=accuracy, cosine=cosine, rounds_ms=tuple(each[key] for each in rounds))
    return found


def _judged(subject: Subject, path: Path, name: str, precision: str) -> tuple[float, npt.NDArray[Any]]:
    """The metric on the engine, and its first outputs."""
    kept: list[npt.NDArray[Any]] = []
    runtime = engine(name)
    with tempfile.TemporaryDirectory() as scratch, RemoteWorker(device("local")) as worker:
        folder = Path(scratch) / "engine"
        worker.build(path, runtime.plan(load("cpu"), precision, runtime.affinity().version), folder)
        names = input_names(worker.open(folder))

        def predict(inputs: Inputs) -> list[npt.NDArray[Any]]:
            made = list(worker.infer(as_feed(inputs, names)).values())
            kept.append(made[0])
            return made

        value = subject.task.evaluate(predict, subject.test).value
    return value, np.concatenate(kept)


def _figures(name: str, draws: list[dict[tuple[str, str], Found]]) -> Iterator[Figure]:
    everyone = ("float", "ours", *TOOLS)
    accuracy = {who: [found[who, name].accuracy for found in draws] for who in everyone}
    rounds = {who: draws[0][who, name].rounds_ms for who in everyone}
    behind = max(statistics.mean(accuracy[who]) for who in TOOLS) - statistics.mean(accuracy["ours"])
    yield at_most(f"{name}: points below the better of the two", LEEWAY_POINTS, behind, "")
    if rounds["ours"]:
        yield _slower(name, rounds)
    for who in everyone:
        spread = f" ± {(max(accuracy[who]) - min(accuracy[who])) / 2:.2f}" if len(draws) > 1 else ""
        cosine = statistics.mean(found[who, name].cosine for found in draws)
        time = f"; {statistics.median(rounds[who]):.3f} ms" if rounds[who] else ""
        told = f"{statistics.mean(accuracy[who]):.2f}{spread} (cosine {cosine:.5f}){time}"
        yield Figure(what=f"{who} on {name}", asked="", measured=told, met=None)


def _slower(name: str, rounds: Mapping[str, Sequence[float]]) -> Figure:
    """Ours against the faster of both tools, by the median of the rounds' ratios."""
    ratios = [[ours / theirs for ours, theirs in zip(rounds["ours"], rounds[who], strict=True)] for who in TOOLS]
    return at_most(f"{name}: p50 against the faster of the two", LEEWAY_TIME, max(statistics.median(r) for r in ratios))
