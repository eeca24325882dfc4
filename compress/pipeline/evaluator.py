"""The engine side of a run: exports, builds, accuracy and latency on the device, each as a step made once."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx
import torch

from compress.data import Samples
from compress.execution import distributed
from compress.execution.cache import Step, StepCache, code_digest, versions
from compress.execution.progress import Bar, Progress
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.device_costs import DeviceCostModel
from compress.pipeline.exports import MODEL, Exporter, PackedExport, Variant
from compress.pipeline.model_builder import ModelBuilder
from compress.tasks import Metric
from deploy.devices import Device
from deploy.devices.local import Local
from deploy.engines import BuildPlan, engine
from deploy.export.divergence import LEAST_COSINE, first_parting
from deploy.measure.parity import Parity, parity
from deploy.measure.timing import Latency, ratio_interval, summarise
from deploy.worker import race as races
from deploy.worker.client import RemoteWorker
from deploy.worker.pool import WorkerPool
from profiles.device import DeviceProfile
from profiles.quantization import QUANTIZATION

PARTING_SAMPLES = 4


@final
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A variant on one split, on its engine; ``parted`` names the tensor where it parts from the module, if it does."""

    metric: Metric
    parity: Parity
    parted: str | None = None


@final
class Evaluator:
    """Builds and measures variants on one device.

    Attributes:
        pool: where all that is not timed is asked; who asks much in a row opens it.
    """

    def __init__(
        self,
        builder: ModelBuilder,
        device: Device,
        profile: DeviceProfile,
        cache: StepCache,
        progress: Progress,
        *,
        lock_clocks: bool = False,
    ) -> None:
        self._builder, self._device, self.profile = builder, device, profile
        self._cache, self._progress, self._lock_clocks = cache, progress, lock_clocks
        self.pool = WorkerPool(device)
        self._files = Exporter(builder, profile, cache)
        self._energy_mj: dict[str, float] = {}
        self.doubts: dict[str, None] = {}
        self.environment: dict[str, Any] = distributed.from_main(self._facts() if distributed.is_main() else {})

    def _facts(self) -> dict[str, Any]:
        with self.pool.worker() as worker:
            return worker.facts()

    @property
    def url(self) -> str:
        """Where the engines run."""
        return self._device.url

    def target(self, made: CachedModel) -> DeviceCostModel:
        """What a model costs here as a function of its widths."""
        return DeviceCostModel(
            lambda: self._files.exported(made).folder / MODEL,
            self._device,
            self._device_key(),
            self.profile,
            {name: about["version"] for name, about in self.environment["engines"].items()},
            self._cache.root / "latency",
            self._progress,
        )

    def forms(self, made: CachedModel) -> list[Variant]:
        """Every runtime and precision of the profile that this model can take.

        A float model's int8 is post-training; a model trained in int8 has no float form, and no form on a
        runtime that computes with other integers.
        """
        variants: list[Variant] = []
        for runtime in self.profile.runtimes:
            for precision in runtime.precisions:
                variant = Variant(made, runtime.engine, precision)
                if made.is_onnx and self._plan(variant).format.made_from == "program":
                    continue  # an ONNX file without source code has no program
                if made.recipe is None or (precision == "int8" and _same_numbers(runtime.quantization, made.recipe)):
                    variants.append(variant)
        return variants

    def first_forms(self, made: CachedModel) -> list[Variant]:
        """The forms on the profile's first runtime, by which the gate judges."""
        return [v for v in self.forms(made) if v.engine == self.profile.runtimes[0].engine]

    def built(self, variant: Variant) -> Step:
        """The engine of a variant, built on the device."""
        plan = self._plan(variant)
        model = self._files.source(variant, plan)
        decided = {
            "model": model.key,
            "plan": plan.as_json(),
            "device": self._device_key(),
            "machine": self.environment["engines"][variant.engine]["machine"],
            "code": code_digest([type(engine(variant.engine)).__module__]),
        }

        def make(folder: Path) -> dict[str, Any]:
            if not isinstance(self._device, Local):
                self._progress.say(f"  building {variant.form} on {self.url}")
            with self.pool.worker() as worker:
                return worker.build(model.folder / plan.model_file, plan, folder / "engine")

        return self._cache.step("engine", decided, make)

    def judge(self, variant: Variant, split: str) -> Evaluation:
        """Metric and parity of a variant on ``validation`` or ``test``, on its engine."""
        samples: Samples = getattr(self._builder.data, split)
        built = self.built(variant)
        decided = {
            "engine": built.key,
            "samples": samples.fingerprint(),
            "task": self._builder.task_key(),
            "code": code_digest(["deploy.measure.parity", "deploy.export.divergence"]),
        }

        def make(folder: Path) -> dict[str, Any]:
            with self.pool.worker() as worker:
                opened = worker.open(built.folder / "engine")
                with self._progress.task(f"evaluate {variant.form}", len(samples)) as bar:
                    recorder = RecordedEngine(worker, opened["inputs"][0]["name"], bar)
                    metric = self._builder.task.evaluate(recorder, samples)
            expected = self._builder.reference(variant.made)(recorder.inputs)
            found = parity(expected[0], recorder.outputs)
            parted = None if _alike(found, variant) else self._parted(variant, recorder.inputs[:PARTING_SAMPLES])
            return {"metric": asdict(metric), "parity": asdict(found), "parted": parted}

        facts = self._cache.step("judged", decided, make).facts
        return Evaluation(metric=Metric(**facts["metric"]), parity=Parity(**facts["parity"]), parted=facts["parted"])

    def _parted(self, variant: Variant, inputs: npt.NDArray[Any]) -> str | None:
        """Where the engine parts from the float model; None where no single tensor is far off, or none can be seen."""
        plan = self._plan(variant)
        if plan.format.exporter or variant.made.recipe is not None:
            return None  # only ONNX files can be looked into; one trained in int8 has no float file with the same weights
        plain = onnx.load(str(self._files.exported(variant.made).folder / MODEL))
        built = onnx.load(str(self.model_path(variant)))

        def run(model: onnx.ModelProto, given: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
            with tempfile.TemporaryDirectory() as scratch, self.pool.worker() as worker:
                onnx.save(model, str(Path(scratch) / MODEL))
                worker.build(Path(scratch) / MODEL, plan, Path(scratch) / "engine")
                name = worker.open(Path(scratch) / "engine")["inputs"][0]["name"]
                return worker.infer({name: given})

        found = first_parting(plain, built, run, inputs, variant.precision)
        return None if found is None else str(found)

    def race(self, variants: Sequence[Variant], seconds: float) -> dict[Variant, Latency]:
        """Latency of all variants, interleaved, ``seconds`` of each; equal engines run once."""
        engines, facts = self._raced(variants, seconds)
        return {variant: Latency(**facts["latency_ms"][step.key]) for variant, step in engines.items()}

    def faster(self, one: Variant, other: Variant, variants: Sequence[Variant], seconds: float) -> tuple[float, float]:
        """Between what ``other`` is so many times faster than ``one``, by the rounds of that race of ``variants``."""
        engines, facts = self._raced(variants, seconds)
        rounds = facts["rounds_ms"]
        return ratio_interval(rounds[engines[one].key], rounds[engines[other].key])

    def _raced(self, variants: Sequence[Variant], seconds: float) -> tuple[dict[Variant, Step], Mapping[str, Any]]:
        engines = {variant: self.built(variant) for variant in variants}
        keys = sorted({step.key for step in engines.values()})
        decided = {
            "engines": keys,
            "seconds": seconds,
            "device": self._device_key(),
            "lock_clocks": self._lock_clocks,
            "code": code_digest(["deploy.measure.timing", "deploy.worker.race"]),
        }

        def make(folder: Path) -> dict[str, Any]:
            folders = {step.key: step.folder / "engine" for step in engines.values()}
            return self._timed(folders, seconds)

        facts = self._cache.step("race", decided, make).facts
        self.environment["conditions"] = facts["conditions"]
        self._energy_mj |= facts["conditions"]["energy_mj"]
        self.doubts |= dict.fromkeys(facts["conditions"]["doubts"])
        return engines, facts

    def energy_mj(self, variant: Variant) -> float | None:
        """Millijoules of one inference of a variant that was raced; None where the device has no power rails."""
        return self._energy_mj.get(self.built(variant).key)

    def warnings(self) -> tuple[str, ...]:
        """Why the latencies are not clean."""
        if not self.doubts:
            return ()
        return (f"the latencies are not clean: while measuring on {self.url}, {'; '.join(self.doubts)}",)

    def size_bytes(self, variant: Variant) -> int:
        return int(self.built(variant).facts["size_bytes"])

    def counts(self, made: CachedModel) -> tuple[int, int]:
        """Parameters and multiply-accumulates of a model."""
        return self._files.counts(made)

    def model_path(self, variant: Variant) -> Path:
        """The file that a variant's engine was built from."""
        return self._files.path(variant, self._plan(variant))

    def packed(self, variant: Variant) -> PackedExport | None:
        """That file with its weights as indices; None where it has none, or is not smaller so."""
        return self._files.packed(variant, self._plan(variant))

    def stored_bytes(self, variant: Variant) -> int:
        """What the model takes in a bundle."""
        packed = self.packed(variant)
        return self.model_path(variant).stat().st_size if packed is None else packed.account.file_bytes

    def infer(self, variant: Variant, inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The outputs of a variant's engine for ``inputs`` of shape (samples, ...)."""
        key = hashlib.sha256(np.ascontiguousarray(inputs).tobytes()).hexdigest()
        built = self.built(variant)

        def make(folder: Path) -> None:
            with self.pool.worker() as worker:
                name = worker.open(built.folder / "engine")["inputs"][0]["name"]
                np.savez(folder / "outputs.npz", *worker.infer({name: inputs}).values())

        step = self._cache.step("outputs", {"engine": built.key, "inputs": key}, make)
        with np.load(step.folder / "outputs.npz", allow_pickle=False) as stored:
            return [stored[name] for name in stored.files]

    def sample_feed(self, samples: Samples, how_many: int) -> npt.NDArray[Any]:
        """The first inputs of a split."""
        return samples.load(np.arange(min(how_many, len(samples)))).inputs

    def _timed(self, folders: Mapping[str, Path], seconds: float) -> dict[str, Any]:
        self.pool.clear()
        with ExitStack() as stack:
            stack.enter_context(races.locked_clocks(self._device, lock=self._lock_clocks))
            workers, opened = {}, {}
            for key, folder in sorted(folders.items()):
                worker = stack.enter_context(RemoteWorker(self._device))
                opened[key] = worker.open(folder)
                given = opened[key]["inputs"][0]
                worker.warm({given["name"]: self.sample_feed(self._builder.data.validation, given["shape"][0])})
                workers[key] = worker
            with self._progress.task("measure", 11) as bar:
                found = races.race(workers, seconds, lambda done, total: bar.advance(1))
        about = {key: {"batch": o["batch"], "threads": o["threads"]} for key, o in opened.items()}
        latencies = {key: asdict(summarise(times, **about[key])) for key, times in found.times.items()}
        rounds = {key: times.medians() for key, times in found.times.items()}
        return {"latency_ms": latencies, "rounds_ms": rounds, "conditions": found.conditions()}

    def _plan(self, variant: Variant) -> BuildPlan:
        version = self.environment["engines"][variant.engine]["version"]
        return engine(variant.engine).plan(self.profile, variant.precision, version)

    def _device_key(self) -> dict[str, Any]:
        device = self.environment["device"]
        return {"url": self._device.url, **{k: device[k] for k in ("arch", "processor", "cores", "flags")}}


def _alike(found: Parity, variant: Variant) -> bool:
    return found.cosine >= LEAST_COSINE[variant.precision]


def _same_numbers(one: str | None, other: str) -> bool:
    return one is not None and QUANTIZATION[one].numbers() == QUANTIZATION[other].numbers()


def host_environment() -> dict[str, Any]:
    """What of this machine belongs beside a measurement."""
    packages = ("torch", "onnx", "onnxruntime", "openvino", "brevitas", "torch-pruning", "numpy")
    return {"versions": versions(*packages), "torch_threads": torch.get_num_threads(), "governor": _governor()}


def _governor() -> str | None:
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return file.read_text().strip() if file.exists() else None


PARITY_SAMPLES = 512


@final
class RecordedEngine:
    """An engine as a function of arrays, that keeps the first samples it saw and what came out."""

    def __init__(self, worker: RemoteWorker, name: str, bar: Bar) -> None:
        self._worker, self._name, self._bar = worker, name, bar
        self._inputs: list[npt.NDArray[Any]] = []
        self._outputs: list[npt.NDArray[Any]] = []

    def __call__(self, inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        outputs = list(self._worker.infer({self._name: inputs}).values())
        if sum(len(kept) for kept in self._inputs) < PARITY_SAMPLES:
            self._inputs.append(inputs)
            self._outputs.append(outputs[0])
        self._bar.advance(len(inputs))
        return outputs

    @property
    def inputs(self) -> npt.NDArray[Any]:
        return np.concatenate(self._inputs)

    @property
    def outputs(self) -> npt.NDArray[Any]:
        return np.concatenate(self._outputs)
