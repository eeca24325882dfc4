"""The race of runtimes for a new profile: a small network of ours in every form that a device's runtimes have.

A run races its own teacher instead (``compress.pipeline.comparison``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from compress.data.base import ArraySamples
from compress.execution.progress import Progress
from compress.methods.quantization import post_training
from compress.models.resnet import resnet20
from compress.pipeline.exports import capture_program
from compress.pipeline.races import timed
from deploy.devices import Device
from deploy.engines import BuildPlan, EngineError, engine
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.load import default_quiet_s
from deploy.measure.timing import Latency, ratio_interval
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.worker.client import RemoteWorker
from deploy.worker.patience import Patience
from profiles.device import DeviceProfile, Runtime
from profiles.errors import UserError, one_line

SECONDS, QUIET_SECONDS = 0.3, 30.0
"""How long each form is timed for a new profile, and how long that race waits for a quiet device."""
SHAPE = (3, 32, 32)
SAMPLES = 32
MOST_REASON = 160


@final
@dataclass(frozen=True, kw_only=True)
class RuntimeRace:
    """Result of a race of runtimes on one network.

    Attributes:
        p50_ms: by engine and precision, the fastest first.
        interval: of how many times faster the fastest engine's form is than the next engine's; None where there is one.
        refused: why a form is not among them, by engine and precision.
        doubts: why the race is not a clean measurement.
    """

    p50_ms: Mapping[tuple[str, str], float]
    interval: tuple[float, float] | None
    refused: Mapping[tuple[str, str], str]
    doubts: tuple[str, ...]

    def remarks(self) -> dict[str, str]:
        """Say of each engine how fast its fastest form was; the fastest engine first."""
        said: dict[str, str] = {}
        for (name, precision), p50_ms in self.p50_ms.items():
            said.setdefault(name, f"{p50_ms:.3f} ms in {precision}, its fastest form of ResNet-20 at 32 x 32")
        return said


def race_runtimes(
    device: Device, profile: DeviceProfile, versions: Mapping[str, str], progress: Progress, seconds: float = SECONDS
) -> RuntimeRace:
    """Race ResNet-20 at 32 x 32 pixels, its weights random, in every form of the profile's runtimes on the device.

    Raises:
        UserError: no runtime takes it.
    """
    torch.manual_seed(0)
    module = resnet20().eval()
    samples = ArraySamples(
        np.random.default_rng(0).normal(size=(SAMPLES, *SHAPE)).astype(np.float32), np.zeros(SAMPLES, np.int64)
    )
    refused: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as scratch, RemoteWorker(device) as worker:
        folders: dict[str, Path] = {}
        for runtime, precision, plan in _forms(profile, versions):
            form = f"{runtime.engine} {precision}"
            folder = Path(scratch) / form.replace(" ", "-")
            folder.mkdir()
            try:
                progress.say(f"  building {form}")
                (folder / plan.model_file).write_bytes(_content(module, samples, runtime, precision, plan))
                worker.build(folder / plan.model_file, plan, folder / "engine")
                folders[form] = folder / "engine"
            except (EngineError, UserError) as error:
                refused[runtime.engine, precision] = one_line(str(error), MOST_REASON)
                progress.say(f"  left out: {form}: {refused[runtime.engine, precision]}")
        if not folders:
            raise UserError("no runtime takes the network of the race", *refused.values())
        patience = Patience(min(QUIET_SECONDS, default_quiet_s()), progress.say)
        facts = timed(
            folders, device, seconds, lambda count: samples.load(np.arange(count)).inputs, patience, False, progress
        )
    return _result(facts, refused)


def _forms(profile: DeviceProfile, versions: Mapping[str, str]) -> Iterator[tuple[Runtime, str, BuildPlan]]:
    for runtime in profile.runtimes:
        for precision in runtime.precisions:
            yield runtime, precision, engine(runtime.engine).plan(profile, precision, versions[runtime.engine])


def _content(module: torch.nn.Module, samples: ArraySamples, runtime: Runtime, precision: str, plan: BuildPlan) -> bytes:
    """Export the network in a runtime's form."""
    example = torch.zeros(2, *SHAPE)
    model = to_onnx(capture(module, [example]))
    found = None
    if precision == "int8":
        assert runtime.quantization is not None, "profiles give each int8 runtime a recipe"
        found = post_training.calibrate(model, samples, runtime.quantization, "minmax")
    if plan.format.made_from == "program":
        program, integers = capture_program(module, example, None if found is None else (lambda: found))
        return plan.format.export()(program, plan.batch, integers)
    return model_bytes(model if found is None else post_training.apply(model, found), plan)


def _result(facts: Mapping[str, Any], refused: Mapping[tuple[str, str], str]) -> RuntimeRace:
    latencies = {form: Latency(**latency) for form, latency in facts["latency_ms"].items()}
    p50 = {form: latency.p50 or float("inf") for form, latency in latencies.items()}
    order = sorted(p50, key=lambda form: p50[form])
    first = order[0]
    other = next((form for form in order if form.split()[0] != first.split()[0]), None)
    rounds = facts["rounds_ms"]
    return RuntimeRace(
        p50_ms={(form.split()[0], form.split()[1]): p50[form] for form in order},
        interval=None if other is None else ratio_interval(rounds[other], rounds[first]),
        refused=dict(refused),
        doubts=tuple(facts["conditions"]["doubts"]),
    )
