"""The files that engines are built from, each made once: ONNX, int8, half precision, programs, weights as indices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import onnx
from torch import Tensor, nn

from calib import tensorrt_table
from compress.execution.cache import Step, StepCache, code_digest, versions
from compress.methods.packing.packed_program import PackedProgram
from compress.methods.quantization import post_training
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.methods.quantization.operations import Quantize
from compress.pipeline.cache_keys import PLACEMENT
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.model_builder import ModelBuilder
from deploy.engines import BuildPlan
from deploy.export.to_executorch import Integers, to_pte
from deploy.export.to_onnx import capture, to_onnx
from deploy.export.to_packed import pack_model
from deploy.onnx_graph import count
from deploy.onnx_graph.half import half
from deploy.packing import packed_file
from deploy.packing.packed_file import Account
from deploy.qdq.insert import Scales, insert
from profiles.device import DeviceProfile
from profiles.quantization import QUANTIZATION

MODEL, PROGRAM = "model.onnx", "model.pte"
TABLE = "calibration.cache"
"""The same ranges for TensorRT's older calibrators, beside a Q/DQ file of symmetric integers."""
EXPORTING = (
    "deploy.export.to_onnx",
    *PLACEMENT,
    "deploy.qdq.insert",
    "deploy.packing.indices",
    "compress.methods.quantization.fake_quantize",
    "compress.methods.packing.packed_program",
)
PACKING = (
    "deploy.export.to_packed",
    "deploy.packing.packed_file",
    "deploy.packing.indices",
    "deploy.packing.huffman",
    "deploy.packing.indices",
)
CALIBRATION = (
    "compress.methods.quantization.post_training",
    "compress.methods.quantization.observer",
    "calib.ranges",
    "deploy.onnx_graph.run",
    "deploy.qdq.bias_correction",
)
FREE = post_training.PostTraining()
"""How int8 is made that costs nothing: the options of the stage ``quantize`` are for it alone."""


@final
@dataclass(frozen=True)
class Variant:
    """A model in one engine and precision."""

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
    account: Account
    left: tuple[str, ...]


