"""A weighted list of named losses, and what of student and teacher each of them reads."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.losses import LOSSES
from compress.schedule import Schedule
from compress.taps import Taps, pair_by_resolution
from compress.tasks import Task
from profiles.errors import UserError, unknown
from profiles.tables import load_object, look_up, with_entry_points

VOCABULARY = (
    "student_logits",
    "teacher_logits",
    "student_features",
    "teacher_features",
    "student_boxes",
    "teacher_boxes",
    "task_loss",
)


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """One loss of a recipe: ``"kd"``, or ``{use = "kd", weight = 0.9, temperature = 2.0}``."""

    use: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


def losses() -> dict[str, str]:
    """The table of losses, with those that installed packages add."""
    return with_entry_points(LOSSES, "edge_compress.losses")


def parse_losses(value: Any) -> tuple[LossSpec, ...]:
    """The losses of a recipe's list.

    Raises:
        ValueError: not a list of names and tables, an unknown loss, an unknown or misplaced option; all at once.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('losses is a list with at least one entry, such as ["task", {use = "kd", weight = 0.9}]')
    faults: list[str] = []
    specs = [_parse(entry, faults) for entry in value]
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(spec for spec in specs if spec is not None)


def _parse(entry: Any, faults: list[str]) -> LossSpec | None:
    if isinstance(entry, LossSpec):
        return entry
    table = {"use": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict) or "use" not in table:
        faults.append(f"a loss is a name or a table with 'use'; given: {entry!r}")
        return None
    name, options = table["use"], {k: v for k, v in table.items() if k not in ("use", "weight")}
    weight = table.get("weight", 1.0)
    if name not in losses():
        faults.append(unknown("loss", str(name), losses()))
        return None
    if not isinstance(weight, int | float) or weight < 0:
        faults.append(f"loss {name}: weight is a number of at least 0; given: {weight!r}")
        return None
    allowed = _options(look_up("loss", name, losses()))
    faults += [unknown("option", key, allowed, f"loss {name}") for key in options if key not in allowed]
    return LossSpec(use=name, weight=float(weight), options=options)


def _options(loss: Callable[..., Tensor]) -> list[str]:
    return [p.name for p in inspect.signature(loss).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _reads(loss: Callable[..., Tensor]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [p.name for p in inspect.signature(loss).parameters.values() if p.kind in kinds]


def needs_labels(specs: tuple[LossSpec, ...]) -> list[str]:
    """The losses among ``specs`` that read labels."""
    return [spec.use for spec in specs if "task_loss" in _reads(load_object(losses()[spec.use]))]


@final
class Objective:
    """The loss of a student on a batch, as a context manager: its hooks are gone when the block ends.

    Args:
        specs: the weighted losses.
        teacher: frozen; needed only when a loss reads from it.
        example: inputs of shape (samples, ...) to find feature maps with, when a loss reads those.

    Raises:
        UserError: a loss needs a teacher and there is none, or feature maps and none share a resolution.
    """

    def __init__(
        self, specs: tuple[LossSpec, ...], task: Task, student: nn.Module, teacher: nn.Module | None, example: Tensor
    ) -> None:
        self._task, self._student, self._teacher = task, student, teacher
        self._terms = [(spec, load_object(losses()[spec.use])) for spec in specs]
        self.reads = {name for _, loss in self._terms for name in _reads(loss)}
        if teacher is None and self.asks_teacher:
            raise UserError("a loss reads the teacher, and there is none here; losses for a teacher are 'task' alone")
        self._pairs: list[tuple[str, str]] = []
        if "student_features" in self.reads:
            assert teacher is not None
            self._pairs = pair_by_resolution(student, teacher, example)
            if not self._pairs:
                raise UserError("a loss compares feature maps, and student and teacher share no resolution; drop it")
        self._stack = ExitStack()

    @property
    def needs_labels(self) -> bool:
        """Whether a loss reads targets."""
        return "task_loss" in self.reads

    @property
    def asks_teacher(self) -> bool:
        """Whether a loss reads anything of the teacher's."""
        return any(name.startswith("teacher") for name in self.reads)

    def frozen(self) -> list[nn.Module]:
        """The modules besides the student that run in a step."""
        return [self._teacher] if self._teacher is not None and self.asks_teacher else []

    def teacher_key(self, schedule: Schedule) -> str:
        """A name for what the teacher is asked in the course of a schedule: equal questions share their answers."""
        asked = sorted(name for name in self.reads if name.startswith("teacher"))
        taps = [teacher for _, teacher in self._pairs]
        settings = (schedule.batch_size, schedule.accumulate, schedule.realisations)
        return hashlib.sha256(repr((asked, taps, settings)).encode()).hexdigest()[:16]

    def ask_teacher(self, inputs: Tensor) -> dict[str, Any]:
        """What losses read of the teacher on a batch."""
        assert self._teacher is not None
        with torch.no_grad():
            found = self._read("teacher", self._teacher(inputs))
        if "teacher_features" in self.reads:
            found["teacher_features"] = self._teacher_taps.features()
        return found

    def __enter__(self) -> Objective:
        self._student_taps = self._stack.enter_context(Taps(self._student, [s for s, _ in self._pairs]))
        if self._teacher is not None and self.asks_teacher:
            self._teacher.eval()
            self._teacher_taps = self._stack.enter_context(Taps(self._teacher, [t for _, t in self._pairs]))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def __call__(
        self,
        forward: Callable[[Tensor], Any],
        inputs: Tensor,
        targets: Tensor,
        teacher: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum on a batch, and each term unweighted by name.

        Args:
            forward: calls the student.
            teacher: what ``ask_teacher`` gave for this batch; asked now when there is none.
        """
        given = self._given(forward, inputs, targets)
        if self.asks_teacher:
            given |= self.ask_teacher(inputs) if teacher is None else teacher
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=inputs.device)
        for spec, loss in self._terms:
            value = loss(*[given[name] for name in _reads(loss)], **spec.options)
            total = total + spec.weight * value
            terms[spec.use] = value.detach()
        return total, terms

    def _given(self, forward: Callable[[Tensor], Any], inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        outputs = forward(inputs)
        given: dict[str, Any] = self._read("student", outputs)
        if "student_features" in self.reads:
            given["student_features"] = self._student_taps.features()
        if self.needs_labels:
            given["task_loss"] = self._task.loss(outputs, targets)
        return given

    def _read(self, who: str, outputs: Any) -> dict[str, Any]:
        """What the task reads from outputs, as far as a loss asks for it."""
        found: dict[str, Any] = {}
        if f"{who}_logits" in self.reads:
            found[f"{who}_logits"] = self._task.logits(outputs)
        if any(name.startswith(f"{who}_") and name.partition("_")[2] not in ("logits", "features") for name in self.reads):
            found |= {f"{who}_{name}": signal for name, signal in self._task.signals(outputs).items()}
        return found
