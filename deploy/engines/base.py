"""The contract of an engine: plan (pure data), build, open, infer. Timing is not its business."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from deploy.engines.exports import ExportFormat, export_format
from profiles.device import DeviceProfile

Feed = Mapping[str, npt.NDArray[Any]]
PLAN_FILE = "engine.json"
RECORD_FILE = "engine.meta.json"


class EngineError(RuntimeError):
    """A runtime refused a model or failed while it ran it; names the engine and the runtime's own words."""


@dataclass(frozen=True, kw_only=True)
class Affinity:
    """How well an engine suits this machine: -1 cannot run, 0 if asked, 1 can, 2 made for it; and why.

    Attributes:
        machine: what of this machine a built engine depends on besides the runtime's version; an engine is rebuilt
            when it changes.
    """

    score: int
    reason: str
    version: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Everything that decides a build, as data: hashed, logged, testable without the hardware.

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
        """Name of the file that it is built from."""
        return self.format.file

    @property
    def format(self) -> ExportFormat:
        """Format of the file that it is built from."""
        return export_format(self.source)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, shape and numpy type of an engine's input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Session(ABC):
    """An opened engine. ``bind`` once, then ``run`` as often as wanted: only ``run`` is ever timed."""

    inputs: tuple[TensorSpec, ...]

    @abstractmethod
    def bind(self, feed: Feed) -> None:
        """Put the inputs where ``run`` finds them; arrays of exactly the shapes of ``inputs``."""

    @abstractmethod
    def run(self) -> None:
        """One inference, from bound inputs to finished outputs."""

    @abstractmethod
    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of the last run's outputs by name."""

    def own_ms(self) -> float | None:
        """Milliseconds of the last run by the runtime's own clock, which its own tools tell; None where it has none."""
        return None

    @final
    def infer(self, feed: Feed) -> dict[str, npt.NDArray[Any]]:
        """``bind``, ``run``, ``outputs``."""
        self.bind(feed)
        self.run()
        return self.outputs()


class Engine(ABC):
    """One runtime. Subclasses are final and import their runtime inside methods.

    Attributes:
        package: what is imported, and what pip knows it by.
        install_hint: where the runtime comes from when it is not there; a ``pip install`` unless it says so.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    install_hint: ClassVar[str] = ""

    @final
    def affinity(self) -> Affinity:
        """Whether this engine can run on this machine, and why not."""
        if importlib.util.find_spec(self.package) is None:
            remedy = self.install_hint or f"pip install {self.package}"
            return Affinity(score=-1, reason=f"{self.package} is not installed; {remedy}")
        try:
            version = importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return Affinity(score=-1, reason=f"a folder named {self.package} is in the way of the package; rename it")
        if why := self.obstacle():
            return Affinity(score=-1, reason=why, version=version)
        return Affinity(score=1, reason="installed", version=version, machine=self.machine())

    def obstacle(self) -> str:
        """Why this machine cannot run it though it is installed; empty when it can."""
        return ""

    def machine(self) -> dict[str, str]:
        """What of this machine a built engine depends on besides the runtime's version."""
        return {}

    @abstractmethod
    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        """Decide everything about a build of ``precision`` on the device of ``profile``; touches nothing."""

    @abstractmethod
    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        """Turn ``model``, a file of the plan's ``source``, into an engine in the empty ``folder``.

        Raises:
            EngineError: the runtime refused the model.
        """

    @abstractmethod
    def open(self, folder: Path, plan: BuildPlan) -> Session:
        """Load what ``build`` left in ``folder``.

        Raises:
            EngineError: the runtime refused it.
        """


def save_plan(folder: Path, plan: BuildPlan) -> None:
    """Write ``plan`` beside the engine it made."""
    (folder / PLAN_FILE).write_text(json.dumps(plan.as_json(), indent=1, sort_keys=True))


def load_plan(folder: Path) -> BuildPlan:
    """The plan an engine folder was built by."""
    return BuildPlan(**json.loads((folder / PLAN_FILE).read_text()))


def size_bytes(folder: Path) -> int:
    """Bytes of the engine in ``folder``, what is told of it not counted."""
    told = (PLAN_FILE, RECORD_FILE)
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.name not in told)


def check_feed(specs: tuple[TensorSpec, ...], feed: Feed) -> None:
    """Raise ``ValueError`` unless ``feed`` holds each input in its shape."""
    for spec in specs:
        if spec.name not in feed:
            raise ValueError(f"input {spec.name!r} is missing; given: {', '.join(feed) or 'nothing'}")
        if tuple(feed[spec.name].shape) != spec.shape:
            raise ValueError(f"input {spec.name!r} has shape {tuple(feed[spec.name].shape)}; the engine takes {spec.shape}")


def as_contiguous(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """``array`` as the runtime reads it: row-major, of ``dtype``."""
    return np.ascontiguousarray(array, dtype=np.dtype(dtype))


def pad_batch(rows: Any, batch: int) -> Any:
    """``rows`` filled up to ``batch`` with copies of the last."""
    missing = batch - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing > 0 else rows
