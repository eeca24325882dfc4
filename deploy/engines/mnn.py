"""MNN on CPUs: a file that its own converter made of ONNX, on the host.

Only the runtime is imported: MNN's package of tools sends reports, and is not touched.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.engines.base import BuildPlan, Engine, EngineError, Feed, Session, TensorSpec, as_contiguous, check_feed
from deploy.engines.exports import ExportFormat
from profiles.device import DeviceProfile

FILE = "model.mnn"
PRECISION = {"fp32": "high", "fp16": "low", "int8": "high"}
"""MNN's word for what it computes floats in; ``low`` is half precision where the processor has its arithmetic."""
MNN_EXAMPLE = """
With MNN alone:

```python
import MNN
import numpy as np

golden = np.load("golden.npz")
network = MNN.Interpreter("{file}")
session = network.createSession({{"backend": "CPU", "precision": "high", "numThread": 1}})
given = golden["input"][:{batch}]
target = network.getSessionInput(session)
network.resizeTensor(target, given.shape)
network.resizeSession(session)
kind = MNN.Tensor_DimensionType_Caffe
target.copyFrom(MNN.Tensor(given.shape, MNN.Halide_Type_Float, given.copy(), kind))
network.runSession(session)
source = network.getSessionOutput(session)
result = MNN.Tensor(source.getShape(), MNN.Halide_Type_Float, np.zeros(source.getShape(), np.float32), kind)
source.copyToHostTensor(result)
print("largest difference:", np.abs(np.array(result.getData()).ravel() - golden["output"][:{batch}].ravel()).max())
```
"""
MNN_FORMAT = ExportFormat(
    file=FILE,
    exporter="deploy.export.to_mnn:to_mnn",
    packages=("MNN", "onnx"),
    example=MNN_EXAMPLE.replace("{file}", FILE),
)
MNN_FP16 = ExportFormat(
    file="model-fp16.mnn",
    exporter="deploy.export.to_mnn:to_half_mnn",
    packages=("MNN", "onnx"),
    example=MNN_EXAMPLE.replace("{file}", "model-fp16.mnn").replace('"high"', '"low"'),
)


@final
class Mnn(Engine):
    """MNN on CPUs, in float, half precision or int8 by the ranges of Q/DQ pairs."""

    name, package = "mnn", "MNN"
    precisions = ("fp32", "fp16", "int8")

    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=profile.threads,
            version=version,
            options={"precision": PRECISION[precision]},
            source="mnn-fp16" if precision == "fp16" else "mnn",
        )

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        shutil.copyfile(model, folder / FILE)
        session = self.open(folder, plan)
        session.infer({spec.name: np.zeros(spec.shape, spec.dtype) for spec in session.inputs})

    def open(self, folder: Path, plan: BuildPlan) -> Session:
        import MNN

        try:
            network = MNN.Interpreter(str(folder / FILE))
            return _MnnSession(MNN, network, plan)
        except EngineError:
            raise
        except Exception as error:  # MNN's binding raises plain ones
            raise EngineError(f"MNN {plan.version} refused the model: {error}") from error


@final
class _MnnSession(Session):
    def __init__(self, mnn: Any, network: Any, plan: BuildPlan) -> None:
        self._mnn, self._network, self._plan = mnn, network, plan
        settings = {"backend": "CPU", "precision": plan.options["precision"], "numThread": plan.threads}
        self._session = network.createSession(settings)
        self._tensors = dict(network.getSessionInputAll(self._session))
        if not self._tensors:
            raise EngineError(f"MNN {plan.version} refused the model: it has no inputs")
        for tensor in self._tensors.values():
            network.resizeTensor(tensor, (plan.batch, *tensor.getShape()[1:]))
        network.resizeSession(self._session)
        self.inputs = tuple(
            TensorSpec(name=name, shape=tuple(tensor.getShape()), dtype=tensor.getNumpyData().dtype.name)
            for name, tensor in self._tensors.items()
        )
        self._names = list(network.getSessionOutputAll(self._session))
        self._bound: list[tuple[Any, Any]] = []

    def bind(self, feed: Feed) -> None:
        check_feed(self.inputs, feed)
        self._bound = [
            (self._tensors[spec.name], self._host(as_contiguous(feed[spec.name], spec.dtype))) for spec in self.inputs
        ]

    def run(self) -> None:
        for tensor, host in self._bound:  # each time: MNN may use an input's memory for what it computes
            tensor.copyFrom(host)
        if self._network.runSession(self._session):
            raise EngineError(f"MNN {self._plan.version} could not run the model")

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        return {name: self._output(name) for name in self._names}

    def _output(self, name: str) -> npt.NDArray[Any]:
        source = self._network.getSessionOutput(self._session, name)
        host = self._host(np.zeros(source.getShape(), source.getNumpyData().dtype))
        source.copyToHostTensor(host)
        return np.array(host.getNumpyData())

    def _host(self, array: npt.NDArray[Any]) -> Any:
        """Make a tensor of the values of an array, in the order of its dimensions."""
        kinds = {"float32": "Float", "int32": "Int", "int64": "Int64", "uint8": "Uint8"}
        kind = getattr(self._mnn, f"Halide_Type_{kinds[array.dtype.name]}")
        return self._mnn.Tensor(array.shape, kind, array, self._mnn.Tensor_DimensionType_Caffe)
