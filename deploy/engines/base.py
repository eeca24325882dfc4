"""Interface of engines: plan (pure data), build, open, infer. Timing is elsewhere (``deploy.measure.timing``)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from deploy.engines.exports import ExportFormat, export_format
from deploy.engines.placement import FILE as PLACEMENT_FILE
from profiles.device import DeviceProfile
from profiles.errors import one_line
from profiles.fields import MOST_NUMBER

Feed = Mapping[str, npt.NDArray[Any]]
PLAN_FILE = "engine.json"
RECORD_FILE = "engine.meta.json"


class EngineError(RuntimeError):
    """Failure of a runtime to build or run a model; carries the engine's name and the runtime's message."""


@dataclass(frozen=True, kw_only=True)
class Affinity:
    """Suitability of an engine for this machine, with the reason: -1 cannot run, 0 on request, 1 can, 2 made for it.

    Attributes:
        machine: facts about this machine on which a built engine depends besides the runtime's version; an engine is
            rebuilt when they change.
    """

    score: int
    reason: str
    version: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """All settings of a build, as data: hashed, logged, testable without the hardware.

    Attributes:
        version: full version of the runtime that builds; an engine is rebuilt when it changes.
        options: the runtime's own option names and values.
        source: name in ``deploy.engines.exports.EXPORTS`` of the format of the file that it is built from.
    """

    engine: str
    precision: str
    batch: int
    threads: int
    version: str
    options: Mapping[str, str] = field(default_factory=dict)
    source: str = "onnx"

    @property
    def model_file(self) -> str:
        """Name of the model file."""
        return self.format.file

    @property
    def format(self) -> ExportFormat:
        """Format of the model file."""
        return export_format(self.source)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> BuildPlan:
        """Restore a plan from ``as_json``; what comes from elsewhere may hold anything.

        Raises:
            ValueError: it is no plan.
        """
        if not isinstance(data, Mapping) or set(data) - {each.name for each in fields(cls)}:
            raise ValueError("it has other keys than a plan")
        try:
            plan = cls(**data)
        except TypeError:
            raise ValueError("it lacks keys of a plan") from None
        texts = (plan.engine, plan.precision, plan.version, plan.source)
        numbers = (plan.batch, plan.threads)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("engine, precision, version and source are names")
        if not all(type(number) is int and 0 <= number <= MOST_NUMBER for number in numbers):
            raise ValueError(f"batch and threads are whole numbers up to {MOST_NUMBER:,}")
        options = plan.options
        if not isinstance(options, Mapping) or not all(isinstance(text, str) for pair in options.items() for text in pair):
            raise ValueError("options are texts")
        return plan


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, shape and numpy type of an engine's input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Session(ABC):
    """An opened engine. ``bind`` once, then ``run`` any number of times: only ``run`` is timed."""

    inputs: tuple[TensorSpec, ...]

    @abstractmethod
    def bind(self, feed: Feed) -> None:
        """Bind the inputs for ``run``: arrays of exactly the shapes of ``inputs``.

        Raises:
            ValueError: an input is missing or has another shape.
        """

    @abstractmethod
    def run(self) -> None:
        """Run one inference, from bound inputs to finished outputs."""

    @abstractmethod
    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of the last run's outputs by name."""

    def own_ms(self) -> float | None:
        """Return the milliseconds of the last run by the runtime's own clock; None where it has none."""
        return None

    @final
    def infer(self, feed: Feed) -> dict[str, npt.NDArray[Any]]:
        """Bind ``feed``, run once and return the outputs by name."""
        self.bind(feed)
        self.run()
        return self.outputs()


class Engine(ABC):
    """A runtime. Subclasses are final and import their runtime inside methods.

    Attributes:
        name: word for the engine in profiles and recipes.
        package: name of the Python package, for import and for pip.
        precisions: names of the precisions that it can run.
        install_hint: how to install the runtime, where not by ``pip install`` of ``package``.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    install_hint: ClassVar[str] = ""

    @final
    def affinity(self) -> Affinity:
        """Return whether this engine can run on this machine, and why not."""
        if importlib.util.find_spec(self.package) is None:
            remedy = self.install_hint or f"pip install {self.package}"
            return Affinity(score=-1, reason=f"{self.package} is not installed; {remedy}")
        version = package_version(self.package)
        if not version:
            return Affinity(score=-1, reason=f"a folder named {self.package} is in the way of the package; rename it")
        if why := self.obstacle():
            return Affinity(score=-1, reason=why, version=version)
        return Affinity(score=1, reason="installed", version=version, machine=self.machine())

    def obstacle(self) -> str:
        """Return why this machine cannot run an installed engine; empty when it can."""
        return ""

    def machine(self) -> dict[str, str]:
        """Return the facts about this machine on which a built engine depends besides the runtime's version."""
        return {}

    def remark(self, folder: Path, plan: BuildPlan) -> str:
        """Say what of the engine in ``folder`` runs elsewhere than the engine's name says; empty where nothing does."""
        return ""

    @abstractmethod
    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        """Plan a build of ``precision`` for the device of ``profile``; reads and writes nothing."""

    @abstractmethod
    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        """Build ``model``, a file of the format ``plan.source``, into an engine in the empty ``folder``.

        Raises:
            EngineError: the runtime refused the model.
        """

    @abstractmethod
    def open(self, folder: Path, plan: BuildPlan) -> Session:
        """Open the engine that ``build`` wrote to ``folder``.

        Raises:
            EngineError: the runtime refused it.
        """


def package_version(package: str) -> str:
    """Return the version of a package by its name for import; its wheel may have another one (``onnxruntime-gpu``)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        wheels = importlib.metadata.packages_distributions().get(package, ())
        return next((importlib.metadata.version(wheel) for wheel in wheels), "")


def save_plan(folder: Path, plan: BuildPlan) -> None:
    """Write ``plan`` beside its engine."""
    (folder / PLAN_FILE).write_text(json.dumps(plan.as_json(), indent=1, sort_keys=True))


def load_plan(folder: Path) -> BuildPlan:
    """Read the plan of an engine folder.

    Raises:
        EngineError: there is none, or it is damaged.
    """
    try:
        return BuildPlan.from_json(json.loads((folder / PLAN_FILE).read_text()))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(str(error), 200)
        raise EngineError(f"{folder}: {PLAN_FILE} is no plan of an engine ({reason}); build the engine again") from None


def size_bytes(folder: Path) -> int:
    """Sum the bytes of the engine in ``folder``, without what describes it."""
    descriptions = (PLAN_FILE, RECORD_FILE, PLACEMENT_FILE)
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.name not in descriptions)


def check_feed(specs: tuple[TensorSpec, ...], feed: Feed) -> None:
    """Raise ``ValueError`` unless ``feed`` holds each input in its shape."""
    for spec in specs:
        if spec.name not in feed:
            raise ValueError(f"input {spec.name!r} is missing; given: {', '.join(feed) or 'nothing'}")
        if tuple(feed[spec.name].shape) != spec.shape:
            raise ValueError(f"input {spec.name!r} has shape {tuple(feed[spec.name].shape)}; the engine takes {spec.shape}")


def as_contiguous(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Convert ``array`` to row-major order and ``dtype``, without a copy where it is so already."""
    return np.ascontiguousarray(array, dtype=np.dtype(dtype))
