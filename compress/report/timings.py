"""Latencies of files that were timed against each other, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, final

from deploy.measure.timing import Latency


@final
@dataclass(frozen=True, kw_only=True)
class Timings:
    """Latencies in milliseconds by file and engine, of one race.

    Attributes:
        doubts: why it is not a clean measurement; empty when it is.
        speedups: between how many times the speed of the first each is, by the rounds of the race.
    """

    latencies: Mapping[str, Latency]
    doubts: tuple[str, ...] = ()
    speedups: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Latency:
        return self.latencies[name]

    def __str__(self) -> str:
        first = next(iter(self.latencies.values())).p50 or 0.0
        width = max(len(name) for name in self.latencies)
        heads = f"{'p50 ms':>9} {'p90':>9} {'p99':>9} {'min':>9} {'samples':>8} {'cv %':>6} {'speed-up':>9}"
        lines = [f"{'':<{width}}  {heads}"]
        for name, latency in self.latencies.items():
            cells = [latency.p50, latency.p90, latency.p99, latency.min]
            shown = " ".join(f"{'n/a' if cell is None else format(cell, '.4f'):>9}" for cell in cells)
            ratio = first / (latency.p50 or 1.0)
            lines.append(
                f"{name:<{width}}  {shown} {latency.samples:>8} {100 * latency.cv:>6.1f} {ratio:>8.2f}x{self._between(name)}"
            )
        return "\n".join(lines)

    def _between(self, name: str) -> str:
        if name not in self.speedups or name == next(iter(self.latencies)):
            return ""
        low, high = self.speedups[name]
        return f"  {low:.2f}x to {high:.2f}x"

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        return f"<pre>{escape(str(self))}</pre>"

    def as_json(self) -> dict[str, Any]:
        """Return every latency as plain data, by name."""
        return {name: asdict(latency) for name, latency in self.latencies.items()}
