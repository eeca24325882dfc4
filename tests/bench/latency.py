"""Our latency against that of the runtimes' own tools, on the same file with the same settings."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from compress.models import resnet, resnet20
from deploy.devices import device
from deploy.engines import engine
from deploy.engines.base import BuildPlan
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.timing import Times
from deploy.worker.client import RemoteWorker
from profiles.device import load
from tests.bench.figure import Figure, Table, at_most
from tests.bench.turns import alternate

ROUNDS, SECONDS, SLICE_S, THREADS = 7, 10.0, 0.25, 1
SHAPE = (3, 32, 32)


def run() -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        figures = [figure for name, model in _models(Path(scratch)).items() for figure in _figures(name, model)]
    return Table(
        figures=figures,
        remarks=[
            "the median ratio of 7 rounds, each a process of ours and one of the tool's that run by turns, a quarter of a "
            "second each; OpenVINO by its own clock on both sides, as its tool tells"
        ],
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
    tool, loop = _rounds(model, "openvino", benchmark_app), _rounds(model, "onnxruntime", plain_loop)
    yield at_most(f"{name}, OpenVINO: our p50 off benchmark_app's by", 3, 100 * abs(tool.own - 1), " %")
    yield Figure(
        what=f"{name}, OpenVINO: p50 around the call from Python, over benchmark_app's",
        asked="",
        measured=f"{tool.called:.3f}x",
        met=None,
    )
    yield at_most(f"{name}, ONNX Runtime: our p50 off a plain timing loop's by", 3, 100 * abs(loop.own - 1), " %")
    yield Figure(
        what=f"{name}, ONNX Runtime: our p50 over that of a loop that hands arrays over at each call",
        asked="",
        measured=f"{loop.called:.3f}x",
        met=None,
    )
    yield Figure(
        what=f"{name}: the rounds' ratios, least and greatest, tool and loop",
        asked="",
        measured=f"{tool.least:.3f} to {tool.greatest:.3f}, {loop.least:.3f} to {loop.greatest:.3f}",
        met=None,
    )


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Our p50 over the tool's, the median of the rounds: by the runtime's own clock, and around the call.

    Attributes:
        least, greatest: of the rounds' ratios by the runtime's own clock.
    """

    own: float
    called: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Tool:
    """A tool's process.

    Attributes:
        ready: what it prints when it begins to measure.
        p50_ms: reads what it printed by its end: as the runtime takes it, and around the plainest call.
    """

    command: list[str]
    ready: str
    p50_ms: Callable[[str], tuple[float, float]]


def _rounds(model: Path, engine_name: str, tool: Callable[[Path], Tool]) -> Ratios:
    runtime = engine(engine_name)
    plan = runtime.plan(replace(load("cpu"), threads=THREADS), "fp32", runtime.affinity().version)
    own, called = [], []
    for _ in range(ROUNDS):
        ours, theirs = by_turns(model, plan, tool(model), SECONDS)
        own.append(statistics.median(ours.own or ours.called) / theirs[0])
        called.append(statistics.median(ours.called) / theirs[1])
    return Ratios(own=statistics.median(own), called=statistics.median(called), least=min(own), greatest=max(own))


def by_turns(model: Path, plan: BuildPlan, tool: Tool, seconds: float) -> tuple[Times, tuple[float, float]]:
    """Our times, and the tool's p50s in milliseconds: both processes live, only one of them ever runs.

    A shared machine changes its speed for seconds at a time, by up to half: two runs one after the other measure that.
    Turns of a quarter of a second meet the same machine. An inference that a turn's end stretches is one in dozens, on
    both sides, and no median sees it.
    """
    with tempfile.TemporaryDirectory() as scratch, RemoteWorker(device("local")) as worker, ThreadPoolExecutor(1) as beside:
        worker.build(model, plan, Path(scratch) / "engine")
        worker.open(Path(scratch) / "engine")
        worker.warm({"input": np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)})
        process = subprocess.Popen(
            tool.command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if tool.ready in line:
                break
        ours = beside.submit(worker.time, seconds)
        alternate(worker.process, process, SLICE_S, until=ours.done)
        printed.append(process.communicate()[0])
        return ours.result(), tool.p50_ms("".join(printed))


def benchmark_app(model: Path) -> Tool:
    """OpenVINO's own tool: the synchronous API, one stream, batch 1, float32 hint, and the median that it tells."""
    tool = str(Path(sys.executable).parent / "benchmark_app")
    shape = str([1, *SHAPE]).replace(" ", "")
    options = ["-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", str(THREADS), "-t", f"{SECONDS:.0f}"]
    options += ["-infer_precision", "f32", "-data_shape", shape, "-shape", shape]
    return Tool([tool, "-m", str(model), *options], "[Step 10/11]", _told_ms)


def _told_ms(printed: str) -> tuple[float, float]:
    found = re.search(r"Median:\s+([\d.]+) (us|ms)", printed)
    assert found, printed[-2000:]
    told = float(found.group(1)) / (1000 if found.group(2) == "us" else 1)
    return told, told


LOOP = """
import os, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = {threads}, 1
session = onnxruntime.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"])
feed = {{"input": numpy.random.default_rng(0).normal(size={shape}).astype("float32")}}
bound = session.io_binding()
bound.bind_cpu_input("input", feed["input"])
bound.bind_output(session.get_outputs()[0].name)
calls = [lambda: session.run_with_iobinding(bound), lambda: session.run(None, feed)]
print("begin")
times, end = ([], []), time.perf_counter() + {seconds}
while (before := time.perf_counter()) < end:
    which = int(before) % 2
    before = time.perf_counter()
    calls[which]()
    times[which].append(1e3 * (time.perf_counter() - before))
print(*[numpy.median(each[len(each) // 10:]) for each in times])
"""


def plain_loop(model: Path) -> Tool:
    """A loop around the session, by turns of a second on values bound ahead and on arrays.

    Bound ahead is what ``onnxruntime_perf_test`` times; it does not come with the package.
    """
    program = LOOP.format(threads=THREADS, model=str(model), shape=(1, *SHAPE), seconds=SECONDS)
    return Tool([sys.executable, "-c", program], "begin", looped_ms)


def looped_ms(printed: str) -> tuple[float, float]:
    bound, plain = map(float, printed.split()[-2:])
    return bound, plain
