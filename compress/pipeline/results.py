"""Rows of a report and their measurement: all in one race, evaluated on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from compress.pipeline.cached_model import CachedModel
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import PackedExport, Variant
from compress.pipeline.gate import Decision
from compress.pipeline.paired import drop_in_points
from compress.report.record import Refused, Row
from compress.stages.base import Stage
from deploy.measure.timing import Latency


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Attempt of a stage and the gate's decision.

    Attributes:
        start: key of the model that it was made of.
        form: the fastest form that was compared.
        lender: device that made it, where that is another.
    """

    name: str
    stage: Stage
    start: str
    made: CachedModel
    decision: Decision
    form: str | None
    lender: str = ""

    def is_of(self, stage: Stage, start: CachedModel) -> bool:
        """Whether it is a device's own, of ``stage`` in whatever setting, at ``start``."""
        return self.stage.name == stage.name and self.start == start.step.key and not self.lender


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Student of another device, with the title of its rows here.

    Attributes:
        model: key of the float model that it is, or was quantised from.
    """

    title: str
    made: CachedModel
    model: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Row before it is measured.

    Attributes:
        quantized_from: key of the float model that its model was quantised from by a stage; empty for others.
    """

    title: str
    kind: Literal["baseline", "stage", "student"]
    variant: Variant
    attempt: Attempt | None = None
    quantized_from: str = ""

    @property
    def name(self) -> str:
        return f"{self.title}/{self.variant.engine}/{self.variant.precision}"


def list_entries(
    teacher: CachedModel,
    baselines: Sequence[tuple[str, CachedModel]],
    attempts: Sequence[Attempt],
    standing: CachedModel,
    evaluator: Evaluator,
    guests: Sequence[Guest] = (),
) -> list[Entry]:
    """List teacher, baselines and students in every form, each attempt as trained and in the form that was compared."""

    forms = evaluator.forms
    found = [Entry(title="teacher", kind="baseline", variant=v) for v in evaluator.required_forms(teacher)]
    for name, made in baselines:
        found += [Entry(title=name, kind="baseline", variant=v) for v in forms(made)]
    for attempt in attempts:
        if attempt.made.changed:
            tried = forms(attempt.made)
            shown = [v for v in tried if v == tried[0] or v.form == attempt.form]
            found += [Entry(title=attempt.name, kind="stage", variant=v, attempt=attempt) for v in shown]
    if standing is not teacher:
        found += [Entry(title="student", kind="student", variant=v) for v in forms(standing)]
        before = [a.made for a in attempts if a.decision.verdict == "accepted" and a.made.recipe is None]
        if standing.recipe is not None and before:
            engines = {v.engine for v in forms(standing)}
            others = [v for v in forms(before[-1]) if v.precision != "int8" or v.engine not in engines]
            found += [Entry(title="student before quantize", kind="student", variant=v) for v in others]
    shown_already = {entry.variant.made.step.key for entry in found if entry.kind != "stage"}
    for guest in guests:
        if guest.made.step.key not in shown_already:
            found += [Entry(title=guest.title, kind="student", variant=v) for v in forms(guest.made)]
    floats = {a.made.step.key: a.start for a in attempts if a.made.recipe is not None}
    floats |= {guest.made.step.key: guest.model for guest in guests if guest.made.recipe is not None}
    return [replace(entry, quantized_from=floats.get(entry.variant.made.step.key, "")) for entry in found]


def guest_models(device: str, attempts: Sequence[Attempt], standing: CachedModel) -> list[Guest]:
    """List what other devices may take of a device: its student, and the float model that it was quantised from."""
    title = f"student of {device}"
    before = next((a.start for a in attempts if a.made == standing and standing.recipe is not None), "")
    float_models = [a.made for a in attempts if a.made.step.key == before]
    found = [Guest(title=title, made=standing, model=before or standing.step.key)]
    return [*found, *(Guest(title=f"{title} before quantize", made=made, model=before) for made in float_models[:1])]


def list_refused(titled: Sequence[tuple[str, CachedModel]], evaluator: Evaluator) -> tuple[Refused, ...]:
    """List the rows that are not there since a runtime refused the model, with its reason.

    Args:
        titled: models by their rows' titles; of several titles of a model the first counts.
    """
    title_by_key = {made.step.key: title for title, made in reversed(titled)}
    return tuple(
        Refused(name=title_by_key[v.made.step.key], engine=v.engine, precision=v.precision, reason=reason)
        for v, reason in evaluator.refused.items()
        if v.made.step.key in title_by_key
    )


def measure_rows(found: Sequence[Entry], evaluator: Evaluator, seconds: float) -> list[Row]:
    """Measure the entries, all timed against each other."""
    raced = [entry.variant for entry in found]
    latencies, sizes = evaluator.race_paths(raced, seconds), evaluator.sizes(raced, seconds)
    rows = [_row(entry, latencies[entry.variant], evaluator, found[0].variant) for entry in found]
    return [replace(row, sizes=sizes[entry.variant]) for entry, row in zip(found, rows, strict=True)]


def raced_speedup(found: Sequence[Entry], evaluator: Evaluator, seconds: float, one: str, other: str) -> tuple[float, float]:
    """Return the interval of how many times faster the row called ``other`` is than ``one``, in the race of ``found``."""
    variant_by_name = {entry.name: entry.variant for entry in found}
    raced = [entry.variant for entry in found]
    return evaluator.faster(variant_by_name[one], variant_by_name[other], raced, seconds)


def _row(entry: Entry, latency: Latency, evaluator: Evaluator, teacher: Variant) -> Row:
    variant, attempt = entry.variant, entry.attempt
    judged, validation = evaluator.judge(variant, "test"), evaluator.judge(variant, "validation").metric
    parameters, macs = evaluator.counts(variant.made)
    packed = evaluator.packed(variant)
    return Row(
        name=entry.name,
        kind=entry.kind,
        stage=attempt.stage.name if attempt else None,
        decision=attempt.decision.verdict if attempt else None,
        engine=variant.engine,
        precision=variant.precision,
        runs_on=evaluator.url,
        metric=judged.metric,
        validation=validation.value,
        validation_samples=validation.samples,
        latency_ms=latency,
        energy_mj=evaluator.energy_mj(variant),
        size_bytes=evaluator.size_bytes(variant),
        stored_bytes=evaluator.stored_bytes(variant),
        packed=None if packed is None else packed.account,
        params=parameters,
        macs=macs,
        parity=judged.parity,
        seconds=variant.made.seconds if entry.kind != "student" else None,
        reason=attempt.decision.reason if attempt else None,
        notes=(*(variant.made.notes if attempt else ()), *([judged.parted] if judged.parted else ()), *_left(packed)),
        choices=variant.made.choices if attempt else (),
        about=variant.made.about if attempt else "",
        raced_as=evaluator.raced_as(variant),
        **asdict(evaluator.footprint(variant)),
        model=entry.quantized_from or variant.made.step.key,
        path_ms=evaluator.path_ms(variant),
        drop_interval=None
        if variant == teacher
        else drop_in_points(evaluator.judge(teacher, "test"), judged, evaluator.full_scale),
    )


def _left(packed: PackedExport | None) -> list[str]:
    left = packed.left if packed else ()
    return [f"{name} is stored whole: the engine's file has it in a form that its indices do not give" for name in left]
