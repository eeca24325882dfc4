"""Int8's accuracy against the number of calibration samples, as a run measured it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Metric on validation with ranges of so many samples, a value for each draw of them."""

    samples: int
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean over the draws."""
        return statistics.fmean(self.values)


@final
@dataclass(frozen=True, kw_only=True)
class CalibrationCurve:
    """Metric of a model in int8 without training, by the number of samples that its ranges are of.

    Attributes:
        title: of the model's rows.
        metric, unit: of the task; larger is better.
        judged: samples of validation that it was judged on.
        float_value: of the model in float, on the same samples.
        points: by rising number of samples; the last is the whole calibration split, which has one draw.
        kept: samples that this run calibrates on.
    """

    title: str
    metric: str
    unit: str
    judged: int
    float_value: float
    points: tuple[CurvePoint, ...]
    kept: int

    def lines(self) -> Iterator[str]:
        """Word it in lines, one a number of samples."""
        yield (
            f"{self.title} in int8 by calibration samples: {self.metric} {self.unit} on {self.judged} of validation "
            f"(float {self.float_value:.2f}; this run takes {self.kept})"
        )
        for point in self.points:
            low, high, draws = min(point.values), max(point.values), len(point.values)
            spread = f", {low:.2f} to {high:.2f} in {draws} draws" if draws > 1 else ""
            yield f"  {point.samples:>6}: {point.mean:.2f}{spread}"
