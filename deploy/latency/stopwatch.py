"""Times of small models on one engine of one device, each measured once and kept. Host only."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, final

import onnx
from filelock import FileLock

from deploy.devices import Device
from deploy.engines import BuildPlan
from deploy.files import write_atomically
from deploy.onnx_graph.graph import NEVER_NEGATIVE, Graph
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.qdq.insert import Scales, activation_scale, insert, weight_scales
from deploy.qdq.placement import Placement, place
from deploy.worker.client import RemoteWorker
from profiles.json_text import parse_json
from profiles.quantization import QuantizationRecipe

SECONDS, PASSES, AT_ONCE = 0.03, 8, 64
RANGE = 4.0
MOST_NAMED = 5
"""Damaged lines that are named."""


class Bar(Protocol):
    """Display of how far a measurement is."""

    def advance(self, steps: int) -> None:
        """Count ``steps`` more as done."""


@final
class _NoBar:
    def advance(self, steps: int) -> None:
        pass


@final
@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Configuration of a table: an engine in a precision on a device.

    Attributes:
        recipe: how int8 is placed; None in float.
        key: everything that decides a measurement besides the model; names the file that keeps it.
    """

    device: Device
    plan: BuildPlan
    recipe: QuantizationRecipe | None
    key: str


@final
@dataclass(frozen=True, kw_only=True)
class Time:
    """Milliseconds of a model: the least of all inferences, and their median.

    Sums use the least: other load on the machine only ever adds time, and to some pieces more than to others.

    Attributes:
        passes_ms: medians of the blocks, which were in turns with those of the models that were asked with it.
    """

    least_ms: float
    p50_ms: float
    passes_ms: tuple[float, ...] = ()


@final
class Stopwatch:
    """Timing of models on an engine; every time is kept in a file for all runs.

    Args:
        bar: opens the display of a measurement of so many models. say: takes a line for the user.
    """

    def __init__(
        self,
        form: EngineConfig,
        folder: Path,
        bar: Callable[[int], AbstractContextManager[Bar]] = lambda total: nullcontext(_NoBar()),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._form, self._bar, self._say = form, bar, say
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{form.key}.jsonl"

    def times(self, models: Mapping[str, Callable[[], onnx.ModelProto]], passes: int = PASSES) -> dict[str, Time]:
        """Return the time of each model by name; equal names mean equal times.

        Args:
            passes: blocks of each model, in turns.

        Raises:
            EngineError: the runtime refuses a model.
        """
        with FileLock(self._file.with_suffix(".lock")):
            cached = self._cached()
            missing = [name for name in models if name not in cached]
            with self._bar(len(missing)) if missing else nullcontext(_NoBar()) as bar:
                for start in range(0, len(missing), AT_ONCE):
                    part = missing[start : start + AT_ONCE]
                    cached |= self._timed({name: models[name] for name in part}, passes)
                    bar.advance(len(part))
        return {name: cached[name] for name in models}

    def _cached(self) -> dict[str, Time]:
        if not self._file.exists():
            return {}
        lines = self._file.read_text(errors="replace").splitlines()
        read = [(number, line, _entry(line)) for number, line in enumerate(lines, 1)]
        if damaged := [number for number, _, entry in read if entry is None]:
            # Taken out, or what is appended would go on with a line that was cut.
            write_atomically(self._file, "".join(f"{line}\n" for _, line, entry in read if entry is not None).encode())
            told = ", ".join(map(str, damaged[:MOST_NAMED])) + (", ..." if len(damaged) > MOST_NAMED else "")
            self._say(f"  {self._file}: damaged in line {told}; what stood there is timed again")
        return {entry[0]: entry[1] for _, _, entry in read if entry is not None}

    def _timed(self, models: Mapping[str, Callable[[], onnx.ModelProto]], passes: int) -> dict[str, Time]:
        with tempfile.TemporaryDirectory() as scratch, RemoteWorker(self._form.device) as worker:
            files = [Path(scratch) / f"{number}{self._form.plan.format.suffix}" for number in range(len(models))]
            for file, make in zip(files, models.values(), strict=True):
                file.write_bytes(model_bytes(_placed(make(), self._form.recipe), self._form.plan))
            found = worker.time_models(files, self._form.plan, SECONDS, passes)
        times = {
            name: Time(least_ms=least, p50_ms=p50, passes_ms=tuple(each))
            for name, least, p50, each in zip(models, *found, strict=True)
        }
        with self._file.open("a") as file_:
            file_.write("".join(_line(name, time) for name, time in times.items()))
        return times


def _line(name: str, time: Time) -> str:
    entry = {"model": name, **asdict(time)}
    return json.dumps({**entry, "sha256": _sha256(entry)}) + "\n"


def _entry(line: str) -> tuple[str, Time] | None:
    """Read a kept time; None for a line that is cut or damaged, whose model is timed again."""
    try:
        entry = parse_json(line)
        wanted = entry.pop("sha256")
        each = tuple(float(ms) for ms in entry["passes_ms"])
        time = Time(least_ms=float(entry["least_ms"]), p50_ms=float(entry["p50_ms"]), passes_ms=each)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return (str(entry["model"]), time) if wanted == _sha256(entry) else None


def _sha256(entry: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _placed(model: onnx.ModelProto, recipe: QuantizationRecipe | None) -> onnx.ModelProto:
    """Insert the Q/DQ pairs of ``recipe`` into a float model; without a recipe return it as it is."""
    return model if recipe is None else quantize_uncalibrated(model, recipe, place(model, recipe))


def quantize_uncalibrated(model: onnx.ModelProto, recipe: QuantizationRecipe, placement: Placement) -> onnx.ModelProto:
    """Insert the pairs of ``placement`` into a float model, at scales without calibration."""
    if not placement.weights:
        return model
    return insert(model, placement, _plausible(model, placement, recipe), recipe)


def _plausible(model: onnx.ModelProto, placement: Placement, recipe: QuantizationRecipe) -> Scales:
    """Make scales without calibration, with zero points where values may be negative: time depends on no more."""
    graph = Graph(model)
    scales: dict[str, tuple[float, int]] = {}
    for activation in placement.activations:
        producer = graph.producer(activation.source)
        positive = activation.source.startswith("positive/") if producer is None else producer.op_type in NEVER_NEGATIVE
        scales[activation.tensor] = activation_scale(0.0 if positive else -RANGE, RANGE, recipe, activation.bits)
    weights = {w.tensor: weight_scales(graph.constant(w.tensor), w.axis, recipe) for w in placement.weights}
    return Scales(activations=scales, weights=weights)
