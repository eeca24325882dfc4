"""The best row of a report as a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from compress.prove import Prover, Variant
from compress.report import Report
from compress.workshop import Workshop
from deploy import bundle as bundles
from deploy.engines import BuildPlan
from deploy.engines.base import load_plan
from profiles.device import DeviceProfile

GOLDEN_SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """What of a variant goes into a bundle; golden outputs are its engine's, on its device."""

    model: Path
    plan: BuildPlan
    golden: dict[str, npt.NDArray[Any]]
    preprocessing: Mapping[str, Any]


def cargo(best: Variant, prover: Prover, workshop: Workshop) -> Cargo:
    """Collect the cargo of ``best``."""
    inputs = prover.sample_feed(workshop.data.test, GOLDEN_SAMPLES)
    return Cargo(
        model=prover.model_path(best),
        plan=load_plan(prover.built(best).folder / "engine"),
        golden={"input": inputs, "output": prover.infer(best, inputs)},
        preprocessing=workshop.data.preprocessing,
    )


def bundle(folder: Path, load: Cargo, report: Report, profile: DeviceProfile) -> None:
    """Write the bundle."""
    bundles.write(
        folder,
        title=f"{report.recipe['name']} for {report.device['name']}",
        model=load.model,
        plan=load.plan,
        profile=profile,
        golden=load.golden,
        preprocessing=load.preprocessing,
        report=json.dumps(report.as_json(), indent=1, default=dict).encode(),
    )
