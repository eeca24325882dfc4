"""The two models of a check or a cascade: ONNX files, bundles, and runs by the bundle of their best row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx

from compress.methods.condensation.stored import as_bytes
from compress.report.record import JSON_FILE
from deploy.bundle import manifest as manifests
from deploy.bundle.build import serving_of
from deploy.bundle.bundle import load_plan
from deploy.bundle.manifest import MANIFEST
from deploy.bundle.model_file import model_file
from deploy.engines import BuildPlan, engine
from deploy.engines.inputs import Inputs
from deploy.engines.serving import NOTHING
from deploy.latency.bench import onnx_fault
from deploy.processing.normalisation import Normalise
from deploy.processing.preprocessing.pixels import normalise_from
from profiles.device import DeviceProfile
from profiles.errors import UserError, one_line, unknown
from profiles.json_text import read_json

BUNDLE = "bundle"
GOLDEN = "golden.npz"
HALF_A_BYTE = 0.51
"""Farthest of an input from that of the nearest byte, in steps of a byte."""


@final
@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two models.

    Attributes:
        given: as the user named it.
        name: of the model, by which a last one is kept.
        plan: how its engine is built.
        model: the file that it is built from.
        folder: of its bundle; None for an ONNX file.
        recipe: of the run that made it, as its report has it; None for an ONNX file.
        bytes_of: how the pictures' bytes that its file takes become what other files take; None where it takes the latter.
    """

    given: str
    name: str
    plan: BuildPlan
    model: Path
    folder: Path | None = None
    recipe: Mapping[str, Any] | None = None
    bytes_of: Normalise | None = None

    def engine_inputs(self, inputs: Inputs) -> Inputs:
        """Return samples as its file takes them: as they are, or the bytes (samples, height, width, channels) behind them.

        Raises:
            UserError: they are no pictures' bytes, normalised.
        """
        if self.bytes_of is None or isinstance(inputs, Mapping):
            return inputs
        pixels = as_bytes(inputs, self.bytes_of)
        step = self.bytes_of.factors()[0].reshape(-1, 1, 1)
        if (np.abs(self.bytes_of(pixels) - inputs) > HALF_A_BYTE * step).any():
            raise UserError(
                f"{self.given}: its file takes pictures as bytes, and the samples hold values that no byte becomes by its "
                "mean and deviation; give pictures: a folder, or a .npz of uint8"
            )
        return np.ascontiguousarray(np.moveaxis(pixels, 1, 3))


def open_side(
    given: Path,
    profile: DeviceProfile,
    versions: Mapping[str, str],
    stack: ExitStack,
    only: str | None = None,
    precision: str | None = None,
    *,
    takes_bytes: bool = False,
) -> Side:
    """Read a run's folder, a bundle or an ONNX file; what is unpacked for it is there until ``stack`` ends.

    Args:
        versions: of the device's runtimes.
        only, precision: engine and precision of an ONNX file; a bundle says its own. Without them the profile's first
            engine that runs the file's precision.
        takes_bytes: whether a bundle's file may take pictures as bytes; it is run on ``Side.engine_inputs`` then.

    Raises:
        UserError: there is no such thing, or the device cannot run it.
    """
    folder = _bundle_of(given)
    if folder is None:
        return _onnx_side(given, profile, versions, only, precision)
    contents, _, _ = manifests.read(folder)
    manifests.check_files(folder, contents)
    if serving_of(folder) != NOTHING:
        raise UserError(f"{given}: has several sizes or states, which a check does not know; `compress run` times its rows")
    bytes_of = _bytes_of(folder)
    if bytes_of is not None and not takes_bytes:
        raise UserError(
            f"{given}: its file takes pictures as bytes, which only `deploy.load` makes; run the recipe on other data"
        )
    plan = load_plan(folder)
    engines = [runtime.engine for runtime in profile.runtimes]
    if plan.engine not in engines:
        raise UserError(f"{given}: its engine {plan.engine} does not run on device {profile.name}, which has {engines}")
    model = stack.enter_context(model_file(folder, contents, plan))
    recipe = _recipe_of(folder)
    return Side(
        given=str(given), name=contents.name, plan=plan, model=model, folder=folder, recipe=recipe, bytes_of=bytes_of
    )


def _bytes_of(folder: Path) -> Normalise | None:
    """Return how a bundle's file normalises the bytes that it takes; None where it takes normalised floats.

    Raises:
        UserError: that cannot be read.
    """
    told = read_preprocessing(folder)
    if not told.get("bytes"):
        return None
    try:
        return normalise_from(told)
    except UserError as error:
        raise UserError(*(f"{folder}: preprocessing.json: {fault}" for fault in error.faults)) from None
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 100)
        raise UserError(
            f"{folder}: preprocessing.json does not say how bytes are normalised ({reason}); run again"
        ) from None


def _recipe_of(folder: Path) -> Mapping[str, Any] | None:
    """Return the recipe in the report of a bundle; None where there is no report.

    Raises:
        UserError: it is no report.
    """
    if not (folder / JSON_FILE).is_file():
        return None
    try:
        recipe: Mapping[str, Any] | None = read_json(folder / JSON_FILE).get("recipe")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: {JSON_FILE} is no report ({type(error).__name__}); get the bundle again") from None
    return recipe if isinstance(recipe, Mapping) else None


def _bundle_of(given: Path) -> Path | None:
    """Return the folder of a bundle, or of a run's bundle; None for a file."""
    if not given.exists():
        raise UserError(f"{given}: no such run, bundle or ONNX file")
    if given.is_file():
        return None
    folder = given if (given / MANIFEST).is_file() else given / BUNDLE
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{given}: neither a bundle nor a run with one (no {MANIFEST} there or in {BUNDLE}/)")
    return folder


def _onnx_side(
    given: Path, profile: DeviceProfile, versions: Mapping[str, str], only: str | None, precision: str | None
) -> Side:
    if fault := onnx_fault(given):
        raise UserError(fault)
    wanted = precision or _precision(given)
    runtimes = [r for r in profile.runtimes if only in (None, r.engine)]
    if not runtimes:
        raise UserError(unknown("engine", str(only), [r.engine for r in profile.runtimes], f"device {profile.name}"))
    for runtime in runtimes:
        if wanted in runtime.precisions:
            plan = engine(runtime.engine).plan(profile, wanted, versions[runtime.engine])
            if plan.source == "onnx":
                return Side(given=str(given), name=given.stem, plan=plan, model=given)
    where = only or "no engine of it"
    raise UserError(f"{given}: device {profile.name}: {where} runs ONNX files in {wanted!r}; name another with --precision")


def _precision(model: Path) -> str:
    """Return ``int8`` for a file with Q/DQ pairs, ``fp16`` for one of half weights, else ``fp32``."""
    graph = onnx.load(str(model), load_external_data=False).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "int8"
    kinds = [weight.data_type for weight in graph.initializer]
    half, single = (kinds.count(kind) for kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT))
    return "fp16" if half > single else "fp32"


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Read what a bundle states was done to a sample.

    Raises:
        UserError: it is no table.
    """
    try:
        told = json.loads((folder / "preprocessing.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: preprocessing.json cannot be read ({one_line(str(error), 100)}); get it again") from None
    if not isinstance(told, dict):
        raise UserError(f"{folder}: preprocessing.json is no table; get the bundle again")
    return told
