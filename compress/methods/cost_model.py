"""The cost model that a stage queries: latency, MACs or parameters of its model as a function of widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from compress.methods.allocation.problem import Term

Option = tuple[str, int]
"""A kind of factors and a rank."""
By = Literal["latency", "macs", "params"]
Measured = Callable[[Mapping[str, int], Sequence[str]], float]
"""What the whole model costs at some widths and without some blocks, as a share of what it costs as it is."""


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """Cost of a group of coupled channels: the sizes that shrink with it.

    Attributes:
        width: channels now.
        sizes: of each parameter and buffer and each of its dimensions that shrinks, how many elements one channel is.
    """

    width: int
    sizes: Mapping[str, Mapping[int, int]]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Cost of a model: a sum of terms, and a fixed part.

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
    """Latency of one layer in milliseconds, whole and in each of its factorisations."""

    whole_ms: float
    factors_ms: Mapping[Option, float]


@dataclass(frozen=True, kw_only=True)
class FloatPrices:
    """Latency of the int8 model in milliseconds, and the extra latency with each layer alone in another form.

    Attributes:
        longer_ms: in float.
        wide_ms: with activations of 16 bits; empty where the runtime has none.
        faster_wide: layers that take less with 16 bits than in float by an interval, not by a difference that may be noise.
    """

    whole_ms: float
    longer_ms: Mapping[str, float]
    wide_ms: Mapping[str, float] = field(default_factory=dict)
    faster_wide: frozenset[str] = frozenset()


class CostModel(Protocol):
    """Cost model of the device that a stage's model is for."""

    @property
    def key(self) -> Mapping[str, Any]:
        """Settings that decide the costs, besides the model; part of a step's key."""

    def costs(self, couplings: Mapping[str, Coupling], blocks: Sequence[str], by: By, precision: str) -> Costs:
        """Return the costs of the stage's starting model; ``precision`` empty: in its fastest one there.

        Raises:
            UserError: they cannot be measured on the device's first runtime.
        """

    def layers(self, options: Mapping[str, Sequence[Option]], precision: str) -> Mapping[str, LayerPrice]:
        """Measure layers whole and as factors, in milliseconds by path; layers not in the exported model are left out."""

    def in_float(self, layers: Sequence[str], wide: Sequence[str] = ()) -> FloatPrices | None:
        """Measure the extra latency of the int8 engine with each of ``layers``, nodes of the exported model, in float.

        And with each of ``wide`` reading activations of 16 bits, where the runtime has such.

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
