"""The engine side of a run: exports, builds and accuracy on the device, each a step made once; races give latency."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx

from compress.data import Samples
from compress.execution import distributed
from compress.execution.cache import Step, StepCache
from compress.execution.cache import digest as digest_of
from compress.execution.progress import Progress
from compress.pipeline.agreement import Agreement
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.device_costs import DeviceCostModel
from compress.pipeline.evaluation import Evaluation
from compress.pipeline.exports import MODEL, Exporter, PackedExport, Variant
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.races import RaceOptions, RaceResult, Races, device_key, facts_and_setting
from compress.pipeline.recorded_engine import RecordedEngine
from compress.pipeline.whole_path import WholePath, whole_path
from compress.report.record import SizeLatency
from compress.tasks import Predict
from deploy.devices import Device
from deploy.devices.local import Local
from deploy.engines import BuildPlan, EngineError, engine
from deploy.engines.inputs import Inputs, as_feed, digest, input_names
from deploy.engines.serving import NOTHING, part, save
from deploy.export.structure import structure_digest
from deploy.measure.footprint import Footprint
from deploy.measure.path_times import PathLatency
from deploy.measure.timing import Latency
from deploy.worker.pool import WorkerPool
from profiles.device import DeviceProfile
from profiles.errors import UserError, one_line
from profiles.quantization import QUANTIZATION

MOST_REASON = 300
"""Characters of a runtime's reason that are kept."""


