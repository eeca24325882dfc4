"""Record of a search: its trials on a device, the front of them, and how it is told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from deploy.files import write_atomically

SCHEMA = 1
JSON_FILE = "search.json"
State = Literal["finished", "stopped"]


@final
@dataclass(frozen=True, kw_only=True)
class Point:
    """A model in one engine and precision, by what choices may look at.

    Attributes:
        accuracy: the metric on validation.
        latency_ms: the teacher's median, times the share of its least time that this form's is in the same race: trials of
            other hours compare, and what others do on the machine hardly counts.
        low_ms, high_ms: between what it lies by the rounds of that race.
        stored_bytes: of the model in a bundle; ``size_bytes``: of the engine.
        peak_mib, load_ms: of a fresh process that holds the engine; energy_mj: of an inference. None where not measured.
    """

    form: str
    accuracy: float
    latency_ms: float
    low_ms: float
    high_ms: float
    stored_bytes: int
    size_bytes: int
    peak_mib: float | None = None
    load_ms: float | None = None
    energy_mj: float | None = None


@final
@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial on a device.

    Attributes:
        values: what was chosen, by key.
        stages: that the model went through.
        point: as far as it came; share: of the epochs by then. Before any nothing has an accuracy, and 0 stands for it.
        faults: what is over the budget; empty for a point that may be chosen.
        reason: why it was stopped.
        asked, made: steps that it asked for, and those of them that were not there yet.
        seconds: that it took.
        recipe: TOML.
    """

    number: int
    state: State
    values: Mapping[str, Any]
    stages: tuple[str, ...]
    point: Point | None
    share: float = 1.0
    faults: tuple[str, ...] = ()
    reason: str = ""
    asked: int = 0
    made: int = 0
    seconds: float = 0.0
    recipe: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class DeviceFront:
    """All trials on one device.

    Attributes:
        metric, unit: of the accuracy.
        least_accuracy: that the budget allows, on validation.
        free: the untouched teacher in every form, which costs no training.
        latency_budget_ms: of the recipe.
    """

    device: str
    metric: str
    unit: str
    least_accuracy: float
    objectives: tuple[str, ...]
    free: tuple[Point, ...]
    trials: tuple[TrialRecord, ...]
    latency_budget_ms: float | None = None

    @property
    def front(self) -> tuple[TrialRecord, ...]:
        """Return the finished trials that no other beats in every objective, fastest first."""
        done = [t for t in self.trials if t.state == "finished" and t.point is not None]
        costs = {t.number: costs_of(t.point, self.objectives) for t in done if t.point is not None}
        best = [t for t in done if not any(_beats(costs[o.number], costs[t.number]) for o in done)]
        unique = {costs[t.number]: t for t in reversed(best)}
        return tuple(sorted(unique.values(), key=lambda t: t.point.latency_ms if t.point else 0.0))

    @property
    def reused(self) -> float:
        """Return the share of the steps that trials asked for which were there already."""
        asked, made = sum(t.asked for t in self.trials), sum(t.made for t in self.trials)
        return 1 - made / asked if asked else 0.0


@final
@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """A search: one front a device; ``faults`` says why a device has none, or an unfinished one."""

    name: str
    fronts: tuple[DeviceFront, ...]
    faults: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        fronts = [{**asdict(f), "front": [t.number for t in f.front], "reused": f.reused} for f in self.fronts]
        return {"schema": SCHEMA, "name": self.name, "fronts": fronts, "faults": dict(self.faults)}

    def write(self, out: Path) -> None:
        """Write ``search.json``."""
        write_atomically(out / JSON_FILE, json.dumps(self.as_json(), indent=1, default=dict).encode())

    def __str__(self) -> str:
        failed = [f"{device} failed: {fault}" for device, fault in self.faults.items()]
        return "\n\n".join([*(_table(front) for front in self.fronts), *failed])


def costs_of(point: Point, objectives: Sequence[str]) -> tuple[float, ...]:
    """Return what is wanted small of a point, in the order of ``objectives``; infinite where it was not measured."""
    costs = {"accuracy": -point.accuracy, "latency": point.latency_ms, "size": float(point.stored_bytes)}
    costs |= {"memory": _or_infinite(point.peak_mib), "energy": _or_infinite(point.energy_mj)}
    return tuple(costs[objective] for objective in objectives)


def _or_infinite(cost: float | None) -> float:
    return math.inf if cost is None else cost


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _table(front: DeviceFront) -> str:
    states = [trial.state for trial in front.trials]
    lines = [
        f"{front.device}: {len(states)} trials, {states.count('finished')} finished, {states.count('stopped')} stopped; "
        f"{100 * front.reused:.0f} % of the steps they asked for were there already",
        f"{'trial':>8} {front.metric:>8} {'p50 ms':>9} {'stored KiB':>11} {'peak MiB':>9} {'mJ':>6}  form, what was done",
    ]
    for point in sorted(front.free, key=lambda p: p.latency_ms):
        lines.append(_line("free", point, "the untouched teacher", is_over=point.accuracy < front.least_accuracy))
    for trial in front.front:
        if trial.point is not None:
            lines.append(_line(str(trial.number), trial.point, describe(trial), is_over=bool(trial.faults)))
    lines.append(f"{front.metric} is on validation; (!) is not within the budget, which asks for {front.least_accuracy:.2f}")
    return "\n".join(lines)


def _line(number: str, point: Point, words: str, *, is_over: bool) -> str:
    mark = " (!)" if is_over else ""
    peak, energy = ("-" if cost is None else f"{cost:.1f}" for cost in (point.peak_mib, point.energy_mj))
    figures = f"{point.accuracy:>8.2f} {point.latency_ms:>9.3f} {point.stored_bytes / 1024:>11.0f} {peak:>9} {energy:>6}"
    return f"{number:>8} {figures}  {point.form}{mark}: {words}"


def describe(trial: TrialRecord) -> str:
    """Say in a line what was done: stages, and the values that were chosen for them."""
    values = [f"{key} = {value}" for key, value in trial.values.items() if key != "stages"]
    return f"{' > '.join(trial.stages) or 'no stage'}; {', '.join(values) or 'as the recipe says'}"
