"""A bundle that is to be recalibrated, read and checked: it comes from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import onnx

from compress.pipeline.check.sides import Side, open_side, read_preprocessing
from compress.pipeline.derived_bundle import is_trusted, made_of
from compress.pipeline.exports import PAIRS
from compress.pipeline.target import ResolvedTarget, runtime_versions
from deploy.bundle import manifest as manifests
from deploy.bundle.manifest import Manifest
from deploy.engines import serving
from deploy.latency.bench import onnx_fault
from profiles.device import DeviceProfile
from profiles.errors import UserError, one_line
from profiles.quantization import QUANTIZATION, QuantizationRecipe


@final
@dataclass(frozen=True, kw_only=True)
class OpenedBundle:
    """A bundle that was read and checked.

    Attributes:
        made_of: what tells it from all others.
        pairs: the ONNX file with its Q/DQ pairs, from which the engine's own file is made.
        trusted: whether a key of this machine signed it.
    """

    side: Side
    folder: Path
    contents: Manifest
    made_of: dict[str, Any]
    profile: DeviceProfile
    recipe: QuantizationRecipe
    pairs: onnx.ModelProto
    preprocessing: Mapping[str, Any]
    trusted: bool


def open_bundle(given: Path, target: ResolvedTarget, stack: ExitStack) -> OpenedBundle:
    """Read and check a bundle.

    Raises:
        UserError: everything for which it cannot be recalibrated.
    """
    side = open_side(given, target.profile, runtime_versions(target.device), stack, takes_bytes=True)
    if side.folder is None:
        raise UserError(f"{given}: an ONNX file; give the bundle, which says how it is run and on what it was proven")
    contents, raw, signature = manifests.read(side.folder)
    trusted = is_trusted(contents, raw, signature)
    faults, plan = [], side.plan
    if plan.precision != "int8":
        faults.append(f"{given}: it is {plan.precision}; only int8 has ranges: {_remedy(side)}")
    elif plan.format.made_from == "program":
        faults.append(f"{given}: {plan.model_file} is made of the model's source code; run the recipe on the new samples")
    if (side.folder / serving.FILE).is_file():
        faults.append(f"{given}: it has several sizes or states; run the recipe on the new samples")
    pairs = side.folder / PAIRS if plan.format.exporter else side.model
    if not faults and not pairs.is_file():
        faults.append(f"{given}: it does not hold {PAIRS}, of which {plan.model_file} is made; run the recipe again")
    profile, recipe, preprocessing = _described(side.folder, plan.engine, faults)
    if not faults and (fault := onnx_fault(pairs)):
        faults.append(fault)
    if faults or profile is None or recipe is None:
        raise UserError(*faults)
    return OpenedBundle(
        side=replace(side, plan=replace(plan, version=runtime_versions(target.device)[plan.engine])),
        folder=side.folder,
        contents=contents,
        made_of=made_of(contents, raw),
        profile=profile,
        recipe=recipe,
        pairs=load_plain(pairs),
        preprocessing=preprocessing,
        trusted=trusted,
    )


def _remedy(side: Side) -> str:
    """Say how an int8 bundle comes about, where this one is float."""
    stages = (side.recipe or {}).get("stages", ())
    named = [each.get("use") for each in stages if isinstance(each, Mapping)] if isinstance(stages, Sequence) else []
    if "quantize" in named:
        return "its report says why float was the best row; a recipe with calibration samples of the site may end otherwise"
    return 'give the recipe a stage of `use = "quantize"` and run it on a device that has int8'


def _described(
    folder: Path, engine: str, faults: list[str]
) -> tuple[DeviceProfile | None, QuantizationRecipe | None, dict[str, Any]]:
    """Read profile and preprocessing of a bundle; faults are added."""
    profile, recipe = read_profile(folder, faults), None
    try:
        if profile is not None:
            recipe = QUANTIZATION[str(profile.runtime(engine).quantization)]
        return profile, recipe, read_preprocessing(folder)
    except UserError as error:
        faults += error.faults
    except LookupError:
        faults.append(f"{folder}: its profile does not say how {engine} is quantised; run again")
    return None, None, {}


def read_profile(folder: Path, faults: list[str]) -> DeviceProfile | None:
    """Read the profile of a bundle, which is not trusted; why it cannot be read is added to ``faults``."""
    try:
        return DeviceProfile.from_json(json.loads((folder / "profile.json").read_text()))
    except UserError as error:
        faults += error.faults
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 100)
        faults.append(f"{folder}: profile.json is of another version ({reason}); run again")
    return None


def load_plain(path: Path) -> onnx.ModelProto:
    """Load an ONNX file with its weights inside.

    Raises:
        UserError: they lie in another file.
    """
    model = onnx.load(str(path), load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UserError(f"{path}: its weights lie in another file, which no bundle has")
    return model