@final
class Evaluator:
    """Builds and measures variants on one device.

    Attributes:
        pool: workers for everything that is not timed; open it for many requests in a row.
        refused: why runtimes do not take a model, by variant.
    """

    def __init__(
        self,
        builder: ModelBuilder,
        device: Device,
        profile: DeviceProfile,
        cache: StepCache,
        progress: Progress,
        options: RaceOptions | None = None,
    ) -> None:
        self._builder, self.device, self.profile = builder, device, profile
        self.cache, self._progress = cache, progress
        self.pool = WorkerPool(device)
        self.refused: dict[Variant, str] = {}
        self._raced_as: dict[Variant, Step] = {}
        self._paths_of: dict[tuple[tuple[Variant, ...], float], dict[str, WholePath]] = {}
        self._whole_paths: dict[tuple[str, str | None], WholePath] = {}
        self._files = Exporter(builder, profile, cache)
        self._agreement = Agreement(self.pool, self._files, self.plan)
        facts, setting = distributed.from_main(facts_and_setting(self.pool) if distributed.is_main() else ({}, {}))
        self.environment: dict[str, Any] = facts
        self._races = Races(
            device,
            self.pool,
            cache,
            progress,
            device_key=self._device_key(),
            setting=setting,
            feed=lambda samples: self.sample_feed(builder.data.validation, samples),
            shares=lambda: {
                part(size) if size in self._smaller() else "": share for size, share in builder.models.mix.items()
            },
            options=options or RaceOptions(quiet_seconds=builder.recipe.measure.quiet_seconds),
        )

    @property
    def url(self) -> str:
        """Address of the device."""
        return self.device.url

    def target(self, made: CachedModel) -> DeviceCostModel:
        """Return the cost of a model on this device as a function of its widths."""
        return DeviceCostModel(
            lambda: self._files.exported(made).folder / MODEL,
            self.device,
            self._device_key(),
            self.profile,
            {name: about["version"] for name, about in self.environment["engines"].items()},
            self.cache.root / "latency",
            self._progress,
        )

    def forms(self, made: CachedModel) -> list[Variant]:
        """List every runtime and precision of the profile that takes a model; their engines are built.

        Why a runtime does not is said once, and kept in ``refused``.
        """
        return [variant for variant in self._possible(made) if self._takes(variant)]

    def required_forms(self, made: CachedModel) -> list[Variant]:
        """List the forms of a model that must have one.

        Raises:
            UserError: no runtime of the profile takes it; with the reason of each.
        """
        if not (found := self.forms(made)):
            reasons = [f"{variant.form}: {reason}" for variant, reason in self.refused.items() if variant.made == made]
            raise UserError("no runtime of the profile takes the teacher", *reasons)
        return found

    def _possible(self, made: CachedModel) -> list[Variant]:
        """List the forms that a model can have.

        A float model's int8 is post-training; a model trained in int8 has no float form, and no form on a
        runtime that computes with other integers.
        """
        variants: list[Variant] = []
        for runtime in self.profile.runtimes:
            for precision in runtime.precisions:
                variant = Variant(made, runtime.engine, precision)
                if made.is_onnx and self.plan(variant).format.made_from == "program":
                    continue  # an ONNX file without source code has no program
                if made.recipe is None or (precision == "int8" and _same_numbers(runtime.quantization, made.recipe)):
                    variants.append(variant)
        return variants

    def first_forms(self, made: CachedModel) -> list[Variant]:
        """List the forms on the profile's first runtime."""
        return [v for v in self.forms(made) if v.engine == self.profile.runtimes[0].engine]

    def _takes(self, variant: Variant) -> bool:
        if variant in self.refused:
            return False
        try:
            self.built(variant)
        except EngineError as error:
            if distributed.count() > 1:
                raise  # the other processes wait for the engine
            self.refused[variant] = one_line(str(error), MOST_REASON)
            self._progress.say(f"  left out: {variant.form}: {self.refused[variant]}")
            return False
        return True

    def built(self, variant: Variant) -> Step:
        """Build the engine of a variant on the device."""
        plan, serving = self.plan(variant), self._builder.models.serving_of(variant.made)
        model = self._files.source(variant, plan)
        smaller = {size: self._files.source(variant, plan, size) for size in self._smaller()}
        decided = {
            "model": model.key,
            "plan": plan.as_json(),
            "device": self._device_key(),
            "machine": self.environment["engines"][variant.engine]["machine"],
            "code": code_key(type(engine(variant.engine))),
            **({} if serving == NOTHING else {"serving": serving.as_json(), "smaller": [s.key for s in smaller.values()]}),
        }

        def make(folder: Path) -> dict[str, Any]:
            if not isinstance(self.device, Local):
                self._progress.say(f"  building {variant.form} on {self.url}")
            with self.pool.worker() as worker:
                facts = worker.build(model.folder / plan.model_file, plan, folder / "engine")
                for size, source in smaller.items():
                    about = worker.build(source.folder / plan.model_file, plan, folder / "engine" / part(size))
                    facts = {name: facts[name] + about[name] for name in ("seconds", "size_bytes")}
            save(folder / "engine", serving)
            return facts

        return self.cache.step("engine", decided, make)

    def _folders(self) -> dict[str, int]:
        """Return the size of each folder below an engine's, the largest in the engine's own; none for models of one size."""
        smaller = self._smaller()
        return {part(size) if size in smaller else "": size for size in self._builder.models.mix}

    def _smaller(self) -> tuple[int, ...]:
        """Return the sizes below the largest that there is an engine for."""
        sizes = self._builder.models.serving.sizes
        return () if sizes is None else sizes.sizes[:-1]

    @property
    def full_scale(self) -> float:
        """Return the largest value of the task's metric."""
        return self._builder.task.full_scale

    def judge(self, variant: Variant, split: str) -> Evaluation:
        """Evaluate a variant's engine on ``validation`` or ``test``: metric, and parity with the module."""
        samples: Samples = getattr(self._builder.data, split)
        built = self.built(variant)
        decided = {
            "engine": built.key,
            "samples": samples.fingerprint(),
            "task": self._builder.task_key(),
            "code": code_key(Agreement, RecordedEngine),
        }

        def make(folder: Path) -> dict[str, Any]:
            with self.pool.worker() as worker:
                opened = worker.open(built.folder / "engine")
                with self._progress.task(f"evaluate {variant.form}", len(samples)) as bar:
                    recorder = RecordedEngine(worker, input_names(opened), bar)
                    metric, scores = self._builder.task.evaluate_samples(recorder, samples)
            self._builder.task.check_metric(metric)
            is_program = self.plan(variant).format.made_from == "program"
            reference = (self._builder.reference if is_program else self._builder.as_exported)(variant.made)
            kept = recorder.inputs, recorder.outputs
            agreement, parted = self._agreement.compare(variant, built.folder / "engine", reference, *kept)
            drawn = np.array(metric.drawn) if metric.drawn else None
            found = Evaluation(metric=metric, parity=agreement, parted=parted, scores=scores, drawn=drawn)
            return found.keep(folder)

        return Evaluation.kept(self.cache.step("judged", decided, make))

    def race(self, variants: Sequence[Variant], seconds: float) -> dict[Variant, Latency]:
        """Time all variants in turns, ``seconds`` of each; equal engines run once."""
        engines, result = self._raced(variants, seconds)
        return {variant: result.latency(engine) for variant, engine in engines.items()}

    def race_paths(self, variants: Sequence[Variant], seconds: float) -> dict[Variant, Latency]:
        """Race as ``race`` does, and time the whole paths too, from raw samples of validation to answers."""
        engines = self._sharing({variant: self.built(variant) for variant in variants})
        paths: dict[str, WholePath] = {}
        for variant, step in engines.items():
            if step.key not in paths and (path := self.whole_path(variant, "validation")).files:
                paths[step.key] = path
        self._paths_of[tuple(variants), seconds] = paths
        return self.race(variants, seconds)

    def whole_path(self, variant: Variant, split: str) -> WholePath:
        """Describe what is before and after a variant's engine, with raw samples of a split."""
        task, samples = self._builder.task, getattr(self._builder.data, split)
        decoding = None
        if task.asked_head() is not None:
            decoding = task.decoding(self.infer(variant, self.sample_feed(samples, 1)))
        key = split, None if decoding is None else decoding.head
        if key not in self._whole_paths:
            self._whole_paths[key] = whole_path(self._builder.data, task, samples, decoding)
            if why_not := self._whole_paths[key].why_not:
                self._progress.say(f"  the whole path, from raw samples to answers, is not timed: {why_not}")
        return self._whole_paths[key]

    def path_ms(self, variant: Variant) -> PathLatency | None:
        """Return the latency of the whole path of a variant that raced; None where it was not timed."""
        return self._races.path_ms(self._raced_as[variant])

    def faster(self, one: Variant, other: Variant, variants: Sequence[Variant], seconds: float) -> tuple[float, float]:
        """Return the interval of how many times faster ``other`` is than ``one`` in that race of ``variants``."""
        engines, result = self._raced(variants, seconds)
        return result.ratio(engines[one], engines[other])

    def _raced(self, variants: Sequence[Variant], seconds: float) -> tuple[dict[Variant, Step], RaceResult]:
        engines = self._sharing({variant: self.built(variant) for variant in variants})
        result = self._races.run(engines.values(), seconds, self._paths_of.get((tuple(variants), seconds)))
        self.environment["conditions"] = result.conditions
        self._raced_as |= engines
        return engines, result

    def _sharing(self, engines: dict[Variant, Step]) -> dict[Variant, Step]:
        """Replace engines that are equal but for their weights by one of them, which alone is timed."""
        first: dict[str, Step] = {}
        structures = {variant: self._structure(variant, step) for variant, step in engines.items()}
        for variant, step in sorted(engines.items(), key=lambda item: item[1].key):
            first.setdefault(structures[variant], step)
        return {variant: first[structures[variant]] for variant in engines}

    def _structure(self, variant: Variant, built: Step) -> str:
        """Describe what an engine computes without its weights; its own key where its model is no ONNX file."""
        plan = self.plan(variant)
        if plan.format.exporter or plan.format.made_from == "program":
            return built.key
        digest = structure_digest(onnx.load(str(self.model_path(variant))))
        return f"{digest} {json.dumps(plan.as_json(), sort_keys=True, default=str)}"

    def raced_as(self, variant: Variant) -> str:
        """Return the key of the engine that was timed for a variant that raced; equal engines share one."""
        return self._raced_as[variant].key

    def energy_mj(self, variant: Variant) -> float | None:
        """Return the millijoules of one inference of a variant that raced; None where the device has no power rails."""
        return self._races.energy_mj(self._raced_as.get(variant) or self.built(variant))

    def footprint(self, variant: Variant) -> Footprint:
        """Return what holding the engine of a variant that raced costs: memory, loading, first inference."""
        return self._races.footprint(self._raced_as[variant])

    def sizes(self, variants: Sequence[Variant], seconds: float) -> dict[Variant, tuple[SizeLatency, ...]]:
        """Return the latency at each size in that race, with the share of validation that goes there; none for one size."""
        engines, result = self._raced(variants, seconds)
        return {variant: result.at_sizes(engine, self._folders()) for variant, engine in engines.items()}

    def doubts(self, variants: Sequence[Variant], seconds: float) -> tuple[str, ...]:
        """Say why that race of ``variants`` is not a clean measurement; empty when it is."""
        return self._raced(variants, seconds)[1].doubts

    def remark(self, variant: Variant) -> str:
        """Say what of a variant's engine runs elsewhere than its name says; empty where nothing does."""
        return str(self.built(variant).facts.get("remark", ""))

    def size_bytes(self, variant: Variant) -> int:
        """Return the bytes of a variant's built engine."""
        return int(self.built(variant).facts["size_bytes"])

    def counts(self, made: CachedModel) -> tuple[int, int]:
        """Count the parameters and multiply-accumulates of a model."""
        return self._files.counts(made)

    def model_path(self, variant: Variant) -> Path:
        """Return the file that a variant's engine was built from."""
        return self._files.path(variant, self.plan(variant))

    def smaller_models(self, variant: Variant) -> dict[int, Path]:
        """Return the files of the sizes below the largest."""
        return {size: self._files.path(variant, self.plan(variant), size) for size in self._smaller()}

    def float_model(self, made: CachedModel) -> onnx.ModelProto:
        """Return a model as the ONNX file of floats that its engines are built from."""
        return onnx.load(str(self._files.exported(made).folder / MODEL))

    def pairs(self, variant: Variant) -> dict[str, Path]:
        """Return what a bundle holds beside the engine's own file, so that new ranges can be made; by its name there."""
        return self._files.pairs(variant, self.plan(variant))

    def packed(self, variant: Variant) -> PackedExport | None:
        """Return the packed form of that file; None where it has none, or is no smaller."""
        return self._files.packed(variant, self.plan(variant))

    def stored_bytes(self, variant: Variant) -> int:
        """Return the bytes of the model in a bundle, packed where that is smaller."""
        packed, beside = self.packed(variant), sum(path.stat().st_size for path in self.smaller_models(variant).values())
        return beside + (self.model_path(variant).stat().st_size if packed is None else packed.account.file_bytes)

    def infer(self, variant: Variant, inputs: Inputs) -> list[npt.NDArray[Any]]:
        """Run a variant's engine on ``inputs`` of shape (samples, ...), or several by name; of sequences at every step."""
        key = digest(inputs)
        built = self.built(variant)

        def make(folder: Path) -> None:
            with self.pool.worker() as worker:
                names = input_names(worker.open(built.folder / "engine"))
                np.savez(folder / "outputs.npz", *worker.infer(as_feed(inputs, names), every=True).values())

        step = self.cache.step("outputs", {"engine": built.key, "inputs": key}, make)
        with np.load(step.folder / "outputs.npz", allow_pickle=False) as stored:
            return [stored[name] for name in stored.files]

    @contextmanager
    def predicting(self, variant: Variant) -> Iterator[Predict]:
        """Open a variant's engine as a function of inputs."""
        built = self.built(variant)
        with self.pool.worker() as worker:
            names = input_names(worker.open(built.folder / "engine"))
            yield lambda inputs: list(worker.infer(as_feed(inputs, names)).values())

    def in_order(self, variant: Variant, inputs: Inputs) -> Inputs:
        """Put several inputs in the order of an engine's own, which a file without names is fed by."""
        if not isinstance(inputs, Mapping):
            return inputs
        with self.pool.worker() as worker:
            return as_feed(inputs, input_names(worker.open(self.built(variant).folder / "engine")))

    def sample_feed(self, samples: Samples, how_many: int) -> Inputs:
        """Load the first inputs of a split."""
        first: Inputs = samples.load(np.arange(min(how_many, len(samples)))).inputs
        return first

    def plan(self, variant: Variant) -> BuildPlan:
        version = self.environment["engines"][variant.engine]["version"]
        return engine(variant.engine).plan(self.profile, variant.precision, version)

    @property
    def machine(self) -> str:
        """Return a hash of what decides a latency of the device: its address and processor, whatever its profile is."""
        return digest_of(self._device_key())

    def _device_key(self) -> dict[str, Any]:
        return device_key(self.device.url, self.environment["device"])


def _same_numbers(one: str | None, other: str) -> bool:
    return one is not None and QUANTIZATION[one].numbers() == QUANTIZATION[other].numbers()
