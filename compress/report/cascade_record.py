"""Record of a cascade: what it answers, how long it takes, and what that rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

SCHEMA = 1


@final
@dataclass(frozen=True, kw_only=True)
class Times:
    """Milliseconds of one inference; ``worst`` is the longest that was seen, of a cascade the sum of both models'."""

    mean: float
    p50: float
    p90: float
    worst: float


@final
@dataclass(frozen=True, kw_only=True)
class CascadeReport:
    """A small model that answers where it is sure, and a large one that does elsewhere.

    Attributes:
        margin: difference of the two largest probabilities from which the small one is sure; chosen on validation.
        went_on_validation, went_on: share of the samples that the large one answered, on validation and on test.
        accuracy: on test, by ``small``, ``large`` and ``cascade``, in ``unit``.
        drop: points that the cascade is below the large one on test, and between what that lies in 95 of 100 cases.
        times: of one sample, by the same names. Those of the cascade are composed of both models' single inferences, which
            were timed in turns.
        samples: of test.
    """

    small: str
    large: str
    device: str
    margin: float
    went_on_validation: float
    went_on: float
    metric: str
    unit: str
    accuracy: dict[str, float]
    drop: tuple[float, float, float]
    times: dict[str, Times]
    samples: int
    doubts: tuple[str, ...] = ()

    @property
    def mean_share(self) -> float:
        """Return the cascade's mean time over the large model's."""
        return self.times["cascade"].mean / self.times["large"].mean

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"schema": SCHEMA, "mean_share": self.mean_share, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{'':>10} {self.metric:>8} {'mean ms':>9} {'p50':>9} {'p90':>9} {'worst':>9}   on test, {self.device}"]
        for name, given in (("small", self.small), ("large", self.large), ("cascade", "")):
            times = self.times[name]
            figures = " ".join(f"{value:>9.3f}" for value in (times.mean, times.p50, times.p90, times.worst))
            lines.append(f"{name:>10} {self.accuracy[name]:>8.2f} {figures}   {given}")
        low, middle, high = (-bound for bound in reversed(self.drop))
        lines += [
            f"the large model answers where the margin is below {self.margin:.4f}: {100 * self.went_on:.1f} % of the "
            f"{self.samples} samples of test ({100 * self.went_on_validation:.1f} % of validation, where it was chosen)",
            f"mean time {self.mean_share:.2f} of the large model's; {middle:+.2f} points beside it (between {low:+.2f} and "
            f"{high:+.2f})",
            "the worst case is the sum of both",
        ]
        return "\n".join([*lines, *(f"not a clean measurement: {doubt}" for doubt in self.doubts)])
