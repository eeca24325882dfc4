"""The files that engines are built from, each made once: ONNX, int8, half precision, programs, weights as indices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import onnx
from torch import nn
from torch.export import ExportedProgram

from calib import tensorrt_table
from compress.execution.cache import Step, StepCache, versions
from compress.methods.packing.packed_program import PackedProgram
from compress.methods.quantization import post_training
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.methods.quantization.operations import Quantize
from compress.models.inputs import ModelInputs, as_arrays, describe
from compress.pipeline import decode_graph
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.sized_models import with_constants
from deploy.engines import BuildPlan
from deploy.export.program_pairs import QuantizationSpec
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph import count
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.packing import packed_file
from deploy.packing.packed_file import SizeBreakdown
from deploy.qdq.insert import Scales, insert
from profiles.device import DeviceProfile
from profiles.quantization import QUANTIZATION

MODEL = "model.onnx"
TABLE = "calibration.cache"
"""The same ranges for TensorRT's older calibrators, beside a Q/DQ file of symmetric integers."""
PAIRS = "calibration/pairs.onnx"
"""In bundles of int8 whose engine has a format of its own: the ONNX file with Q/DQ pairs that it was made of."""
FREE = post_training.PostTraining()
"""How int8 is made that costs nothing: the options of the stage ``quantize`` are for it alone."""


@final
@dataclass(frozen=True)
class Variant:
    """Model in one engine and precision."""

    made: CachedModel
    engine: str
    precision: str

    @property
    def form(self) -> str:
        return f"{self.engine} {self.precision}"


@final
@dataclass(frozen=True, kw_only=True)
class PackedExport:
    """A model file with its weights as indices; ``left`` names weights that it has in no form which follows from them."""

    file: Path
    account: SizeBreakdown
    left: tuple[str, ...]


