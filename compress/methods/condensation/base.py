"""Contract of a recovery set: how large it is, what it is made of, and what its maker drafts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, final

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt
from torch import Tensor, nn

from compress.data import Samples
from compress.execution.progress import Progress
from compress.methods.condensation.soft_labels import SoftLabelForm
from compress.models.inputs import ModelInputs
from compress.tasks import Task
from deploy.engines.inputs import Inputs

Array = npt.NDArray[Any]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SetSource:
    """What a set is made of.

    Attributes:
        samples: the training split.
        classes: names of the classes; empty for tasks without.
        preprocessing: of the data (``Splits.preprocessing``), by which inputs become bytes again.
        teacher: answers, and is frozen.
        teachers: each model of the teacher with its share, for what reads their insides.
        example: inputs of two samples.
    """

    samples: Samples
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    task: Task
    teacher: nn.Module
    teachers: Sequence[tuple[nn.Module, float]]
    example: ModelInputs
    seed: int
    progress: Progress

    def logits(self, outputs: Any) -> Tensor:
        """Return the class scores in a module's outputs."""
        return self.task.logits(outputs)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Draft:
    """Set before it is stored.

    Attributes:
        inputs: (stored, ...) as the model takes them.
        targets: a row a sample, the tiles and compensators of an image one after another; -1 or NaN where there is none.
        tiles: samples a side of each stored image: 2 for four in one.
        mirror: whether training mirrors the samples, whatever the data's augmentation is.
        compensators: (m, ...), each added to every sample in its turn; in the model's units.
        notes: for the report.
    """

    inputs: Inputs
    targets: Array
    tiles: int = 1
    mirror: bool = False
    compensators: npt.NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecoverySet(ABC):
    """Small set that stands for the training split. Subclasses are final.

    Attributes:
        per_class: stored images of each class; or
        samples: stored samples of all classes together; or
        size_mib: MiB of the file, all of it, soft labels too.
        labels: form of the teacher's soft labels: ``full`` in half precision, ``quantised`` to a byte a class, ``two``
            numbers a sample (NRR-DD, 2025, paper 8), which the loss ``dbr`` alone can read, or ``none``; ``auto`` is
            ``two`` from 256 classes on and else ``quantised``.
    """

    use: ClassVar[str]
    reads_labels: ClassVar[bool] = True
    """Whether pictures of the training split are taken by their class."""

    per_class: Annotated[int, Ge(1)] | None = None
    samples: Annotated[int, Ge(1)] | None = None
    size_mib: Annotated[float, Gt(0)] | None = None
    labels: SoftLabelForm = "auto"

    def __post_init__(self) -> None:
        given = [name for name in ("per_class", "samples", "size_mib") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"has one size: per_class, samples or size_mib; given: {', '.join(given) or 'none'}")

    def faults(self, source: SetSource) -> list[str]:
        """List why the set cannot be made of ``source``, cheaply and before anything is trained."""
        return []

    @property
    def decided_by(self) -> dict[str, Any]:
        """Return the settings that decide the set, as plain data."""
        return {"use": self.use, **asdict(self)}

    @abstractmethod
    def make(self, source: SetSource) -> Draft:
        """Make the set.

        Raises:
            UserError: the source has not what it needs.
        """
