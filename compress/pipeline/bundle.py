"""The best row of a report as a bundle."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from compress import __version__
from compress.execution.progress import Progress
from compress.pipeline import recovery, signing_keys
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.exports import Variant
from compress.pipeline.folding import Folded
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.names import stated
from compress.pipeline.whole_path import RAWS, WholePath, taking_bytes
from compress.report.record import Report
from compress.tasks.thresholds import ClassThreshold
from deploy.bundle import bundle as bundles
from deploy.bundle import manifest as manifests
from deploy.bundle.golden import pack
from deploy.bundle.manifest import Manifest, Target
from deploy.engines import BuildPlan
from deploy.engines.base import load_plan
from deploy.engines.serving import NOTHING, Serving
from deploy.files.folders import kept_name
from deploy.processing import whole
from deploy.processing.detection import decode
from deploy.processing.detection.decode import Decoding
from profiles.device import DeviceProfile
from profiles.errors import one_line

GOLDEN_SAMPLES = RAWS
GIVEN = (whole.BEFORE_FILE, decode.FILE, decode.PRIORS)
"""Files of a bundle that say more than a path needs."""


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """Files and samples of a variant for a bundle; golden outputs are its engine's, on its device."""

    model: Path
    packed: Path | None
    plan: BuildPlan
    golden: dict[str, npt.NDArray[Any]]
    preprocessing: Mapping[str, Any]
    decoding: Decoding | None = None
    extras: Mapping[str, Path] = field(default_factory=dict)
    path: WholePath = WholePath()
    served: Serving = NOTHING
    smaller: Mapping[int, Path] = field(default_factory=dict)


def collect(
    best: Variant,
    evaluator: Evaluator,
    builder: ModelBuilder,
    thresholds: Sequence[ClassThreshold] = (),
    folded: Folded | None = None,
) -> BundleContents:
    """Collect the contents of a bundle with ``best``.

    Args:
        thresholds: of a detector whose scores int8 has moved.
        folded: its file with preprocessing in it, which then is in the bundle in its place.
    """
    packed = evaluator.packed(best)
    inputs = evaluator.in_order(best, evaluator.sample_feed(builder.data.test, GOLDEN_SAMPLES))
    outputs = evaluator.infer(best, inputs)
    decoding = builder.task.decoding(outputs)
    if decoding is not None and thresholds:
        decoding = replace(decoding, thresholds=tuple(each.threshold for each in thresholds))
    path = evaluator.whole_path(best, "test")
    if folded is not None:
        path = taking_bytes(path)
        inputs = path.inputs()
        outputs = folded.infer(evaluator, inputs)
    return BundleContents(
        path=path,
        model=evaluator.model_path(best) if folded is None else folded.model,
        packed=packed.file if packed else None,
        plan=load_plan(evaluator.built(best).folder / "engine"),
        golden=pack(inputs, outputs),
        preprocessing={
            **builder.data.preprocessing,
            **({"bytes": True} if folded else {}),
            "classes": list(builder.data.classes),
            **stated(builder.recipe),
        },
        decoding=decoding,
        extras={**_extras(builder), **evaluator.pairs(best)},
        served=builder.models.serving_of(best.made),
        smaller=evaluator.smaller_models(best),
    )


def _extras(builder: ModelBuilder) -> dict[str, Path]:
    """List the recovery set, where the recipe wants it in the bundle."""
    spec, found = builder.recipe.recovery, builder.recovery
    carried = spec is not None and spec.bundle and found is not None and found.file is not None
    return {recovery.FILE: found.file} if carried and found and found.file else {}


def bundle(folder: Path, load: BundleContents, report: Report, profile: DeviceProfile, progress: Progress) -> None:
    """Write the bundle, signed where there is a key to sign with, and say so."""
    key, others = signing_keys.default(), manifests.unlisted(folder)
    if others:
        named = one_line(", ".join(others[:3]), 100)
        progress.say(f"{folder} has files that are of no bundle ({named}): it is kept as {kept_name(folder).name}")
    made = bundles.write(
        folder,
        name=_name(report.recipe["name"]),
        title=f"{report.recipe['name']} for {report.device['name']}",
        model=load.model,
        packed=load.packed,
        plan=load.plan,
        profile=profile,
        golden=load.golden,
        preprocessing=load.preprocessing,
        path_files={name: content for name, content in load.path.files.items() if name not in GIVEN},
        raws=load.path.raws,
        report=json.dumps(report.as_json(), indent=1, default=dict).encode(),
        decoding=load.decoding,
        extras=load.extras,
        served=load.served,
        smaller=load.smaller,
        target=_target(load.plan, report.environment),
        versions=_versions(report.environment),
        signer=signing_keys.signer(key) if key else None,
    )
    progress.say(_signature(folder, made))


def _signature(folder: Path, made: Manifest) -> str:
    """Say in one line who signed the bundle in ``folder``."""
    if made.key is not None:
        return f"bundle {made.name} {made.version}, signed by key {made.key}"
    return (
        f"bundle {made.name} {made.version} is not signed, and devices refuse such: "
        f"`compress keys new`, then `compress sign {folder}`"
    )


def _name(recipe: str) -> str:
    """Turn a recipe's name into a model's: characters that a manifest does not take become dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", recipe).strip("._-")[:64] or "model"


def _target(plan: BuildPlan, environment: Mapping[str, Any]) -> Target:
    """Describe the device of the report's figures."""
    device = environment["device"]
    return Target(
        arch=device["arch"],
        system=device["system"].partition(" ")[0],
        engine=plan.engine,
        precision=plan.precision,
        runtime_version=plan.version,
        compute_capability=device.get("compute_capability") if plan.engine == "tensorrt" else None,
    )


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    """List the versions of this product, of packages here and of the device's runtimes."""
    there = {name: able["version"] for name, able in environment["engines"].items() if able["version"]}
    on_device = {f"device/{name}": version for name, version in there.items()}
    ours = {"edge-compress": __version__, "python": platform.python_version()}
    return {**ours, **environment["versions"], **on_device}