@final
class Exporter:
    """Export the files that the engines of variants are built from, each once."""

    def __init__(self, builder: ModelBuilder, profile: DeviceProfile, cache: StepCache) -> None:
        self._builder, self._profile, self._cache = builder, profile, cache

    def source(self, variant: Variant, plan: BuildPlan, size: int | None = None) -> Step:
        """Make the file that a variant's engine is built from, as a step.

        Args:
            size: of a model with several; the largest without one.
        """
        if plan.format.made_from == "program":
            return self._from_program(variant, plan, size)
        model = self._model(variant, size)
        return self._from_onnx(model, plan) if plan.format.exporter else model

    def path(self, variant: Variant, plan: BuildPlan, size: int | None = None) -> Path:
        """Return the file that a variant's engine is built from."""
        return self.source(variant, plan, size).folder / plan.model_file

    def pairs(self, variant: Variant, plan: BuildPlan) -> dict[str, Path]:
        """Return the file with Q/DQ pairs that an engine's own format was made of, by its name in a bundle."""
        own = plan.format.exporter and plan.format.made_from == "onnx" and variant.precision == "int8"
        return {PAIRS: self._model(variant, None).folder / MODEL} if own else {}

    def _from_onnx(self, model: Step, plan: BuildPlan) -> Step:
        """Convert an ONNX file into another format."""

        def make(folder: Path) -> None:
            (folder / plan.model_file).write_bytes(model_bytes(onnx.load(str(model.folder / MODEL)), plan))

        return self._cache.step(f"export-{plan.source}", {"model": model.key, **_format_key(plan)}, make)

    def _from_program(self, variant: Variant, plan: BuildPlan, size: int | None) -> Step:
        """Export a captured program in a format of its own, here, whatever device runs it."""
        made, recipe = variant.made, self._recipe(variant)
        decided = {
            "artifact": made.step.key,
            "recipe": None if recipe is None else asdict(QUANTIZATION[recipe]),
            "capture": code_key(capture, QuantizedProgram),
            **_format_key(plan),
            **({} if size is None else {"size": describe(self._builder.models.example_at(size))}),
        }
        if recipe is not None and made.recipe is None:
            decided |= self._calibration_key()

        def calibrated() -> Quantize:
            model = onnx.load(str(self.exported(made).folder / MODEL))
            shop = self._builder
            samples = shop.calibration_of(made)
            return post_training.calibrate(model, samples, recipe or "", FREE.ranges, observer=shop.observer)

        def make(folder: Path) -> None:
            module = self._builder.models.module_at(made, size)
            example = self._builder.models.example_at(size, module)
            program, integers = capture_program(module, example, calibrated if recipe is not None else None)
            (folder / plan.model_file).write_bytes(plan.format.export()(program, plan.batch, integers))

        return self._cache.step(f"export-{plan.source}", decided, make)

    def _recipe(self, variant: Variant) -> str | None:
        """Return the Q/DQ recipe of a variant; None in float."""
        return self._profile.runtime(variant.engine).quantization if variant.precision == "int8" else None

    def _calibration_key(self) -> dict[str, Any]:
        return {
            "samples": self._builder.data.calibration.fingerprint(),
            "options": asdict(FREE),
            "calibration": code_key(post_training),
        }

    def _model(self, variant: Variant, size: int | None) -> Step:
        if variant.precision == "int8" and variant.made.recipe is None:
            recipe = self._recipe(variant)
            assert recipe is not None, "profiles give each int8 runtime a recipe"
            return self._post_training(variant.made, recipe, size)
        return self.exported(variant.made, size)

    def exported(self, made: CachedModel, size: int | None = None) -> Step:
        """Export a model as ONNX, of its own precision; at the largest size without one."""
        if made.is_onnx and size is not None:
            made, size = self._builder.file_at(made, size), None
        example = self._builder.models.example_at(size, None if made.is_onnx else made.artifact.module)
        asked = self._builder.task.asked_head()
        decided = {
            "artifact": made.step.key,
            "code": code_key(to_onnx, insert, QuantizedProgram, PackedProgram),
            "versions": versions("torch", "onnx", "onnxscript"),
            **({} if size is None else {"size": describe(example)}),
        }
        if asked is not None and asked.in_graph:
            decided |= {"task": self._builder.task_key(), "decode": code_key(decode_graph)}

        def make(folder: Path) -> dict[str, Any]:
            if made.is_onnx:
                plain = model = onnx.load(str(made.step.folder / MODEL))
            elif isinstance(module := self._builder.models.module_at(made, size), PackedProgram):
                plain = model = to_onnx(module.float_program())
            elif isinstance(module, QuantizedProgram):
                plain = to_onnx(module.float_program())
                model = insert(plain, module.placement, module.scales(), QUANTIZATION[made.recipe or ""])
            else:
                plain = model = to_onnx(capture(module, example))
            if asked is not None and asked.in_graph:
                model = decode_graph.write_in(model, as_arrays(example), asked)
            onnx.save(model, str(folder / MODEL))
            return {"parameters": count.count_parameters(plain), "macs": count.count_macs(plain)}

        return self._cache.step("export", decided, make)

    def _post_training(self, made: CachedModel, recipe: str, size: int | None) -> Step:
        exported = self.exported(made)
        smaller = None if size is None else self.exported(made, size)
        decided = {
            "model": exported.key,
            "recipe": asdict(QUANTIZATION[recipe]),
            **self._calibration_key(),
            **({} if smaller is None else {"size": smaller.key, "carried": code_key(with_constants)}),
        }

        def make(folder: Path) -> dict[str, Any]:
            model = onnx.load(str(exported.folder / MODEL))
            samples = self._builder.calibration_of(made)
            found = post_training.quantize_model(model, samples, recipe, FREE, self._builder.observer)
            if smaller is not None:  # the integers of the largest size
                found = replace(found, model=with_constants(onnx.load(str(smaller.folder / MODEL)), found.model))
            onnx.save(found.onnx(), str(folder / MODEL))
            if QUANTIZATION[recipe].activation_symmetric:
                (folder / TABLE).write_text(tensorrt_table.format_table(found.scales.activations))
            return {"kept_float": dict(found.quantize.placement.kept_float)}

        return self._cache.step("post-training", decided, make)

    def counts(self, made: CachedModel) -> tuple[int, int]:
        """Count the parameters and multiply-accumulates of a model."""
        facts = self.exported(made).facts
        return int(facts["parameters"]), int(facts["macs"])

    def packed(self, variant: Variant, plan: BuildPlan) -> PackedExport | None:
        """Pack a variant's file: its weights as indices; None where it has none, or is no smaller so."""
        if not variant.made.packed or not plan.format.packer:
            return None
        source, made = self.source(variant, plan), variant.made
        packer = plan.format.packer.partition(":")[0]
        decided = {"model": source.key, "artifact": made.step.key, "code": code_key(packed_file, packer)}

        def make(folder: Path) -> dict[str, Any]:
            module = made.artifact.module
            assert isinstance(module, PackedProgram)
            content, left = plan.format.pack()(self.path(variant, plan).read_bytes(), module.packed())
            (folder / packed_file.FILE).write_bytes(content)
            return {"account": asdict(packed_file.size_breakdown(content)), "left": list(left)}

        step = self._cache.step("packed", decided, make)
        found = PackedExport(
            file=step.folder / packed_file.FILE,
            account=SizeBreakdown(**step.facts["account"]),
            left=tuple(step.facts["left"]),
        )
        return found if found.account.file_bytes < found.account.model_bytes else None


def capture_program(
    module: nn.Module, example: ModelInputs, calibrated: Callable[[], Quantize] | None
) -> tuple[ExportedProgram, QuantizationSpec | None]:
    """Capture the float program of a module, and how it becomes an int8 one; None in float.

    Args:
        example: inputs of the module, two samples or more.
        calibrated: gives post-training ranges; None for a float file. A module trained in int8 has its own.
    """
    if isinstance(module, QuantizedProgram):
        trained = QuantizationSpec(placement=module.placement, scales=module.scales(), recipe=module.recipe)
        return module.float_program(), trained
    program = capture(module, example)
    if calibrated is None:
        return program, None
    quantize = calibrated()
    scales = Scales(activations=quantize.activations, weights={})
    recipe = QUANTIZATION[quantize.recipe]
    return program, QuantizationSpec(placement=quantize.placement, scales=scales, recipe=recipe)


def _format_key(plan: BuildPlan) -> dict[str, Any]:
    """Return what decides a file besides the model: format, code and packages of the exporter, batch."""
    export_format = plan.format
    return {
        "format": asdict(export_format),
        "batch": plan.batch,
        "code": code_key(export_format.exporter.partition(":")[0]),
        "versions": versions(*export_format.packages),
    }
