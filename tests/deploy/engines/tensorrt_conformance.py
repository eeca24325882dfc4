"""Run by test_tensorrt.py in a process of its own for each version: the engine's code against the real bindings.

Arguments: a folder to build in, and a float ONNX file. Prints what the builder was told, as JSON, by precision.
"""

import json
import sys
import types
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorrt as real

from deploy.engines import EngineError, cuda, engine
from deploy.engines import tensorrt as module
from profiles.device import DeviceProfile, Runtime
from tests.deploy.engines.tensorrt_bindings import Module, Recorder

OUT, MODEL = Path(sys.argv[1]), Path(sys.argv[2])
PROFILE = DeviceProfile(
    name="jetson",
    title="a Jetson",
    runtimes=(Runtime(engine="tensorrt", precisions=("fp32", "fp16", "int8"), quantization="tensorrt"),),
    channel_multiple=8,
    threads=1,
    batch=2,
)
MACHINE = {"l4t": "36.4.3", "compute_capability": "8.7", "multiprocessors": "8", "power_mode": "MAXN"}
SHAPES = {"input": (-1, 3, 16, 16), "output": (2, 4)}
VALUES = {
    "OnnxParser.parse": True,
    "OnnxParser.num_errors": 1,
    "INetworkDefinition.num_inputs": 1,
    "ITensor.shape": SHAPES["input"],
    "ITensor.name": "input",
    "ICudaEngine.num_io_tensors": 2,
    "ICudaEngine.get_tensor_name": lambda index: ["input", "output"][index],
    "ICudaEngine.get_tensor_mode": lambda name: getattr(real.TensorIOMode, name.upper()),
    "ICudaEngine.get_tensor_shape": lambda name: SHAPES[name],
    "ICudaEngine.get_tensor_dtype": lambda name: real.DataType.FLOAT,
    "IExecutionContext.get_tensor_shape": lambda name: SHAPES[name],
    "IExecutionContext.set_input_shape": True,
    "IExecutionContext.set_tensor_address": True,
    "IExecutionContext.execute_async_v3": True,
    "ParserError.desc": "no such operator",
    "bytes": b"a plan",
}


class Memory:
    """Stands where GPU memory would: this process has no GPU, and computes nothing."""

    def __init__(self, shape, dtype):
        self.host, self.address = np.zeros(shape, dtype), 4096

    def upload(self, stream):
        pass

    def download(self, stream):
        pass


def stand_in(**values):
    recorder = Recorder(real, {**VALUES, **values})
    sys.modules["tensorrt"] = Module(recorder)
    return recorder


def built(precision):
    runtime = engine("tensorrt")
    plan = runtime.plan(PROFILE, precision, real.__version__)
    folder = OUT / precision
    folder.mkdir()
    recorder = stand_in()
    runtime.build(MODEL, plan, folder)
    (shapes,) = recorder.named("IOptimizationProfile.set_shape")
    assert shapes == ("input", (2, 3, 16, 16), (2, 3, 16, 16), (2, 3, 16, 16))
    assert recorder.named("IBuilderConfig.set_timing_cache")[0][1] is False
    assert (folder / "model.plan").read_bytes() == b"a plan"
    session = runtime.open(folder, plan)
    session.infer({"input": np.ones((2, 3, 16, 16), np.float32)})
    assert recorder.named("IExecutionContext.set_input_shape") == [("input", (2, 3, 16, 16))]
    assert [name for name, _ in recorder.named("IExecutionContext.set_tensor_address")] == ["input", "output"]
    assert recorder.named("IExecutionContext.execute_async_v3") == [(7,)]
    return {
        "plan": asdict(plan),
        "network": recorder.named("Builder.create_network")[0][0],
        "set": [flag.name for (flag,) in recorder.named("IBuilderConfig.set_flag")],
        "cleared": [flag.name for (flag,) in recorder.named("IBuilderConfig.clear_flag")],
    }


def refusal(version=real.__version__, **values):
    stand_in(**values)
    plan = engine("tensorrt").plan(PROFILE, "int8", version)
    try:
        engine("tensorrt").build(MODEL, plan, OUT)
    except (EngineError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


cuda.Tensor, cuda.Stream = Memory, lambda: types.SimpleNamespace(handle=7, wait=lambda: None)
module.TensorRT.machine = lambda self: MACHINE
told = {precision: built(precision) for precision in module.TensorRT.precisions}
told["refused by the parser"] = refusal(**{"OnnxParser.parse": False})
told["refused by the builder"] = refusal(**{"Builder.build_serialized_network": lambda *given: None})
told["with the words of 10.3"] = refusal("10.3.0")
sys.stdout.write(json.dumps(told))
