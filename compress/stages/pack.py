"""pack: weights of 2 to 8 bits as storage, points learned under the distillation loss. No engine computes with them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, final

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from compress.methods.choice import Choice
from compress.methods.distillation.objective import parse_losses
from compress.methods.packing.operations import Pack
from compress.methods.packing.packed_program import PackableWeight, PackedProgram
from compress.methods.packing.points import (
    PackedTensor,
    attach_points,
    bits_by_gradient,
    detach_points,
    gradient_norms,
    pack_evenly,
    pack_fitted,
)
from compress.models.inputs import ModelInputs, as_tensors, shapes_of
from compress.stages.base import Artifact, Context, Stage, StageResult, copy_module
from compress.stages.trained import Losses, TrainedStage
from compress.training.schedule import Optimizer
from profiles.errors import UserError

LOSSES = parse_losses([{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}])
MOST_BITS = 8
SAMPLES, BATCH = 512, 64
"""Training samples that a gradient's norm is taken over."""


@final
@dataclass(frozen=True, kw_only=True)
class PackStage(TrainedStage):
    """Few values for each layer's weights, so that the bundle is small (differentiable quantization, Polino et al. 2018).

    A weight is its bucket's least value plus its range times one of 2 ** bits points. The bundle holds indices and points; a
    device decodes them to the very file that was measured, so that this buys bytes and no time.

    Attributes:
        bits: of a layer's indices, on average over the layers.
        points: ``uniform``: evenly spaced, untrained; ``learned``: where the error is least, then moved by gradient.
        allocation: ``equal``: every layer has ``bits``; ``gradient``: more where the loss's gradient is large.
        bucket: weights that share a range, which takes 8 bytes.
        end_bits: of layers with no other one before or behind them; 0 leaves them whole.
        smallest: weights with fewer numbers stay whole.
        whole: patterns of weights that stay whole, such as ``head.*``.
        training: ``points``: all else is fixed (the paper's section 4); ``all``: weights move on to other points, straight
            through (its section 3), and biases and whole weights learn along.
    """

    name = "pack"
    excludes: ClassVar[Mapping[str, str]] = {
        "quantize": "what that trains would leave the points; leave it out: int8 made of packed weights without training is "
        "measured and stored packed too"
    }
    is_last = True

    bits: Annotated[int, Ge(2), Le(MOST_BITS)] = 4
    points: Literal["uniform", "learned"] = "learned"
    allocation: Literal["equal", "gradient"] = "equal"
    bucket: Annotated[int, Ge(8)] = 256
    end_bits: Annotated[int, Ge(0), Le(MOST_BITS)] = MOST_BITS
    smallest: Annotated[int, Ge(1)] = 512
    whole: tuple[str, ...] = ()
    training: Literal["points", "all"] = "all"
    epochs: Annotated[int, Ge(0)] = 5
    optimizer: Optimizer = "adamw"
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 0.0
    losses: Losses = LOSSES

    def requires(self, artifact: Artifact, context: Context) -> None:
        if artifact.quantized:
            raise UserError(f"stage pack cannot follow quantize: {self.excludes['quantize']}")
        if artifact.packed:
            raise UserError("stage pack cannot follow pack: the weights have their points already")

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        shape = shapes_of(context.example)
        plain = Pack(input_shape=shape, bits={}, bucket=self.bucket, even=()).apply(copy_module(artifact))
        assert isinstance(plain, PackedProgram)
        chosen, ends, notes = self._chosen(plain.candidates())
        if not chosen:
            return StageResult(artifact=artifact, notes=("no weight can be packed", *notes))
        bits = {**self._bits(plain, chosen, context), **dict.fromkeys(ends, self.end_bits)}
        bits = {c.name: bits[c.name] for c in plain.candidates() if c.name in bits}
        even = tuple(bits) if self.points == "uniform" else ()
        pack = Pack(input_shape=shape, bits=bits, bucket=self.bucket, even=even)
        module = PackedProgram(plain.float_program(), bits, self.bucket, frozenset(even))
        weights = {name: module.body.get_parameter(name).detach().clone() for name in bits}
        put = pack_evenly if even else pack_fitted
        starts = {name: put(weights[name], bits[name], self.bucket) for name in bits}
        learned, worse = ({}, ()) if even else self._learned(module.body, bits, context)
        module.adopt(learned or starts)
        choices = tuple(_choice(name, weights[name], starts[name]) for name in bits)
        about = f"points {self.points}; bits by {'the gradient' if self.allocation == 'gradient' else 'the recipe'}"
        return StageResult(artifact=artifact.changed(pack, module), notes=(*worse, *notes), choices=choices, about=about)

    def softer(self) -> Stage | None:
        """Return a setting that keeps more accuracy: points that learn, then a bit more for each layer."""
        if self.points == "uniform" and self.epochs:
            return replace(self, points="learned")
        return replace(self, bits=self.bits + 1) if self.bits < MOST_BITS else None

    def _chosen(self, candidates: Sequence[PackableWeight]) -> tuple[list[str], list[str], tuple[str, ...]]:
        """Choose the weights that get ``bits``, those that get ``end_bits``, and the reasons of those that stay whole."""
        unknown = [p for p in self.whole if not any(fnmatch.fnmatchcase(c.name, p) for c in candidates)]
        if unknown:
            known = ", ".join(c.name for c in candidates)
            raise UserError(f"whole: {', '.join(map(repr, unknown))} means no weight; weights here: {known}")
        chosen: list[str] = []
        ends: list[str] = []
        notes: list[str] = []
        for candidate in candidates:
            reason = self._reason(candidate)
            if reason:
                notes.append(f"{candidate.name} stays whole: {reason}")
            else:
                (ends if candidate.is_end else chosen).append(candidate.name)
        return (chosen or ends), (ends if chosen else []), tuple(notes)

    def _reason(self, candidate: PackableWeight) -> str:
        """Return the reason why a weight stays whole; empty where it does not."""
        if any(fnmatch.fnmatchcase(candidate.name, pattern) for pattern in self.whole):
            return "the recipe says so"
        if candidate.size < self.smallest:
            return f"it has {candidate.size} numbers, fewer than smallest = {self.smallest}"
        if candidate.is_end and not self.end_bits:
            return "it is a first or last layer, and end_bits = 0"
        return ""

    def _bits(self, program: PackedProgram, names: Sequence[str], context: Context) -> dict[str, int]:
        if self.allocation == "equal":
            return dict.fromkeys(names, self.bits)
        return bits_by_gradient(self._norms(program, names, context), self.bits)

    def _norms(self, program: PackedProgram, names: Sequence[str], context: Context) -> dict[str, float]:
        """Compute gradient norms with every layer at ``bits``: a student that is its teacher has no gradient as it is."""
        graph = PackedProgram(program.float_program(), {}, self.bucket, frozenset()).body
        attach_points(graph, dict.fromkeys(names, self.bits), self.bucket)
        detach_points(graph, names)
        with context.objective(graph, self.losses, len(context.data.train)) as objective:
            return gradient_norms(graph, names, (objective(graph, *batch)[0] for batch in _batches(context)))

    def _learned(
        self, graph: nn.Module, bits: Mapping[str, int], context: Context
    ) -> tuple[dict[str, PackedTensor], tuple[str, ...]]:
        """Train the points of the weights of ``graph``, in place; return the packed weights and notes."""
        asked = {name: parameter.requires_grad for name, parameter in graph.named_parameters()}
        attach_points(graph, bits, self.bucket, points_alone=self.training == "points")
        notes = self.recover(graph, context)
        packed = detach_points(graph, bits)
        for name, parameter in graph.named_parameters():
            parameter.requires_grad_(asked[name])
        return packed, notes


def _choice(name: str, weight: Tensor, packed: PackedTensor) -> Choice:
    """Describe a weight; ``kept`` is the share that its points keep where training starts."""
    missed = float((torch.from_numpy(packed.unpack()) - weight).square().sum() / weight.square().sum().clamp_min(1e-30))
    saved_kib = weight.numel() * (32 - packed.bits) / 8 / 1024
    family = f"{packed.bits} bits"
    return Choice(
        name=name, kind="weight", family=family, before=32, after=packed.bits, kept=1 - missed, bought=saved_kib, unit="KiB"
    )


def _batches(context: Context) -> Iterator[tuple[ModelInputs, Tensor]]:
    for batch in context.data.train.evenly_spaced_batches(SAMPLES, BATCH):
        yield as_tensors(batch.inputs), torch.from_numpy(batch.targets)
