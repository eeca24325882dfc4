"""Frozen records of a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, final

from annotated_types import Ge, Gt, Lt
from pydantic import Field, TypeAdapter

from compress.methods.condensation.base import RecoverySet
from compress.methods.quantization.calibration_selection import CalibrationSpec
from compress.models.checkpoint import WeightsSpec
from compress.models.hub.records import Found
from compress.models.plan import Plan
from compress.recipe.inputs import FedState, FreeSize
from compress.recipe.student import StudentSpec
from compress.stages.base import Stage
from compress.training.schedule import Training
from deploy.measure.load import default_quiet_s


@final
@dataclass(frozen=True, kw_only=True)
class Use:
    """Name of a table or a ``module:callable``, and its keyword arguments: ``{use = "digits", seed = 1}``."""

    use: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True)
class Measure:
    """Seconds that each variant is timed for; a percentile that the samples cannot support is left out.

    Attributes:
        seconds: for the report's rows.
        gate_seconds: when the gate compares a stage's before and after; four times as long, again, where the rounds of that
            race do not agree on whether it gained.
        quiet_seconds: how long a race waits for a device that others use, before it is timed all the same and the report
            says so; 0 waits for nothing.
    """

    seconds: Annotated[float, Gt(0)] = 1.0
    gate_seconds: Annotated[float, Gt(0)] = 0.5
    quiet_seconds: Annotated[float, Ge(0)] = field(default_factory=default_quiet_s)


Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
"""SHA-256 in small hexadecimal digits, or nothing."""

Named = str | Mapping[str, Any]
"""A name, or a table of ``use`` and its arguments."""


@final
@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """[task] as it is written.

    Attributes:
        kind: what the model is for; ``compress tasks`` lists the names.
        data: where the samples come from; ``compress tasks`` lists the names.
    """

    kind: Named = "classification"
    data: Named


@final
@dataclass(frozen=True, kw_only=True)
class Plain:
    """What stands before the first table of a recipe.

    Attributes:
        seed: of everything that is drawn.
        trackers: that the trainings report to.
    """

    seed: Annotated[int, Ge(0)] = 0
    trackers: tuple[str, ...] = ()


Answering = Literal["openvino/fp32", "openvino/bf16", "openvino/int8", "onnxruntime/fp32", "onnxruntime/int8"]


@final
@dataclass(frozen=True, kw_only=True)
class AlsoSpec:
    """Further teacher: it teaches beside the first, and is neither measured nor compressed.

    Attributes:
        share: its weight in the mean of the teachers' probabilities; the first's is ``share`` of [teacher].
        weights, pretrained, revision, sha256: as of [teacher]; it needs one of the first two.
    """

    model: str
    weights: str | WeightsSpec | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    share: Annotated[float, Gt(0)] = 1.0
    pretrained: bool = False
    revision: str = ""
    sha256: Digest = ""


@final
@dataclass(frozen=True, kw_only=True)
class BaselineSpec:
    """Smaller model that is free to take: it is measured as the teacher is, and not compressed.

    Attributes:
        name: of its rows; that of its callable without one.
        weights, pretrained, revision, sha256: as of [teacher]; without any it is trained as [teacher] says, as long.
    """

    model: str
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str | WeightsSpec | None = None
    pretrained: bool = False
    revision: str = ""
    sha256: Digest = ""


@final
@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Models that a student has to beat beside the untouched teacher: smaller members of its family.

    Attributes:
        models: each by its callable's name, or a table.
    """

    models: tuple[str | BaselineSpec, ...] = ()


@final
@dataclass(frozen=True, kw_only=True)
class LabelledSpec:
    """Copy of the teacher that reads a map of labels beside the image, and teaches in its place.

    ``compress.methods.distillation.label_teacher`` has the method.

    Attributes:
        epochs, learning_rate: of its training, which starts from the teacher; the rest is as [teacher] says.
        scale: of what it reads for a label.
        noise: that each pixel of that is off by, in units of ``scale``.
        agreement: weight of the loss that two codes of the same labels lead to the same outputs.
    """

    epochs: Annotated[int, Ge(1)] = 10
    learning_rate: Annotated[float, Gt(0)] = 0.05
    scale: Annotated[float, Gt(0)] = 1.0
    noise: Annotated[float, Ge(0)] = 0.03
    agreement: Annotated[float, Ge(0)] = 2.5


@final
@dataclass(frozen=True, kw_only=True)
class TeacherSpec(Training):
    """Teacher: a model factory with its arguments, and weights or how to train it.

    Attributes:
        weights: a checkpoint or its address, or a table of its file, entry and prefix; without one the teacher is trained
            here, on labels alone.
        pretrained: whether ``timm:``, ``torchvision:`` or ``hf:`` brings its published weights.
        revision: which of them: a commit, branch or tag of the hub, or a name such as IMAGENET1K_V2 in torchvision.
        sha256: that the file of ``weights`` must have.
        also: further teachers; the student learns from the mean of all, by ``share``.
        mirrored: the teachers look twice, and their answer is the mean over an image and its mirror image; for images
            whose mirror means the same.
        labelled: a copy that reads labels teaches in its place.
        engine: what answers in its place: ``openvino/int8`` is this machine's OpenVINO on the teacher quantised without
            training. For training on a CPU, whose runtimes are faster than PyTorch there.
        shard: whether several processes hold a part of it each, while it is trained here and while it teaches.
    """

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str | WeightsSpec | None = None
    pretrained: bool = False
    revision: str = ""
    sha256: Digest = ""
    epochs: Annotated[int, Ge(1)] = 30
    share: Annotated[float, Gt(0)] = 1.0
    also: tuple[AlsoSpec, ...] = ()
    mirrored: bool = False
    labelled: LabelledSpec | None = None
    engine: Answering | None = None

    @property
    def is_published(self) -> bool:
        """Say whether it brings published weights."""
        return self.pretrained or bool(self.revision)

    @property
    def is_onnx(self) -> bool:
        """Say whether it is a file without source code: it is measured and quantised, and cannot be trained."""
        return self.model.endswith(".onnx")


