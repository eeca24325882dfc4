"""Batches of a training: sample order and augmentation from a seed, fetched while the step before is computed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np

from compress.data import Batch, Samples
from compress.data.base import Indices
from compress.data.sized import as_long_as_its_longest, resized
from compress.data.transforms import apply_cut_mix, apply_self_mix
from compress.execution import distributed
from compress.training.schedule import Schedule
from deploy.engines.inputs import describe, image
from deploy.engines.serving import Sizes
from profiles.errors import UserError


@final
@dataclass(frozen=True)
class Place:
    """Position of a batch; with the seed it alone decides samples and augmentation.

    Attributes:
        realisation: the epoch, or the epoch it repeats.
        position: of the step in its epoch.
        part: of the step, when it is accumulated from several batches.
    """

    realisation: int
    position: int
    part: int


@final
@dataclass(frozen=True, eq=False)
class Part:
    """One batch of a step: its position, its samples' indices, and the same samples without augmentation if needed."""

    place: Place
    batch: Batch
    indices: Indices
    plain: Batch | None


@final
class Batches:
    """Batches of one split in the order of a schedule, for this process.

    A step's ``batch_size`` samples are shared out over processes and over accumulated parts, so the schedule is the
    same however many there are. An epoch drops what does not fill a step.

    Args:
        plain: whether each batch comes without augmentation too.
        sizes: of a model that takes several: a batch then has the smallest that holds its longest sample.

    Raises:
        UserError: a step has fewer samples than processes times parts.
    """

    def __init__(
        self, samples: Samples, schedule: Schedule, seed: int, *, plain: bool = False, sizes: Sizes | None = None
    ) -> None:
        self._samples, self._schedule, self._seed, self._plain, self._sizes = samples, schedule, seed, plain, sizes
        self.batch_size = min(schedule.batch_size, len(samples))
        self.steps_an_epoch = max(1, len(samples) // self.batch_size)
        self.steps = schedule.epochs * self.steps_an_epoch
        shares = distributed.count() * schedule.accumulate
        self.share = self.batch_size // shares
        if self.share == 0:
            raise UserError(
                f"a step of {self.batch_size} samples cannot be shared by {distributed.count()} process(es) "
                f"with accumulate = {schedule.accumulate}; raise batch_size or lower accumulate"
            )

    def places(self, step: int) -> list[Place]:
        """List the positions of a step's parts."""
        epoch, position = divmod(step, self.steps_an_epoch)
        repeat = self._schedule.realisations
        return [Place(epoch % repeat if repeat else epoch, position, p) for p in range(self._schedule.accumulate)]

    def load(self, place: Place) -> Batch:
        """Load the samples of a position."""
        return self._augmented(self.indices(place), place)

    def indices(self, place: Place) -> Indices:
        """Return the indices of the samples at a position."""
        order = np.random.default_rng((self._seed, place.realisation)).permutation(len(self._samples))
        first = place.position * self.batch_size
        first += (place.part * distributed.count() + distributed.index()) * self.share
        return order[first : first + self.share].astype(np.int64)

    def _augmented(self, chosen: Indices, place: Place) -> Batch:
        generator = np.random.default_rng(self._key(place))
        batch = self._samples.load(chosen, generator)
        of_itself, of_others = self._schedule.self_mix, self._schedule.cut_mix
        if not of_itself and not of_others:
            return batch
        _check_mixed(batch, of_itself)
        inputs = apply_self_mix(batch.inputs, of_itself, generator) if of_itself else batch.inputs
        return Batch(apply_cut_mix(inputs, of_others, generator) if of_others else inputs, batch.targets)

    def _key(self, place: Place) -> tuple[int, ...]:
        return (self._seed, place.realisation, place.position, place.part, distributed.index(), 1)

    @contextmanager
    def fetched(self, first: int) -> Iterator[Iterator[list[Part]]]:
        """Yield the batches of each step from ``first`` on, one step fetched ahead on another thread."""
        with ThreadPoolExecutor(1, "loader") as pool:
            yield self._ahead(pool, first)

    def _ahead(self, pool: ThreadPoolExecutor, first: int) -> Iterator[list[Part]]:
        waiting: Future[list[Part]] = pool.submit(self._step, first)
        for step in range(first, self.steps):
            ready = waiting.result()
            if step + 1 < self.steps:
                waiting = pool.submit(self._step, step + 1)
            yield ready

    def _step(self, step: int) -> list[Part]:
        return [self._part(place) for place in self.places(step)]

    def _part(self, place: Place) -> Part:
        chosen = self.indices(place)
        batch, plain = self._augmented(chosen, place), self._samples.load(chosen) if self._plain else None
        if self._sizes is not None:
            batch = as_long_as_its_longest(batch, self._sizes)
            plain = None if plain is None else resized(plain, self._sizes, self._sizes.width(batch.inputs))
        return Part(place, batch, chosen, plain)


def _check_mixed(batch: Batch, of_itself: float) -> None:
    given = f"given: inputs {describe(batch.inputs)}, targets {batch.targets.shape[1:]} a sample; set it to 0"
    if of_itself and (image(batch.inputs) is None or batch.targets.ndim != 1):
        wanted = "self_mix is for images (samples, channels, height, width) with one class label each"
        raise UserError(f"{wanted}; {given}")
    if image(batch.inputs) is None:
        raise UserError(f"cut_mix is for images (samples, channels, height, width); {given}")
