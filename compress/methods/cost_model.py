"""What a stage may ask about the device: what its model costs there as a function of widths. The engine side answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from compress.methods.allocation import Term

Option = tuple[str, int]
"""A kind of factors and a rank."""
By = Literal["latency", "macs", "params"]
Measured = Callable[[Mapping[str, int], Sequence[str]], float]
"""What the whole model costs at some widths and without some blocks, as a share of what it costs as it is."""


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """A group of coupled channels, as far as its cost is concerned.

    Attributes:
        width: channels now.
        sizes: of each parameter and buffer and each of its dimensions that shrinks, how many elements one channel is.
    """

    width: int
    sizes: Mapping[str, Mapping[int, int]]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a model costs: a sum of terms, and what no choice changes.

    Attributes:
        unit: ``ms``, ``MACs`` or ``parameters``.
        now: of the model as it is; ``least``: of the smallest choice. Both measured where it is latency.
        about: where the figures come from and how far off they may be, for the report.
        unfollowed: groups and blocks that have no price, with the reason.
        measured: of a whole choice, against the model as it is at that moment; None where the sum is exact.
    """

    unit: str
    terms: Sequence[Term]
    fixed: float
    now: float
    least: float
    about: str
    unfollowed: Mapping[str, str] = field(default_factory=dict)
    measured: Measured | None = None


@dataclass(frozen=True, kw_only=True)
class LayerPrice:
    """Milliseconds of one layer, whole and in each of its factorisations."""

    whole_ms: float
    factors_ms: Mapping[Option, float]


@dataclass(frozen=True, kw_only=True)
class FloatPrices:
    """Milliseconds of the model in int8, and how much longer it takes with each layer alone in float."""

    whole_ms: float
    longer_ms: Mapping[str, float]


class CostModel(Protocol):
    """The device that a stage's model is for."""

    @property
    def key(self) -> Mapping[str, Any]:
        """What decides its answers, besides the model; part of a step's key."""

    def costs(self, couplings: Mapping[str, Coupling], blocks: Sequence[str], by: By, precision: str) -> Costs:
        """The costs of the stage's starting model; ``precision`` empty: what it is fastest in there.

        Raises:
            UserError: they cannot be measured on the device's first runtime.
        """

    def layers(self, options: Mapping[str, Sequence[Option]], precision: str) -> Mapping[str, LayerPrice]:
        """Milliseconds of layers whole and as factors, by path; what the exported model does not have is left out."""

    def in_float(self, layers: Sequence[str]) -> FloatPrices | None:
        """What leaving each of ``layers``, nodes of the exported starting model, in float costs its int8 engine.

        None where the runtime that runs int8 is not built from ONNX files, or the model has more than one free size.
        """


LEAST_GAIN = 1.03
"""How many times faster, or smaller, counts as a gain: medians of interleaved timings repeat within 1 % on a shared machine
of two cores, and three times that is no accident. The gate, the verdict and the stages share it."""


def is_gain(before: float, after: float) -> bool:
    """Decide whether ``after`` (milliseconds, bytes) is less than ``before`` by more than measurement is off."""
    return after * LEAST_GAIN <= before


def is_loss(before: float, after: float) -> bool:
    """Decide whether ``after`` is more than ``before`` by more than measurement is off."""
    return after > before * LEAST_GAIN
