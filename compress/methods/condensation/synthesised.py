"""Synthesised set: images that the batch norms of one or several teachers find like their data (CV-DD, 2025, paper 25).

For where there is no data at all. Of each class images are optimised from noise until the teachers are sure of them and
their batch norms see the statistics that they kept of their training; of several teachers ``members`` are drawn for each
step, and weighed by their shares (the paper: by a softmax of their accuracies). The distance of statistics is that of
calibration (``compress.methods.quantization.zeroq``), in running deviations, so that its weight is not the paper's 0.01.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from compress.execution.progress import count_progress
from compress.methods.condensation.base import Draft, RecoverySet, SetSource
from compress.methods.condensation.moves import move_alike
from compress.methods.condensation.sizes import stored_count
from compress.methods.condensation.stored import normalise_of
from compress.methods.quantization.zeroq import StatisticsGap, batch_norms
from profiles.errors import UserError

Images = npt.NDArray[np.float32]


@final
@dataclass(frozen=True, kw_only=True)
class SynthesisedSet(RecoverySet):
    """Images made of the batch norms of the teacher, and of those of [[teacher.also]], without any data.

    Attributes:
        steps, learning_rate: of the optimisation (Adam) of each batch of images.
        batch: images that are optimised together: their statistics are compared, so that a few dozen are needed.
        statistics: weight of the distance of statistics beside the cross-entropy.
        members: teachers that are asked in a step, where there are more.
    """

    use = "synthesised"
    reads_labels = False

    steps: Annotated[int, Ge(1)] = 200
    learning_rate: Annotated[float, Gt(0)] = 0.1
    batch: Annotated[int, Ge(8)] = 100
    statistics: Annotated[float, Ge(0)] = 1.0
    members: Annotated[int, Ge(1)] = 2

    def faults(self, source: SetSource) -> list[str]:
        return inversion_faults(source, "synthesised")

    def make(self, source: SetSource) -> Draft:
        if faults := self.faults(source):
            raise UserError(*faults)
        assert isinstance(source.example, Tensor)
        count, shape = stored_count(self, source), tuple(source.example.shape[1:])
        labels = torch.arange(count) % len(source.classes)  # every batch has every class alike
        generator = torch.Generator().manual_seed(source.seed)
        starts = range(0, count, self.batch)
        parts = [
            self._optimised(source, shape, labels[start : start + self.batch], generator)
            for start in count_progress(source.progress, "synthesising images", starts)
        ]
        order = np.argsort(labels.numpy(), kind="stable")
        note = f"of the batch norms of {len(source.teachers)} teacher{'s' * (len(source.teachers) > 1)}, without data"
        return Draft(inputs=np.concatenate(parts)[order], targets=labels.numpy()[order], notes=(note,))

    def _optimised(self, source: SetSource, shape: tuple[int, ...], labels: Tensor, generator: torch.Generator) -> Images:
        images = torch.randn(len(labels), *shape, generator=generator).requires_grad_(True)
        optimizer = torch.optim.Adam([images], self.learning_rate, betas=(0.5, 0.9))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        low, high = value_range(source, images.detach())
        with Committee(source, self.statistics, self.members, generator) as committee:
            for _ in range(self.steps):
                shift, mirror = source.samples.augmentation.shift, source.samples.augmentation.mirror
                loss = committee.loss(move_alike(images, shift, mirror, generator), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    images.clamp_(low, high)
        made: Images = images.detach().numpy().astype(np.float32)
        return made


@final
class Committee:
    """Teachers that say how unlike their data a batch is, as a context manager.

    Args:
        statistics: weight of the distance of batch norm statistics beside the cross-entropy.
        members: teachers that are asked each time.
    """

    def __init__(self, source: SetSource, statistics: float, members: int, generator: torch.Generator) -> None:
        self._source, self._statistics, self._generator = source, statistics, generator
        self._members, self._stack = min(members, len(source.teachers)), ExitStack()
        self._shares = torch.tensor([share for _, share in source.teachers])

    def __enter__(self) -> Committee:
        self._gaps = [self._stack.enter_context(StatisticsGap(module)) for module, _ in self._source.teachers]
        return self

    def __exit__(self, *given: object) -> None:
        self._stack.close()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean over drawn teachers, by share, of cross-entropy and distance of statistics; a scalar."""
        drawn = torch.randperm(len(self._shares), generator=self._generator)[: self._members]
        shares = self._shares[drawn] / self._shares[drawn].sum()
        total = torch.zeros(())
        for share, number in zip(shares, drawn.tolist(), strict=True):
            logits = self._source.logits(self._source.teachers[number][0](images))
            entropy = functional.cross_entropy(logits, labels)
            total = total + share * (entropy + self._statistics * self._gaps[number].taken())
        return total


def inversion_faults(source: SetSource, use: str) -> list[str]:
    """List why nothing can be made of the teachers' batch norms, and what can be done."""
    without = [number for number, (module, _) in enumerate(source.teachers) if not batch_norms(module)]
    faults = []
    if without:
        who = "the teacher has" if len(source.teachers) == 1 else f"teacher {without[0] + 1} of {len(source.teachers)} has"
        words = f"{who} no batch norm that keeps statistics of its data, of which {use!r} images are made"
        faults.append(f"[recovery] set: {words}; take use = 'random', 'subset' or 'match' of a few pictures, or a file")
    if not isinstance(source.example, Tensor) or source.example.dim() != 4:
        faults.append(f"[recovery] set: {use!r} is of images (channels, height, width); take use = 'random'")
    elif not source.classes or source.logits(_answers(source)).dim() != 2:
        faults.append(f"[recovery] set: {use!r} needs a teacher of classes, (samples, classes); take use = 'random'")
    return faults


def _answers(source: SetSource) -> object:
    module: nn.Module = source.teacher.eval()
    with torch.no_grad():
        return module(source.example)


def value_range(source: SetSource, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest value of each channel: black and white where the data have bytes."""
    normalise = normalise_of(source.preprocessing, images.numpy())
    if normalise is None:
        infinite = torch.full((1, 1, 1, 1), torch.inf)
        return -infinite, infinite
    ends = [np.full((1, images.shape[1], 1, 1), value, np.uint8) for value in (0, 255)]
    low, high = (torch.from_numpy(normalise(end)) for end in ends)
    return low, high
