"""Our latency against a loop around a runtime's own Python call on values bound ahead, on the same file.

For runtimes whose wheels hold no program that times a model: ``MNNV2Basic`` and ``benchncnn`` are built from their sources,
``litert-benchmark`` times LiteRT's compiled models, which the product does not run, and ExecuTorch's is built for phones.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from compress.pipeline.target import device_facts
from deploy.devices import device
from tests.bench.figure import Figure, Table, at_most
from tests.bench.latency import Tool, by_turns, looped_ms
from tests.bench.runtimes import given, write_model

NETWORK, ROUNDS, SECONDS = "resnet20", 5, 4.0
BEFORE = """
import time
import numpy
values = numpy.random.default_rng(0).normal(size={shape}).astype("float32")
"""
AFTER = """
print("begin", flush=True)
times, end = [], time.perf_counter() + {seconds}
while (before := time.perf_counter()) < end:
    call()
    times.append(1e3 * (time.perf_counter() - before))
p50 = numpy.median(times[len(times) // 10:])
print(p50, p50)
"""
CALLS = {
    "mnn": """
import MNN
network = MNN.Interpreter({model!r})
session = network.createSession({{"backend": "CPU", "precision": "high", "numThread": 1}})
target = network.getSessionInput(session)
network.resizeTensor(target, values.shape)
network.resizeSession(session)
host = MNN.Tensor(values.shape, MNN.Halide_Type_Float, values, MNN.Tensor_DimensionType_Caffe)
def call():
    target.copyFrom(host)
    network.runSession(session)
""",
    "ncnn": """
import ncnn, tempfile, zipfile
folder = tempfile.mkdtemp()
zipfile.ZipFile({model!r}).extractall(folder)
net = ncnn.Net()
net.opt.num_threads = 1
net.opt.use_vulkan_compute = False
for name in dir(net.opt):
    if name.startswith(("use_fp16", "use_bf16")):
        setattr(net.opt, name, False)
net.load_param(folder + "/model.param")
net.load_model(folder + "/model.bin")
bound = ncnn.Mat(values[0])
def call():
    extractor = net.create_extractor()
    extractor.input("in0", bound)
    return extractor.extract("out0")
""",
    "litert": """
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter({model!r}, num_threads=1)
interpreter.allocate_tensors()
source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
def call():
    given = values
    if source["dtype"] == numpy.int8:
        scale, zero = source["quantization"]
        given = numpy.clip(numpy.rint(values * numpy.float32(1 / scale)) + zero, -128, 127).astype(numpy.int8)
    interpreter.set_tensor(source["index"], given)
    interpreter.invoke()
    made = interpreter.get_tensor(result["index"])
    if result["dtype"] == numpy.int8:
        scale, zero = result["quantization"]
        made = (made.astype(numpy.float32) - numpy.float32(zero)) * numpy.float32(scale)
    return made
""",
    "executorch": """
import torch
from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
from executorch.runtime import Runtime
_unsafe_reset_threadpool(1)
program = Runtime.get().load_program({model!r})
method = program.load_method("forward")
bound = [torch.from_numpy(values)]
def call():
    return method.execute(bound)
""",
}
PARTS = tuple(CALLS)


def run(part: str) -> Table:
    of = given(NETWORK)
    here, _ = device_facts(device("local"))
    figures = []
    for precision in ("fp32", "int8"):
        with tempfile.TemporaryDirectory() as scratch:
            model, plan = write_model(of, part, precision, Path(scratch), here)
            ratios = []
            for _ in range(ROUNDS):
                ours, theirs = by_turns(model, plan, loop(part, model, of.images[:1].shape), SECONDS)
                ratios.append(statistics.median(ours.called) / theirs[0])
        ratio = statistics.median(ratios)
        figures.append(at_most(f"{precision}: our p50 off the loop's by", 3, 100 * abs(ratio - 1), " %"))
        told = f"{ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        figures.append(
            Figure(what=f"{precision}: the rounds' ratios, ours over the loop's", asked="", measured=told, met=None)
        )
    remarks = [f"{NETWORK}, one thread; the median of {ROUNDS} rounds of two processes by turns, {SECONDS:.0f} s of each"]
    return Table(figures=figures, remarks=remarks)


def loop(part: str, model: Path, shape: tuple[int, ...]) -> Tool:
    """The loop of a runtime in a process of its own."""
    program = "".join(text.format(model=str(model), shape=shape, seconds=SECONDS) for text in (BEFORE, CALLS[part], AFTER))
    return Tool([sys.executable, "-c", program], "begin", looped_ms)
