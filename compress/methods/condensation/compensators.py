"""Compensators: images added to every picture, so that batch norms find them like their data (INFER, 2024, paper 3).

A compensator belongs to no class: what is stored is the pictures once and the compensators once, and training sees each
picture with each of them. They are optimised as synthesised images are, on batches of pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from compress.execution.progress import count_progress
from compress.methods.condensation.base import Draft, RecoverySet, SetSource
from compress.methods.condensation.moves import move_alike
from compress.methods.condensation.sizes import choose_samples, size_faults, stored_count
from compress.methods.condensation.synthesised import Committee, inversion_faults
from profiles.errors import UserError


@final
@dataclass(frozen=True, kw_only=True)
class CompensatedSet(RecoverySet):
    """Pictures of the training split, each with every compensator added.

    Attributes:
        compensators: how many; each takes as much room as two pictures.
        steps, learning_rate, batch, statistics, members: as of ``synthesised``.
    """

    use = "compensated"

    compensators: Annotated[int, Ge(1)] = 4
    steps: Annotated[int, Ge(1)] = 100
    learning_rate: Annotated[float, Gt(0)] = 0.02
    batch: Annotated[int, Ge(8)] = 100
    statistics: Annotated[float, Ge(0)] = 1.0
    members: Annotated[int, Ge(1)] = 2

    def faults(self, source: SetSource) -> list[str]:
        return [*size_faults(self, source), *inversion_faults(source, "compensated")]

    def make(self, source: SetSource) -> Draft:
        if faults := self.faults(source):
            raise UserError(*faults)
        count = min(stored_count(self, source, compensators=self.compensators), len(source.samples))
        rank = np.random.default_rng((source.seed, 3)).random(len(source.samples))
        batch = source.samples.load(choose_samples(source, count, rank))
        found = self.optimised(source, torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))
        note = f"{self.compensators} compensators of mean size {found.abs().mean():.3f} shared by all"
        targets = np.repeat(batch.targets, self.compensators)
        return Draft(inputs=batch.inputs, targets=targets, compensators=found.numpy(), notes=(note,))

    def optimised(self, source: SetSource, images: Tensor, labels: Tensor) -> Tensor:
        """Optimise compensators, (count, ...), for images (samples, ...) with labels."""
        generator = torch.Generator().manual_seed(source.seed)
        made = (0.01 * torch.randn(self.compensators, *images.shape[1:], generator=generator)).requires_grad_(True)
        optimizer = torch.optim.Adam([made], self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        moves = source.samples.augmentation
        with Committee(source, self.statistics, self.members, generator) as committee:
            for step in count_progress(source.progress, "optimising compensators", range(self.steps)):
                drawn = torch.randperm(len(images), generator=generator)[: self.batch]
                shown = images[drawn] + made[step % len(made)]
                loss = committee.loss(move_alike(shown, moves.shift, moves.mirror, generator), labels[drawn])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        return made.detach()