@final
@dataclass(frozen=True, kw_only=True)
class RecoveryTable:
    """[recovery] as it is written: the small set that stages train on in place of the training split.

    Attributes:
        set: what the set is made of; without it the training split itself, for pictures beside it.
        unlabelled: a data source of pictures without labels, such as those of the site, that are mixed with the set.
        share: of the samples of an epoch that are such pictures.
        answers: whose answers the student learns from: the ``teacher``'s, asked on every image as it is shown, or those
            ``stored`` with the set, when losses may read ``teacher_logits`` of the teacher alone.
        bundle: whether the bundle carries the set, so that it can be calibrated on again where it is.
    """

    set: Named | None = None
    unlabelled: Named | None = None
    share: Annotated[float, Ge(0), Lt(1)] = 0.0
    answers: Literal["teacher", "stored"] = "teacher"
    bundle: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class RecoverySpec:
    """[recovery] as it is understood; ``RecoveryTable`` explains each.

    Attributes:
        set: None for the training split itself.
    """

    set: RecoverySet | None = None
    unlabelled: Use | None = None
    share: float = 0.0
    answers: Literal["teacher", "stored"] = "teacher"
    bundle: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the table as plain data."""
        beside: dict[str, Any] = {"share": self.share, "answers": self.answers, "bundle": self.bundle}
        if self.unlabelled is not None:
            beside["unlabelled"] = {"use": self.unlabelled.use, **self.unlabelled.arguments}
        return {"set": None if self.set is None else {"use": self.set.use, **_asdict(self.set)}, **beside}


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run is asked to do, on whatever device.

    Attributes:
        inputs, states: sizes of free axes, and outputs that are fed back.
        names: what names of models and weights stood for, by role: "teacher", "also 0", "baseline 0", "student";
            empty before they are resolved (``compress.pipeline.names``).
        recovery: the small set that stages train on; None for the training split.
    """

    name: str
    source: str
    seed: int
    task: Use
    data: Use
    teacher: TeacherSpec
    student: StudentSpec
    budget: Budget
    measure: Measure
    calibration: CalibrationSpec
    stages: tuple[Stage, ...]
    trackers: tuple[str, ...] = ()
    baselines: tuple[BaselineSpec, ...] = ()
    inputs: tuple[FreeSize, ...] = ()
    states: tuple[FedState, ...] = ()
    names: Mapping[str, Found] = field(default_factory=dict)
    recovery: RecoverySpec | None = None

    @property
    def factories(self) -> tuple[str, ...]:
        """The model factories that the recipe names."""
        beside = [*(also.model for also in self.teacher.also), *(each.model for each in self.baselines)]
        named = (self.teacher.model, *beside, self.student.model)
        return tuple(dict.fromkeys(name for name in named if name))

    def as_json(self) -> dict[str, Any]:
        """Return the resolved recipe as plain data, defaults filled in."""
        adapter = TypeAdapter(dict[str, Any])
        return json.loads(  # type: ignore[no-any-return]
            adapter.dump_json(
                {
                    "name": self.name,
                    "seed": self.seed,
                    "task": {"kind": self.task.use, **self.task.arguments},
                    "data": {"use": self.data.use, **self.data.arguments},
                    "teacher": _asdict(self.teacher),
                    "student": _asdict(self.student),
                    "budget": _asdict(self.budget),
                    "measure": _asdict(self.measure),
                    "calibration": _asdict(self.calibration),
                    "baselines": [_asdict(each) for each in self.baselines],
                    "stages": [{"use": s.name, **s.fields()} for s in self.stages],
                    **({} if self.recovery is None else {"recovery": self.recovery.as_json()}),
                    **({"input": [_asdict(each) for each in self.inputs]} if self.inputs else {}),
                    **({"state": [_asdict(each) for each in self.states]} if self.states else {}),
                    **({"names": {role: _asdict(found.pin) for role, found in self.names.items()}} if self.names else {}),
                }
            )
        )


def _asdict(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in fields(record)}


def teacher_plan(teacher: TeacherSpec) -> Plan:
    """Return the plan of the teacher before its weights are loaded."""
    return Plan(factory=teacher.model, arguments=teacher.arguments)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Largest cost of the final model.

    Attributes:
        accuracy_drop_points: largest drop of the metric below the teacher's, in points.
        latency_ms_p50: median latency of one inference on the device, in milliseconds.
        size_mib: size of the engine, in MiB.
        stored_mib: size of the model in the bundle, in MiB; smaller than the engine's where weights are packed.
        peak_mib: memory of a process that holds the engine, in MiB: the most that is resident at once.
        load_ms: time until the engine is loaded in a fresh process, in milliseconds.
        total_ms: median of the whole path, from a raw sample to its answer, in milliseconds.
    """

    accuracy_drop_points: float = 1.0
    latency_ms_p50: Annotated[float, Gt(0)] | None = None
    size_mib: Annotated[float, Gt(0)] | None = None
    stored_mib: Annotated[float, Gt(0)] | None = None
    peak_mib: Annotated[float, Gt(0)] | None = None
    load_ms: Annotated[float, Gt(0)] | None = None
    total_ms: Annotated[float, Gt(0)] | None = None
