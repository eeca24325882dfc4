"""Contract of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from compress.data import Batch, Samples, Splits
from compress.models.layers import flat_tensors
from deploy.engines.inputs import Inputs
from profiles.errors import UserError

if TYPE_CHECKING:
    from compress.tasks.thresholds import ClassThreshold
    from deploy.processing.detection.base import AskedHead
    from deploy.processing.detection.decode import Decoding

Predict = Callable[[Inputs], list[npt.NDArray[Any]]]
"""Inputs of shape (samples, ...), or several by name, to the model's raw outputs, in order: a module, an engine here, an
engine on a board."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Value of a task's metric on a number of samples; larger is better.

    Attributes:
        others: further metrics of the same evaluation by name, for the report only.
        drawn: values on the same samples drawn anew (``compress.tasks.draws``), where the metric is no mean over them.
    """

    name: str
    value: float
    unit: str
    samples: int
    others: Mapping[str, float] = field(default_factory=dict)
    drawn: tuple[float, ...] = ()


PER_CENT = 100.0
ROUNDING = 1e-6
MOST_UNREADABLE = 20
"""Faults of samples after which a split is not read on."""


def readable_batches(samples: Samples, size: int, faults: list[str]) -> Iterator[Batch]:
    """Iterate over the batches of a split that can be read; faults of the others are added to ``faults``."""
    for start in range(0, len(samples), size):
        try:
            batch = samples.load(np.arange(start, min(start + size, len(samples))))
        except UserError as error:
            faults += error.faults
            if len(faults) >= MOST_UNREADABLE:
                return
        else:
            yield batch


def split_faults(splits: Splits, look: Callable[[str, Samples], Sequence[str]]) -> list[str]:
    """List what ``look`` finds in each of the four splits, given their names; what two share is said once."""
    faults: list[str] = []
    for name in ("train", "calibration", "validation", "test"):
        samples: Samples = getattr(splits, name)
        faults += look(name, samples) if len(samples) else [f"data: the {name} split is empty; every split needs samples"]
    return list(dict.fromkeys(faults))  # calibration is part of train


def first_output(outputs: Any) -> Tensor:
    """Return the first tensor of a module's outputs: a tensor, a tuple or a table of them."""
    return flat_tensors(outputs)[0]


def first_shape(outputs: Any) -> tuple[int, ...] | str:
    """Return the shape of the first tensor of a module's outputs; the name of their type where there is none."""
    tensors = flat_tensors(outputs)
    return tuple(tensors[0].shape) if tensors else type(outputs).__name__


class Task(ABC):
    """Loss, metric and output format of a model. Subclasses are final."""

    metric: ClassVar[str]
    unit: ClassVar[str]
    scale: ClassVar[float | None] = None
    """Largest value of the metric, a hundred points; without one, 100 where the unit is per cent and 1 elsewhere."""

    agreement: ClassVar[Literal["top1_agreement", "cosine", "max_abs"]] = "cosine"
    """What a report shows of how alike the outputs of an engine and of its module are: the share of places with the same
    largest class, their cosine, or their largest difference (``deploy.measure.parity.Parity``)."""

    stage_losses: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """What stages learn from where the recipe names no ``losses``: ``distill``, and ``recovery`` for all others; each as a
    recipe's list. Without an entry a stage has its own, which may read class scores: a task without classes has both.
    """

    @classmethod
    def usual_losses(cls, options: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        """Return ``stage_losses`` of a task with these options of ``[task]``."""
        return cls.stage_losses

    @property
    def full_scale(self) -> float:
        """Return the largest value of the metric."""
        return self.scale or (PER_CENT if self.unit == "%" else 1.0)

    def check_metric(self, found: Metric) -> None:
        """Check a value against the metric's scale.

        Raises:
            UserError: it is negative, above the scale, or no number.
        """
        if not 0 <= found.value <= self.full_scale * (1 + ROUNDING):
            unit = self.unit or "no unit"
            raise UserError(
                f"{type(self).__name__}: {found.name} is {found.value:g} ({unit}), allowed is 0 to {self.full_scale:g}, "
                "for budgets are hundredths of that; state the metric's largest value as the task's `scale`"
            )

    def bound_to(self, splits: Splits) -> Task:
        """Return this task for these data; itself where it needs to know nothing of them."""
        return self

    def modules(self) -> tuple[str, ...]:
        """Name the modules whose code decides what it does beside its own and what that imports."""
        return ()

    @abstractmethod
    def check(self, splits: Splits) -> Sequence[str] | None:
        """Check the data against the task; return what is told of data that is fit all the same.

        Raises:
            UserError: everything that makes the data unfit, at once.
        """

    def has_labels(self, samples: Samples) -> bool:
        """Return whether a split has labels to learn from; without any, losses that read none can still train."""
        return True

    @abstractmethod
    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        """Check a module's outputs for two samples.

        Raises:
            UserError: they are not what this task reads.
        """

    @abstractmethod
    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the loss of the module's outputs on labelled targets; a scalar."""

    def loss_of(self, module: nn.Module) -> Callable[[Any, Tensor], Tensor]:
        """Return the loss on labels of a module's outputs."""
        return self.loss

    def asked_head(self) -> AskedHead | None:
        """Return how a detector's outputs are to be read; None for tasks whose outputs have no decode."""
        return None

    def in_graph(self, outputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Return what becomes of a model's outputs where its decode is written into the graph."""
        return outputs

    def decoding(self, outputs: Sequence[npt.NDArray[Any]]) -> Decoding | None:
        """Return how a device reads outputs of these shapes; None where they are what they mean."""
        return None

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        """Return what a device makes of the outputs: ``use`` is a name of ``deploy.processing.postprocessing``."""
        return {"use": "outputs"}

    def thresholds(self, reference: Predict, shipped: Predict, samples: Samples) -> tuple[ClassThreshold, ...]:
        """Choose for a quantised model the scores from which each class is shown; none for tasks that show none."""
        return ()

    def describe(self, outputs: Any) -> str:
        """Say how a model's outputs are read, where that was chosen by their shapes; empty where it is always the same."""
        return ""

    @abstractmethod
    def logits(self, outputs: Any) -> Tensor:
        """Extract the class scores from the module's outputs, (samples, ..., classes), for distillation."""

    def signals(self, outputs: Any) -> dict[str, Tensor]:
        """Extract further outputs for distillation: ``boxes`` is read as ``student_boxes`` and ``teacher_boxes``."""
        return {}

    @abstractmethod
    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        """Evaluate ``predict`` on all samples."""

    def evaluate_samples(self, predict: Predict, samples: Samples) -> tuple[Metric, npt.NDArray[Any] | None]:
        """Evaluate ``predict`` on all samples; return each sample's score too, where the metric is their mean.

        Scores of shape (samples,), as shares of the metric's scale (1 for right, 0 for wrong), give differences between
        models an interval. None where the metric is no mean over samples, as average precision is not: then the metric
        has values of draws (``Metric.drawn``), for the same purpose.
        """
        return self.evaluate(predict, samples), None
