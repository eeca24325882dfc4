"""Our latency against that of the runtimes' own tools, on the same file with the same settings."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from compress import post_training
from compress.data.base import ArraySamples
from compress.models import resnet, resnet20
from deploy.devices import device
from deploy.engines import engine
from deploy.engines.base import BuildPlan
from deploy.export import capture, to_onnx
from deploy.measure import Times
from deploy.remote import RemoteWorker
from profiles.device import load
from tests.bench.figure import Figure, Table, at_most

ROUNDS, SECONDS, THREADS = 16, 1.0, 1
SHAPE = (3, 32, 32)


def run() -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        figures = [figure for name, model in _models(Path(scratch)).items() for figure in _figures(name, model)]
    return Table(
        figures=figures,
        remarks=["the p50 of the fastest of 16 rounds each; OpenVINO by its own clock on both sides, as its tool tells"],
    )


def _models(folder: Path) -> dict[str, Path]:
    """Networks of 0.2 to 4 milliseconds, in float and int8; weights do not matter to their time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, *SHAPE, generator=generator).numpy()
    samples = ArraySamples(images, np.zeros(len(images), np.int64))
    recipe = next(r.quantization for r in load("cpu").runtimes if r.engine == "openvino")
    assert recipe is not None, "the profile gives OpenVINO's int8 a recipe"
    found: dict[str, Path] = {}
    for name, module in {"ResNet-20": resnet20(in_channels=3), "ResNet-56": resnet(blocks=9)}.items():
        model = to_onnx(capture(module.eval(), [torch.zeros(2, *SHAPE)]))
        quantised = post_training.apply(model, post_training.calibrate(model, samples, recipe, "minmax"))
        for precision, proto in {"fp32": model, "int8": quantised}.items():
            found[f"{name} {precision}"] = folder / f"{name}-{precision}.onnx"
            onnx.save(proto, str(found[f"{name} {precision}"]))
    return found


def _figures(name: str, model: Path) -> Iterator[Figure]:
    tool, loop = _rounds(model, "openvino", benchmark_app_ms), _rounds(model, "onnxruntime", plain_loop_ms)
    yield at_most(f"{name}, OpenVINO: our p50 off benchmark_app's by", 3, 100 * abs(tool.own - 1), " %")
    yield Figure(
        what=f"{name}, OpenVINO: p50 around the call from Python, over benchmark_app's",
        asked="",
        measured=f"{tool.called:.3f}x",
        met=None,
    )
    yield at_most(f"{name}, ONNX Runtime: our p50 off a plain timing loop's by", 3, 100 * abs(loop.own - 1), " %")
    yield Figure(
        what=f"{name}: the slowest round over the fastest, tool and loop",
        asked="",
        measured=f"{tool.spread:.2f}x, {loop.spread:.2f}x",
        met=None,
    )


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Our p50 over the tool's in the fastest round of each: by the runtime's own clock, and around the call.

    Attributes:
        spread: the tool's slowest round over its fastest, which tells how steady the machine was.
    """

    own: float
    called: float
    spread: float


def _rounds(model: Path, engine_name: str, tool: Callable[[Path], float]) -> Ratios:
    """Both have a process of their own each round and take turns at being first.

    A machine that others share changes its speed for seconds at a time, between a round of ours and one of the tool's
    too; the fastest rounds of both are from when nobody was in the way.
    """
    runtime = engine(engine_name)
    plan = runtime.plan(replace(load("cpu"), threads=THREADS), "fp32", runtime.affinity().version)
    theirs, own, called = [], [], []
    for turn in range(ROUNDS):
        if turn % 2:
            theirs.append(tool(model))
        ours = _ours(model, plan)
        own.append(statistics.median(ours.own or ours.called))
        called.append(statistics.median(ours.called))
        if not turn % 2:
            theirs.append(tool(model))
    least = min(theirs)
    return Ratios(own=min(own) / least, called=min(called) / least, spread=max(theirs) / least)


def _ours(model: Path, plan: BuildPlan) -> Times:
    with tempfile.TemporaryDirectory() as scratch, RemoteWorker(device("local")) as worker:
        worker.build(model, plan, Path(scratch) / "engine")
        worker.open(Path(scratch) / "engine")
        worker.warm({"input": np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)})
        return worker.time(SECONDS)


def benchmark_app_ms(model: Path) -> float:
    """Median latency that ``benchmark_app`` tells for the synchronous API, one stream, batch 1, float32 hint."""
    tool = str(Path(sys.executable).parent / "benchmark_app")
    shape = str([1, *SHAPE]).replace(" ", "")
    options = ["-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", str(THREADS), "-t", f"{SECONDS:.0f}"]
    options += ["-infer_precision", "f32", "-data_shape", shape, "-shape", shape]
    done = subprocess.run([tool, "-m", str(model), *options], capture_output=True, text=True, check=True)
    found = re.search(r"Median:\s+([\d.]+) (us|ms)", done.stdout)
    assert found, done.stdout[-2000:]
    return float(found.group(1)) / (1000 if found.group(2) == "us" else 1)


LOOP = """
import json, os, sys, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = {threads}, 1
session = onnxruntime.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"])
feed = {{"input": numpy.random.default_rng(0).normal(size={shape}).astype("float32")}}
times, end = [], time.perf_counter() + {seconds}
while time.perf_counter() < end:
    before = time.perf_counter()
    session.run(None, feed)
    times.append(1e3 * (time.perf_counter() - before))
print(json.dumps(times[len(times) // 10:]))
"""


def plain_loop_ms(model: Path) -> float:
    """Median of the loop that onnxruntime's documentation shows, in a process of its own."""
    program = LOOP.format(threads=THREADS, model=str(model), shape=(1, *SHAPE), seconds=SECONDS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return statistics.median(json.loads(done.stdout))