@final
class Exporter:
    """Makes the files of variants for one device; knows nothing of engines but what a plan is built from."""

    def __init__(self, builder: ModelBuilder, profile: DeviceProfile, cache: StepCache) -> None:
        self._builder, self._profile, self._cache = builder, profile, cache

    def source(self, variant: Variant, plan: BuildPlan) -> Step:
        """The step that holds the file which the variant's engine is built from."""
        if plan.source == "pte":
            return self._program(variant)
        return self._half(self._model(variant)) if plan.source == "onnx-fp16" else self._model(variant)

    def path(self, variant: Variant, plan: BuildPlan) -> Path:
        """The file that the variant's engine is built from."""
        return self.source(variant, plan).folder / plan.model_file

    def _half(self, model: Step) -> Step:
        """An ONNX file with its float tensors in half precision."""

        def make(folder: Path) -> None:
            onnx.save(half(onnx.load(str(model.folder / MODEL))), str(folder / MODEL))

        decided = {
            "model": model.key,
            "code": code_digest(["deploy.onnx_graph.half"]),
            "versions": versions("onnxruntime", "onnx"),
        }
        return self._cache.step("export-fp16", decided, make)

    def _program(self, variant: Variant) -> Step:
        """A model as ExecuTorch's program, which is made here whatever device runs it."""
        made, recipe = variant.made, self._recipe(variant)
        decided = {
            "artifact": made.step.key,
            "batch": self._profile.batch,
            "recipe": None if recipe is None else asdict(QUANTIZATION[recipe]),
            "code": code_digest(["deploy.export.to_onnx", "deploy.export.to_executorch", *PLACEMENT, "deploy.qdq.insert"]),
            "versions": versions("torch", "executorch"),
        }
        if recipe is not None and made.recipe is None:
            decided |= self._calibration_key()

        def calibrated() -> Quantize:
            model = onnx.load(str(self.exported(made).folder / MODEL))
            shop = self._builder
            return post_training.calibrate(model, shop.data.calibration, recipe or "", FREE.ranges, observer=shop.observer)

        def make(folder: Path) -> None:
            module, example = made.artifact.module, self._builder.example
            content = pte(module, example, self._profile.batch, calibrated if recipe is not None else None)
            (folder / PROGRAM).write_bytes(content)

        return self._cache.step("export-pte", decided, make)

    def _recipe(self, variant: Variant) -> str | None:
        """The Q/DQ recipe of a variant; None in float."""
        return self._profile.runtime(variant.engine).quantization if variant.precision == "int8" else None

    def _calibration_key(self) -> dict[str, Any]:
        return {
            "samples": self._builder.data.calibration.fingerprint(),
            "options": asdict(FREE),
            "calibration": code_digest(CALIBRATION),
        }

    def _model(self, variant: Variant) -> Step:
        if variant.precision == "int8" and variant.made.recipe is None:
            recipe = self._recipe(variant)
            assert recipe is not None, "profiles give each int8 runtime a recipe"
            return self._post_training(variant.made, recipe)
        return self.exported(variant.made)

    def exported(self, made: CachedModel) -> Step:
        """The model as ONNX, of its own precision."""
        decided = {
            "artifact": made.step.key,
            "code": code_digest(EXPORTING),
            "versions": versions("torch", "onnx", "onnxscript"),
        }

        def make(folder: Path) -> dict[str, Any]:
            if made.is_onnx:
                plain = model = onnx.load(str(made.step.folder / MODEL))
            elif isinstance(module := made.artifact.module, PackedProgram):
                plain = model = to_onnx(module.float_program())
            elif isinstance(module, QuantizedProgram):
                plain = to_onnx(module.float_program())
                model = insert(plain, module.placement, module.scales(), QUANTIZATION[made.recipe or ""])
            else:
                plain = model = to_onnx(capture(module, [self._builder.example]))
            onnx.save(model, str(folder / MODEL))
            return {"parameters": count.parameters(plain), "macs": count.macs(plain)}

        return self._cache.step("export", decided, make)

    def _post_training(self, made: CachedModel, recipe: str) -> Step:
        exported = self.exported(made)
        decided = {
            "model": exported.key,
            "recipe": asdict(QUANTIZATION[recipe]),
            **self._calibration_key(),
        }

        def make(folder: Path) -> dict[str, Any]:
            model = onnx.load(str(exported.folder / MODEL))
            samples = self._builder.data.calibration
            found = post_training.quantise(model, samples, recipe, FREE, self._builder.observer)
            onnx.save(found.onnx(), str(folder / MODEL))
            if QUANTIZATION[recipe].activation_symmetric:
                (folder / TABLE).write_text(tensorrt_table.format_table(found.scales.activations))
            return {"kept_float": dict(found.quantize.placement.kept_float)}

        return self._cache.step("post-training", decided, make)

    def counts(self, made: CachedModel) -> tuple[int, int]:
        """Parameters and multiply-accumulates of a model."""
        facts = self.exported(made).facts
        return int(facts["parameters"]), int(facts["macs"])

    def packed(self, variant: Variant, plan: BuildPlan) -> PackedExport | None:
        """The same file with its weights as indices; None where it has none, or is not smaller so."""
        if not variant.made.packed or plan.source == "pte":
            return None
        source, made = self.source(variant, plan), variant.made
        decided = {"model": source.key, "artifact": made.step.key, "code": code_digest(PACKING)}

        def make(folder: Path) -> dict[str, Any]:
            module = made.artifact.module
            assert isinstance(module, PackedProgram)
            content, left = pack_model(self.path(variant, plan).read_bytes(), module.packed())
            (folder / packed_file.FILE).write_bytes(content)
            return {"account": asdict(packed_file.account(content)), "left": list(left)}

        step = self._cache.step("packed", decided, make)
        found = PackedExport(
            file=step.folder / packed_file.FILE, account=Account(**step.facts["account"]), left=tuple(step.facts["left"])
        )
        return found if found.account.file_bytes < found.account.model_bytes else None


def pte(module: nn.Module, example: Tensor, batch: int, calibrated: Callable[[], Quantize] | None) -> bytes:
    """The bytes of a ``.pte`` file for ``batch`` samples.

    Args:
        example: inputs of the module, two samples or more.
        calibrated: gives post-training ranges; None for a float file. A module trained in int8 has its own.

    Raises:
        EngineError: ExecuTorch cannot lower the model.
    """
    if isinstance(module, QuantizedProgram):
        trained = Integers(placement=module.placement, scales=module.scales(), recipe=module.recipe)
        return to_pte(module.float_program(), batch, trained)
    program = capture(module, [example])
    if calibrated is None:
        return to_pte(program, batch)
    found = calibrated()
    scales = Scales(activations=found.activations, weights={})
    return to_pte(program, batch, Integers(placement=found.placement, scales=scales, recipe=QUANTIZATION[found.recipe]))
