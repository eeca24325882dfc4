"""The engine side of a run: exports, builds, accuracy and latency on the device, each as a step made once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx
import torch

from compress import post_training, processes
from compress.data import Samples
from compress.progress import Progress
from compress.quantizers import QuantizedProgram
from compress.tasks import Metric
from compress.workshop import Made, Workshop
from compress.workspace import Step, Workspace, code_digest, versions
from deploy import count
from deploy.devices import Device
from deploy.engines import engine
from deploy.export import capture, to_onnx
from deploy.measure import Latency, interleave, summarise
from deploy.parity import Parity, parity
from deploy.qdq import insert
from deploy.remote import RemoteWorker
from profiles.device import DeviceProfile
from profiles.quantization import QUANTIZATION

MODEL = "model.onnx"
PARITY_SAMPLES = 512
CALIBRATION_RANGES = "mse"


@final
@dataclass(frozen=True)
class Variant:
    """A model in one engine and precision."""

    made: Made
    engine: str
    precision: str

    @property
    def form(self) -> str:
        return f"{self.engine} {self.precision}"


@final
@dataclass(frozen=True, kw_only=True)
class Judged:
    """A variant on one split, on its engine."""

    metric: Metric
    parity: Parity


@final
class Prover:
    """Builds and measures variants on one device."""

    def __init__(
        self, workshop: Workshop, device: Device, profile: DeviceProfile, workspace: Workspace, progress: Progress
    ) -> None:
        self._workshop, self._device, self.profile = workshop, device, profile
        self._workspace, self._progress = workspace, progress
        self.environment: dict[str, Any] = processes.from_main(self._facts() if processes.is_main() else {})

    def _facts(self) -> dict[str, Any]:
        with RemoteWorker(self._device) as worker:
            return worker.facts()

    @property
    def url(self) -> str:
        """Where the engines run."""
        return self._device.url

    def forms(self, made: Made) -> list[Variant]:
        """Every runtime and precision of the profile that this model can take.

        A float model's int8 is post-training; a model trained in int8 has no float form, and no form on a
        runtime that wants another Q/DQ recipe.
        """
        variants: list[Variant] = []
        for runtime in self.profile.runtimes:
            for precision in runtime.precisions:
                if made.recipe is None or (precision == "int8" and runtime.quantization == made.recipe):
                    variants.append(Variant(made, runtime.engine, precision))
        return variants

    def first_forms(self, made: Made) -> list[Variant]:
        """The forms on the profile's first runtime, by which the gate judges."""
        return [v for v in self.forms(made) if v.engine == self.profile.runtimes[0].engine]

    def built(self, variant: Variant) -> Step:
        """The engine of a variant, built on the device."""
        model = self._model(variant)
        version = self.environment["engines"][variant.engine]["version"]
        plan = engine(variant.engine).plan(self.profile, variant.precision, version)
        decided = {
            "model": model.key,
            "plan": plan.as_json(),
            "device": self._device_key(),
            "code": code_digest([f"deploy.engines.{variant.engine}"]),
        }

        def make(folder: Path) -> dict[str, Any]:
            with RemoteWorker(self._device) as worker:
                return worker.build(model.folder / MODEL, plan, folder / "engine")

        return self._workspace.step("engine", decided, make)

    def judge(self, variant: Variant, split: str) -> Judged:
        """Metric and parity of a variant on ``validation`` or ``test``, on its engine."""
        samples: Samples = getattr(self._workshop.data, split)
        built = self.built(variant)
        decided = {
            "engine": built.key,
            "samples": samples.fingerprint(),
            "task": self._workshop.task_key(),
            "code": code_digest(["deploy.parity"]),
        }

        def make(folder: Path) -> dict[str, Any]:
            with RemoteWorker(self._device) as worker:
                opened = worker.open(built.folder / "engine")
                recorder = _Recorder(worker, opened["inputs"][0]["name"])
                metric = self._workshop.task.evaluate(recorder, samples)
            expected = self._workshop.reference(variant.made)(recorder.inputs)
            return {"metric": asdict(metric), "parity": asdict(parity(expected[0], recorder.outputs))}

        facts = self._workspace.step("judged", decided, make).facts
        return Judged(metric=Metric(**facts["metric"]), parity=Parity(**facts["parity"]))

    def race(self, variants: Sequence[Variant], seconds: float) -> dict[Variant, Latency]:
        """Latency of all variants, interleaved, ``seconds`` of each; equal engines run once."""
        engines = {variant: self.built(variant) for variant in variants}
        keys = sorted({step.key for step in engines.values()})
        decided = {
            "engines": keys,
            "seconds": seconds,
            "device": self._device_key(),
            "code": code_digest(["deploy.measure"]),
        }

        def make(folder: Path) -> dict[str, Any]:
            folders = {step.key: step.folder / "engine" for step in engines.values()}
            return {key: asdict(latency) for key, latency in self._timed(folders, seconds).items()}

        facts = self._workspace.step("race", decided, make).facts
        return {variant: Latency(**facts[step.key]) for variant, step in engines.items()}

    def size_bytes(self, variant: Variant) -> int:
        return int(self.built(variant).facts["size_bytes"])

    def counts(self, made: Made) -> tuple[int, int]:
        """Parameters and multiply-accumulates of a model."""
        facts = self._exported(made).facts
        return int(facts["parameters"]), int(facts["macs"])

    def model_path(self, variant: Variant) -> Path:
        """The ONNX file that a variant's engine was built from."""
        return self._model(variant).folder / MODEL

    def infer(self, variant: Variant, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The first output of a variant's engine for ``inputs`` of shape (samples, ...)."""
        key = hashlib.sha256(np.ascontiguousarray(inputs).tobytes()).hexdigest()
        built = self.built(variant)

        def make(folder: Path) -> None:
            with RemoteWorker(self._device) as worker:
                name = worker.open(built.folder / "engine")["inputs"][0]["name"]
                np.save(folder / "output.npy", next(iter(worker.infer({name: inputs}).values())))

        step = self._workspace.step("inferred", {"engine": built.key, "inputs": key}, make)
        outputs: npt.NDArray[Any] = np.load(step.folder / "output.npy", allow_pickle=False)
        return outputs

    def sample_feed(self, samples: Samples, how_many: int) -> npt.NDArray[Any]:
        """The first inputs of a split."""
        return samples.load(np.arange(min(how_many, len(samples)))).inputs

    def _timed(self, folders: Mapping[str, Path], seconds: float) -> dict[str, Latency]:
        with ExitStack() as stack:
            timers, opened = {}, {}
            for key, folder in sorted(folders.items()):
                worker = stack.enter_context(RemoteWorker(self._device))
                opened[key] = worker.open(folder)
                given = opened[key]["inputs"][0]
                worker.warm({given["name"]: self.sample_feed(self._workshop.data.validation, given["shape"][0])})
                timers[key] = worker.time
            with self._progress.task("measure", 11) as bar:
                times = interleave(timers, seconds, lambda done, total: bar.advance(1))
        about = {key: {"batch": o["batch"], "threads": o["threads"]} for key, o in opened.items()}
        return {key: summarise(t, **about[key]) for key, t in times.items()}

    def _model(self, variant: Variant) -> Step:
        if variant.precision == "int8" and variant.made.recipe is None:
            recipe = self.profile.runtime(variant.engine).quantization
            assert recipe is not None, "profiles give each int8 runtime a recipe"
            return self._post_training(variant.made, recipe)
        return self._exported(variant.made)

    def _exported(self, made: Made) -> Step:
        decided = {
            "artifact": made.step.key,
            "code": code_digest(["deploy.export", "deploy.placement", "deploy.qdq", "compress.quantizers"]),
            "versions": versions("torch", "onnx", "onnxscript"),
        }

        def make(folder: Path) -> dict[str, Any]:
            if made.is_onnx:
                plain = model = onnx.load(str(made.step.folder / MODEL))
            elif isinstance(module := made.artifact.module, QuantizedProgram):
                plain = to_onnx(module.float_program())
                model = insert(plain, module.placement, module.scales(), QUANTIZATION[made.recipe or ""])
            else:
                plain = model = to_onnx(capture(module, [self._workshop.example]))
            onnx.save(model, str(folder / MODEL))
            return {"parameters": count.parameters(plain), "macs": count.macs(plain)}

        return self._workspace.step("export", decided, make)

    def _post_training(self, made: Made, recipe: str) -> Step:
        exported = self._exported(made)
        decided = {
            "model": exported.key,
            "recipe": asdict(QUANTIZATION[recipe]),
            "samples": self._workshop.data.calibration.fingerprint(),
            "ranges": CALIBRATION_RANGES,
            "code": code_digest(["compress.post_training", "calib.ranges", "deploy.observe"]),
        }

        def make(folder: Path) -> dict[str, Any]:
            model = onnx.load(str(exported.folder / MODEL))
            quantize = post_training.calibrate(model, self._workshop.data.calibration, recipe, CALIBRATION_RANGES)
            onnx.save(post_training.apply(model, quantize), str(folder / MODEL))
            return {"kept_float": dict(quantize.placement.kept_float)}

        return self._workspace.step("post-training", decided, make)

    def _device_key(self) -> dict[str, Any]:
        device = self.environment["device"]
        return {"url": self._device.url, **{k: device[k] for k in ("arch", "processor", "cores", "flags")}}


class _Recorder:
    """An engine as a function of arrays, that keeps the first samples it saw and what came out."""

    def __init__(self, worker: RemoteWorker, name: str) -> None:
        self._worker, self._name = worker, name
        self._inputs: list[npt.NDArray[Any]] = []
        self._outputs: list[npt.NDArray[Any]] = []

    def __call__(self, inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        outputs = list(self._worker.infer({self._name: inputs}).values())
        if sum(len(kept) for kept in self._inputs) < PARITY_SAMPLES:
            self._inputs.append(inputs)
            self._outputs.append(outputs[0])
        return outputs

    @property
    def inputs(self) -> npt.NDArray[Any]:
        return np.concatenate(self._inputs)

    @property
    def outputs(self) -> npt.NDArray[Any]:
        return np.concatenate(self._outputs)


def host_environment() -> dict[str, Any]:
    """What of this machine belongs beside a measurement."""
    packages = ("torch", "onnx", "onnxruntime", "openvino", "brevitas", "torch-pruning", "numpy")
    return {"versions": versions(*packages), "torch_threads": torch.get_num_threads(), "governor": _governor()}


def _governor() -> str | None:
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return file.read_text().strip() if file.exists() else None
