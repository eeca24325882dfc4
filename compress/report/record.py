"""Records of a report, and report.json: stable, versioned, read by other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

from pydantic import TypeAdapter, ValidationError

from compress.methods.choice import Choice
from compress.recipe.spec import Budget
from compress.report.calibration_curve import CalibrationCurve
from compress.tasks import Metric
from deploy.files import write_atomically
from deploy.measure.parity import Parity
from deploy.measure.path_times import PARTS, PathLatency
from deploy.measure.timing import Latency
from deploy.packing.packed_file import SizeBreakdown
from profiles.errors import UserError, one_line

SCHEMA = 1
JSON_FILE = "report.json"
MOST_FAULTS = 8
AGAIN = "run again, or give the folder of another run"


@final
@dataclass(frozen=True, kw_only=True)
class SizeLatency:
    """Latency at one of a model's sizes; ``share`` of the validation samples go there."""

    size: int
    share: float
    p50_ms: float


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """Model in one engine and precision, measured.

    Attributes:
        metric: on the test split; ``validation`` is the same metric on the ``validation_samples`` that choices look at.
        stage: the stage that made it; None for the teacher.
        runs_on: the device's URL.
        energy_mj: of one inference, the whole module's; None where the device has no power rails.
        stored_bytes: of the model in a bundle; ``packed`` says what they are for where its weights are indices.
        drop_interval: of the metric's drop below the teacher's in points, by the same test samples, 95 of 100 cases; None
            where the task's metric has neither scores of samples nor values of draws.
        peak_mib: the most MiB that were resident in a fresh process that opened this engine alone and ran it, Python and the
            runtime included; None where the device does not tell.
        load_ms: that opening it took there, the import of its runtime included; ``first_ms`` its first inference.
        path_ms: milliseconds of the whole path of a sample, from a file's bytes or a text to the answer: before the engine,
            in it, behind it, together; None where the data source or the task has no part for a device.
        raced_as: key of the built engine that was timed for it; engines that are equal but for their weights share one.
        choices: what the stage chose for each group, layer and block; ``about`` says what that rests on.
        sizes: where the model has several: the latency at each; ``latency_ms`` is then weighted by their shares.
        seconds: that making the model took (training included), None where another row has it.
        model: key of the float model that it is, or that a stage quantised it from; the same on every device.
    """

    name: str
    kind: Literal["baseline", "stage", "student"]
    stage: str | None
    decision: str | None
    engine: str
    precision: str
    runs_on: str
    metric: Metric
    validation: float
    latency_ms: Latency
    size_bytes: int
    params: int
    macs: int
    parity: Parity
    seconds: float | None
    reason: str | None
    notes: tuple[str, ...] = ()
    energy_mj: float | None = None
    choices: tuple[Choice, ...] = ()
    about: str = ""
    stored_bytes: int | None = None
    packed: SizeBreakdown | None = None
    validation_samples: int | None = None
    drop_interval: tuple[float, float] | None = None
    raced_as: str = ""
    peak_mib: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    model: str = ""
    path_ms: PathLatency | None = None
    sizes: tuple[SizeLatency, ...] = ()

    def flat(self) -> dict[str, Any]:
        """Return the row's figures as one level of plain data, units in the names."""
        latency, parity = self.latency_ms, self.parity
        return {
            "name": self.name,
            "kind": self.kind,
            "stage": self.stage,
            "decision": self.decision,
            "engine": self.engine,
            "precision": self.precision,
            self.metric.name: self.metric.value,
            "validation": self.validation,
            "p50_ms": latency.p50,
            "p90_ms": latency.p90,
            "p99_ms": latency.p99,
            "min_ms": latency.min,
            "energy_mj": self.energy_mj,
            "peak_mib": self.peak_mib,
            "load_ms": self.load_ms,
            "first_ms": self.first_ms,
            **{f"{part}_ms": None if self.path_ms is None else getattr(self.path_ms, part).p50 for part in PARTS},
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "params": self.params,
            "macs": self.macs,
            "cosine": parity.cosine,
            "max_abs": parity.max_abs,
            "top1_agreement": parity.top1_agreement,
            "seconds": self.seconds,
            "reason": self.reason,
        }

    @property
    def title(self) -> str:
        """Return the name of its model, without engine and precision."""
        return self.name.split("/")[0]

    @property
    def p50(self) -> float:
        """Return the median latency in milliseconds."""
        assert self.latency_ms.p50 is not None, "a block has at least the samples that a median needs"
        return self.latency_ms.p50


