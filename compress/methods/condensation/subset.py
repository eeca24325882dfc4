"""Subset by the teacher's scores: pruned, combined, augmented (PCA, 2025, paper 56).

"Rethinking Dataset Compression": of each class the pictures that the teacher finds hardest are left out, crops of the others
are tiled into one stored image, and training cuts the tiles out again and augments them. The paper was read in its abstract
and benchmark; that the crop of least loss is taken is RDED's (2024), which it builds on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le, Lt
from torch.nn import functional

from compress.data.base import Indices
from compress.execution.progress import count_progress
from compress.methods.condensation.base import Draft, RecoverySet, SetSource
from compress.methods.condensation.labels import balanced, targets_of
from compress.methods.condensation.sizes import choose_samples, size_faults, stored_count
from compress.methods.condensation.stored_samples import join_tiles
from compress.models.inputs import ModelInputs, as_tensors, call
from profiles.errors import UserError

CHUNK = 256
LEAST_AREA = 0.5
"""Share of an image that a crop shows at least."""

Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, kw_only=True)
class SubsetSet(RecoverySet):
    """Pictures of the training split by the teacher's loss on them, as many of each class.

    Attributes:
        candidates: pictures that are looked at for each that is taken.
        keep: which of them: the ``easy`` ones, ``hard`` ones, or ``middle``.
        drop: share of the candidates that is left out; of the others pictures are drawn by the seed.
        combine: pictures a side of a stored image: 2 stores four, each averaged down to a quarter.
        crops: crops of each picture that are looked at where pictures are combined; that of least loss is taken.
    """

    use = "subset"

    candidates: Annotated[int, Ge(1)] = 8
    keep: Literal["easy", "hard", "middle"] = "easy"
    drop: Annotated[float, Ge(0), Lt(1)] = 0.5
    combine: Annotated[int, Ge(1), Le(4)] = 1
    crops: Annotated[int, Ge(1)] = 4

    def faults(self, source: SetSource) -> list[str]:
        faults = size_faults(self, source, self.combine)
        shape = np.shape(source.samples.load(np.arange(1)).inputs)
        if self.combine > 1 and (len(shape) != 4 or any(side % self.combine for side in shape[2:])):
            words = f"images whose sides {self.combine} divides are combined; given: {tuple(shape[1:])}"
            faults.append(f"[recovery] set: {words}; leave combine out")
        with torch.no_grad():
            logits = source.logits(call(source.teacher.eval(), source.example))
        if logits.dim() != 2:
            words = f"scores (samples, classes), and it gives {tuple(logits.shape)}; take use = 'random'"
            faults.append(f"[recovery] set: 'subset' goes by the teacher's {words}")
        return faults

    def make(self, source: SetSource) -> Draft:
        if faults := self.faults(source):
            raise UserError(*faults)
        tiles = self.combine
        stored = stored_count(self, source, tiles=tiles)
        generator = np.random.default_rng((source.seed, 56))
        wanted = min(stored * tiles**2, len(source.samples))
        looked = min(wanted * self.candidates, len(source.samples))
        pool = choose_samples(source, looked, generator.random(len(source.samples)))
        scores, answers = _scored(source, pool)
        own = targets_of(source.samples)[pool]
        classes = np.where(own >= 0, own, answers) if own.ndim == 1 else answers
        kept = balanced(classes, wanted, self._rank(scores, classes, generator), len(source.classes))
        taken, classes = pool[kept], classes[kept]
        order = np.argsort(classes, kind="stable")  # tiles of an image are of one class
        taken, classes = taken[order], classes[order]
        batch = source.samples.load(taken)
        notes = (f"{len(taken)} pictures of {looked} that the teacher looked at",)
        if tiles == 1:
            return Draft(inputs=batch.inputs, targets=batch.targets, notes=notes)
        whole = len(taken) - len(taken) % tiles**2
        crops = best_crops(source, batch.inputs[:whole], classes[:whole], self.crops, generator)
        note = f"{tiles**2} of them in each stored image"
        return Draft(inputs=join_tiles(crops, tiles), targets=batch.targets[:whole], tiles=tiles, notes=(*notes, note))

    def _rank(self, scores: Floats, classes: Indices, generator: np.random.Generator) -> Floats:
        """Return a random rank, those that are left out behind all others."""
        rank = generator.random(len(scores))
        for label in np.unique(classes):
            mine = np.flatnonzero(classes == label)
            rank[mine] += len(rank) * ~kept_by_score(scores[mine], self.keep, self.drop)
        return rank


def kept_by_score(scores: Floats, keep: str, drop: float) -> npt.NDArray[np.bool_]:
    """Say which of a class's samples stay when the share ``drop`` is left out by loss.

    Example:
        >>> kept_by_score(np.array([0.4, 0.1, 0.3, 0.2]), "easy", 0.5).tolist()
        [False, True, False, True]
    """
    place = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    out = int(drop * len(scores))
    first = {"easy": 0, "hard": out, "middle": out // 2}[keep]
    return (place >= first) & (place < first + len(scores) - out)


def _scored(source: SetSource, pool: Indices) -> tuple[Floats, Indices]:
    """Compute the teacher's cross-entropy on samples, and the class that it says, which stands for a missing label."""
    losses, answers = [], []
    starts = range(0, len(pool), CHUNK)
    for start in count_progress(source.progress, "scoring pictures", starts):
        batch = source.samples.load(pool[start : start + CHUNK])
        loss, said = losses_of(source, as_tensors(batch.inputs), batch.targets)
        losses.append(loss)
        answers.append(said)
    return np.concatenate(losses), np.concatenate(answers)


def losses_of(source: SetSource, inputs: ModelInputs, targets: npt.NDArray[np.int64]) -> tuple[Floats, Indices]:
    """Compute the teacher's cross-entropy a sample, and its answers."""
    with torch.no_grad():
        logits = source.logits(call(source.teacher.eval(), inputs)).float()
    said = logits.argmax(dim=1)
    known = torch.from_numpy(np.asarray(targets))
    labels = torch.where(known >= 0, known, said) if known.dim() == 1 else said
    return functional.cross_entropy(logits, labels, reduction="none").double().numpy(), said.numpy()


def best_crops(
    source: SetSource, images: npt.NDArray[np.float32], classes: Indices, crops: int, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return of each image, (samples, channels, height, width), the crop on which the teacher's loss is least."""
    best: npt.NDArray[np.float32] = images.copy()
    least = np.full(len(images), np.inf)
    for _ in range(crops):
        tried = np.stack([_crop(image, generator) for image in images])
        chunks = [slice(start, start + CHUNK) for start in range(0, len(tried), CHUNK)]
        parts = [losses_of(source, torch.from_numpy(tried[chunk]), classes[chunk])[0] for chunk in chunks]
        losses = np.concatenate(parts)
        better = losses < least
        best[better], least[better] = tried[better], losses[better]
    return best


def _crop(image: npt.NDArray[np.float32], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Cut a random part of an image out and enlarge it to the image's size."""
    height, width = image.shape[1:]
    share = np.sqrt(generator.uniform(LEAST_AREA, 1))
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = generator.integers(0, height - rows + 1), generator.integers(0, width - columns + 1)
    part = torch.from_numpy(image[None, :, top : top + rows, left : left + columns])
    enlarged = functional.interpolate(part, (height, width), mode="bilinear", align_corners=False)
    cut: npt.NDArray[np.float32] = enlarged[0].numpy()
    return cut
