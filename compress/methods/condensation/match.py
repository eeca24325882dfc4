"""Matched set: images optimised until a few of them are, to a network, like the whole training split."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from compress.data.base import Indices
from compress.execution.progress import count_progress
from compress.methods.condensation.attention import attention_distance
from compress.methods.condensation.base import Draft, RecoverySet, SetSource
from compress.methods.condensation.characteristic import characteristic_distance
from compress.methods.condensation.labels import are_classes, targets_of
from compress.methods.condensation.moves import all_tiles, move_alike, with_mirror
from compress.methods.condensation.sizes import choose_samples, size_faults, stored_count
from compress.methods.condensation.stored_samples import join_tiles
from compress.methods.condensation.synthesised import value_range
from compress.methods.condensation.targets import regression_error
from compress.models.features import FeatureHooks, ModuleLayers
from profiles.errors import UserError

FREQUENCIES = 1024
TOGETHER = 128
"""Samples of the set that a step of ``targets`` looks at."""


@final
@dataclass(frozen=True, kw_only=True)
class MatchSet(RecoverySet):
    """Images of the training split, changed until features of a few are like those of all.

    Attributes:
        by: what is matched, class by class: mean ``attention`` maps (DataDAM), or characteristic functions of embeddings
            (``cf``, NCFM); or the ``targets`` of a ridge regression onto the teacher's embeddings, for which no label is
            read (KRR-ST).
        networks: whose features: the ``teacher``'s, or those of ``random`` networks of its structure, one for each step.
        steps, learning_rate: of the optimisation (Adam; the papers take SGD, and up to 20,000 steps).
        real: pictures of each class that a step looks at.
        classes_at_once: classes that a step looks at.
        flip: whether the set and its mirror image are matched together (FYI); training mirrors them then.
        combine: samples a side of a stored image, as of ``subset``.
    """

    use = "match"

    by: Literal["attention", "cf", "targets"] = "attention"
    networks: Literal["teacher", "random"] = "teacher"
    steps: Annotated[int, Ge(1)] = 200
    learning_rate: Annotated[float, Gt(0)] = 0.005
    real: Annotated[int, Ge(2)] = 32
    classes_at_once: Annotated[int, Ge(1)] = 10
    flip: bool = False
    combine: Annotated[int, Ge(1), Le(4)] = 1

    def faults(self, source: SetSource) -> list[str]:
        faults = size_faults(self, source, self.combine)
        if not isinstance(source.example, Tensor) or source.example.dim() != 4:
            return [*faults, "[recovery] set: 'match' is of images (channels, height, width); take use = 'random'"]
        if any(side % self.combine for side in source.example.shape[2:]):
            faults.append(f"[recovery] set: combine = {self.combine} does not divide the images' sides; leave it out")
        if ModuleLayers.of(source.teachers[0][0], source.example).head is None:
            faults.append("[recovery] set: 'match' reads a linear layer's inputs, and the teacher has none; take 'subset'")
        if self.by != "targets" and not are_classes(targets_of(source.samples)):
            faults.append(f"[recovery] set: by = {self.by!r} goes by class labels, and there are none; take by = 'targets'")
        return faults

    def make(self, source: SetSource) -> Draft:
        if faults := self.faults(source):
            raise UserError(*faults)
        tiles, generator = self.combine, torch.Generator().manual_seed(source.seed)
        count = stored_count(self, source, tiles=tiles)
        rank = np.random.default_rng((source.seed, 28)).random(len(source.samples))
        start = source.samples.load(choose_samples(source, min(count * tiles**2, len(source.samples)), rank))
        order = np.argsort(start.targets, kind="stable") if are_classes(start.targets) else np.arange(len(start))
        order = order[: len(order) - len(order) % tiles**2]
        labels = start.targets[order]
        images = torch.from_numpy(join_tiles(start.inputs[order], tiles) if tiles > 1 else start.inputs[order])
        matching = Matching(self, source, torch.from_numpy(np.asarray(labels)), generator)
        first, last = matching.optimise(images.clone())
        note = f"matched by {self.by}, {self.steps} steps, loss {first:.4g} to {last:.4g}"
        notes = (note, *(("with its mirror image",) if self.flip else ()))
        return Draft(inputs=matching.images, targets=labels, tiles=tiles, mirror=self.flip, notes=notes)


@final
class Matching:
    """Optimisation of a set against the training split."""

    def __init__(self, spec: MatchSet, source: SetSource, labels: Tensor, generator: torch.Generator) -> None:
        self._spec, self._source, self._labels, self._generator = spec, source, labels, generator
        self._random = np.random.default_rng((source.seed, 51))
        self._teacher = source.teachers[0][0].eval()
        layers = ModuleLayers.of(self._teacher, source.example)
        blocks = [name for name in layers.blocks() if len(layers.shapes[name]) == 4]
        self._names, self._head = blocks[:-1] or blocks, layers.head
        targets = targets_of(source.samples)
        self._by_class: list[Indices] = []
        if spec.by != "targets":
            self._by_class = [np.flatnonzero(targets == label) for label in range(len(source.classes))]
        self.images = np.zeros(0, np.float32)

    def optimise(self, images: Tensor) -> tuple[float, float]:
        """Optimise stored images (stored, ...); return the mean loss of the first and of the last tenth of the steps."""
        spec = self._spec
        low, high = value_range(self._source, images)
        images.requires_grad_(True)
        learned = [images]
        if spec.by == "targets":
            self._targets = self._embedding(self._teacher, all_tiles(images.detach(), spec.combine)).detach()
            learned.append(self._targets.requires_grad_(True))
        optimizer = torch.optim.Adam(learned, spec.learning_rate, betas=(0.5, 0.999))
        losses = []
        for _ in count_progress(self._source.progress, f"matching by {spec.by}", range(spec.steps)):
            loss = self._loss(self._network(), all_tiles(images, spec.combine))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                images.clamp_(low, high)
            losses.append(float(loss.detach()))
        self.images = images.detach().numpy().astype(np.float32)
        tenth = max(1, len(losses) // 10)
        return float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))

    def _network(self) -> nn.Module:
        return self._teacher if self._spec.networks == "teacher" else fresh(self._teacher)

    def _loss(self, network: nn.Module, samples: Tensor) -> Tensor:
        if self._spec.by == "targets":
            return self._regression(network, samples)
        parts = [self._class_loss(network, samples, label) for label in self._classes()]
        return torch.stack(parts).mean()

    def _classes(self) -> list[int]:
        present = [label for label in range(len(self._by_class)) if (self._labels == label).any()]
        drawn = self._random.permutation(present)[: self._spec.classes_at_once]
        return [int(label) for label in drawn]

    def _class_loss(self, network: nn.Module, samples: Tensor, label: int) -> Tensor:
        pool = self._by_class[label]
        drawn = self._random.choice(pool, min(self._spec.real, len(pool)), replace=False)
        real = torch.from_numpy(self._source.samples.load(np.sort(drawn)).inputs)
        made = samples[self._labels == label]
        made = with_mirror(made) if self._spec.flip else made
        real, made = self._moved(real, made)
        with torch.no_grad():
            maps, embedding, outputs = self._seen(network, real)
        our_maps, our_embedding, our_outputs = self._seen(network, made)
        if self._spec.by == "attention":
            return attention_distance(maps, our_maps, outputs, our_outputs)
        frequencies = torch.randn(FREQUENCIES, embedding.shape[1], generator=self._generator)
        entropy = functional.cross_entropy(our_outputs, torch.full((len(made),), label))
        beside = entropy if self._spec.networks == "teacher" else entropy.new_zeros(())
        return characteristic_distance(embedding, our_embedding, frequencies) + beside

    def _regression(self, network: nn.Module, samples: Tensor) -> Tensor:
        drawn = self._random.choice(
            len(self._source.samples), min(4 * self._spec.real, len(self._source.samples)), replace=False
        )
        real = torch.from_numpy(self._source.samples.load(np.sort(drawn)).inputs)
        taken = torch.from_numpy(np.sort(self._random.permutation(len(samples))[:TOGETHER]))
        real, made = self._moved(real, samples[taken])
        with torch.no_grad():
            wanted, seen = self._embedding(self._teacher, real), self._embedding(network, real)
        return regression_error(self._embedding(network, made), self._targets[taken], seen, wanted)

    def _moved(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        moves = self._source.samples.augmentation
        both = move_alike(torch.cat([real, made]), moves.shift, moves.mirror and not self._spec.flip, self._generator)
        return both[: len(real)], both[len(real) :]

    def _seen(self, network: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return maps of the layers but the last, the embedding, and the outputs."""
        with FeatureHooks(network, self._names, self._head) as hooks:
            outputs = self._source.logits(network(images))
            return hooks.features(), hooks.embedding(), outputs

    def _embedding(self, network: nn.Module, images: Tensor) -> Tensor:
        return self._seen(network, images)[1]


def fresh(module: nn.Module) -> nn.Module:
    """Return a network of the same structure whose layers have random weights, as they begin a training."""
    made = copy.deepcopy(module)
    for layer in _resettable(made):
        layer.reset_parameters()
    return made.train().requires_grad_(False)


def _resettable(module: nn.Module) -> Iterator[Any]:
    return (layer for layer in module.modules() if callable(getattr(layer, "reset_parameters", None)))