@final
@dataclass(frozen=True, kw_only=True)
class Refused:
    """Model that a runtime of the profile does not take in a precision, with the runtime's reason."""

    name: str
    engine: str
    precision: str
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of a run. Speed-ups are ratios of interleaved medians; the drop is in points on test.

    Attributes:
        best: name of the row to ship: the fastest within the budget on validation, baselines included; a packed one
            where it is as fast, to the gate's least gain.
        speedup_vs_best_free: over the fastest baseline within the whole budget; where there is none
            (``is_free_within_budget`` is false), over the fastest within its accuracy.
        fastest_float: name of the fastest float row of the untouched teacher on any runtime.
        speedup_interval: between what ``speedup_vs_teacher_fp32`` lies by the rounds of the race; None in old reports.
        is_quiet: whether that race is a clean measurement; the report's warnings say why it is not.
    """

    within_budget: bool
    best: str
    speedup_vs_teacher_fp32: float
    speedup_vs_best_free: float
    accuracy_drop_points: float
    why_not: tuple[str, ...] = ()
    fastest_float: str = ""
    speedup_vs_fastest_float: float | None = None
    speedup_interval: tuple[float, float] | None = None
    is_free_within_budget: bool = True
    is_quiet: bool = True


@final
@dataclass(frozen=True, kw_only=True)
class FoldedForm:
    """The best row's file as it ships, with preprocessing in it.

    Attributes:
        form: "nodes" or "convolution" (``deploy.onnx_graph.take_bytes``).
        before, after: its whole path without and with it, in one race, in milliseconds.
        speedup: interval of how many times less it takes, by the rounds.
    """

    form: str
    before: PathLatency
    after: PathLatency
    speedup: tuple[float, float]


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """Results of a run.

    Attributes:
        recipe, device, environment: what was asked, where, and with which versions.
        rows: the first is the teacher's reference row.
        warnings: what to know before believing the verdict.
        scale: of the task's metric; a point is a hundredth of it.
        agreement: what of a row's parity the table shows, as fits the task.
        refused: what has no row since the runtime does not take it.
        folded: the file that ships, where it takes preprocessing over; None where the best row ships as it was measured.
        notes: what was chosen on the way: how outputs are read, score thresholds after int8.
        curve: of int8's accuracy by the number of calibration samples; None where the recipe asks for none.
    """

    recipe: Mapping[str, Any]
    device: Mapping[str, Any]
    environment: Mapping[str, Any]
    budget: Budget
    rows: tuple[Row, ...]
    verdict: Verdict
    warnings: tuple[str, ...] = ()
    scale: float = 100.0
    refused: tuple[Refused, ...] = ()
    agreement: Literal["top1_agreement", "cosine", "max_abs"] = "top1_agreement"
    notes: tuple[str, ...] = ()
    folded: FoldedForm | None = None
    curve: CalibrationCurve | None = None

    def row(self, name: str) -> Row:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def metered(self) -> bool:
        """Say whether energy was read: on boards with power rails."""
        return any(row.energy_mj is not None for row in self.rows)

    @property
    def teacher(self) -> Row:
        """Return the untouched teacher in the first runtime's first precision, which everything is compared with."""
        return self.rows[0]

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data, as report.json holds it."""
        return {"schema": SCHEMA, **asdict(self)}

    def __repr__(self) -> str:
        return f"<Report of {self.recipe['name']} on {self.device['name']}: {len(self.rows)} rows, best {self.verdict.best}>"

    def __str__(self) -> str:
        from compress.report.table import table

        return table(self)

    def _repr_html_(self) -> str:
        """Show the rows and the verdict in a notebook."""
        from compress.report.html import fragment

        return fragment(self)

    def to_pandas(self) -> Any:
        """Return the rows as a ``pandas.DataFrame``, one column a figure, latencies in milliseconds.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas: pandas is not installed; pip install pandas, or read as_json()") from None
        return pandas.DataFrame([row.flat() for row in self.rows])

    def write(self, out: Path) -> None:
        """Write ``report.json``."""
        write_atomically(out / JSON_FILE, json.dumps(self.as_json(), indent=1, default=dict).encode())


def read(run: Path) -> Report:
    """Read the report of a finished run's folder, or of a ``report.json``.

    Raises:
        UserError: there is none, or another version wrote it.
    """
    path = run / JSON_FILE if run.is_dir() else run
    if not path.is_file():
        raise UserError(f"{run}: no {JSON_FILE}; give the folder of a finished run")
    try:
        data = json.loads(path.read_text("utf-8"))
        schema = data.pop("schema", None)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: no report ({one_line(str(error), 200)}); {AGAIN}") from None
    if schema != SCHEMA:
        raise UserError(f"{path}: another version's report; this one reads schema {SCHEMA}")
    try:
        report = TypeAdapter(Report).validate_python(data)
        report.row(report.verdict.best)
    except ValidationError as error:
        faults = [
            f"{path}: damaged: {'.'.join(map(str, d['loc']))}: {d['msg']}; {AGAIN}" for d in error.errors()[:MOST_FAULTS]
        ]
        raise UserError(*faults) from None
    except StopIteration:
        raise UserError(f"{path}: damaged: no row is called {report.verdict.best[:80]!r}, its best; {AGAIN}") from None
    if missing := [
        f"{part}.name" for part in ("recipe", "device") if not isinstance(getattr(report, part).get("name"), str)
    ]:
        raise UserError(f"{path}: damaged: no {' and no '.join(missing)}; {AGAIN}")
    return report
