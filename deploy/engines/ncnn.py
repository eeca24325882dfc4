"""NCNN on CPUs: its graph and weights in one file, made on the host by ``pnnx``.

NCNN knows no batch: the samples of a batch run one after the other. Its half precisions are what they are called on Arm;
on x86 fp16 is storage, computed in fp32 where the processor has no arithmetic for it.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.engines.base import BuildPlan, Engine, EngineError, Feed, Session, TensorSpec, as_contiguous, check_feed
from deploy.engines.exports import ExportFormat
from profiles.device import DeviceProfile
from profiles.errors import first_line
from profiles.json_text import read_json

FILE = "model.ncnn"
GRAPH, WEIGHTS, TENSORS = "model.param", "model.bin", "model.json"
LARGEST_BYTES = 1 << 33
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
BFLOAT = ("use_bf16_packed", "use_bf16_storage")
OPTIONS = {"fp32": (), "fp16": HALF, "bf16": BFLOAT, "int8": ()}
"""NCNN's switches that a precision turns on; those of the others are off, since NCNN has some on by itself."""
NCNN_EXAMPLE = """
With ncnn alone (`{file}` is a zip of its files):

```python
import zipfile

import ncnn
import numpy as np

golden = np.load("golden.npz")
zipfile.ZipFile("{file}").extractall("unpacked")
net = ncnn.Net()
{switches}
net.load_param("unpacked/model.param")
net.load_model("unpacked/model.bin")
outputs = []
for sample in golden["input"][:{{batch}}]:
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(np.ascontiguousarray(sample)))
    outputs.append(np.array(extractor.extract("out0")[1]).ravel())
expected = golden["output"][:{{batch}}].reshape({{batch}}, -1)
print("largest difference:", np.abs(np.stack(outputs) - expected).max())
```
"""
FLOAT_SWITCHES = """for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
    setattr(net.opt, name, False)  # they are on by themselves
net.opt.use_bf16_storage = "{hint}" == "bf16\""""
NCNN = ExportFormat(
    file=FILE,
    exporter="deploy.export.to_ncnn:to_ncnn",
    packages=("pnnx", "onnx"),
    example=NCNN_EXAMPLE.format(file=FILE, switches=FLOAT_SWITCHES),
)
NCNN_FP16 = ExportFormat(
    file="model-fp16.ncnn",
    exporter="deploy.export.to_ncnn:to_half_ncnn",
    packages=("pnnx", "onnx"),
    example=NCNN_EXAMPLE.format(file="model-fp16.ncnn", switches="net.opt.use_fp16_arithmetic = True"),
)


@final
class Ncnn(Engine):
    """NCNN on CPUs, in float, half precision or int8 by the ranges of Q/DQ pairs."""

    name = package = "ncnn"
    precisions = ("fp32", "fp16", "bf16", "int8")
    install_hint = "pip install ncnn (and pnnx on the host that makes its files)"

    def plan(self, profile: DeviceProfile, precision: str, version: str) -> BuildPlan:
        return BuildPlan(
            engine=self.name,
            precision=precision,
            batch=profile.batch,
            threads=profile.threads,
            version=version,
            options={"switches": " ".join(OPTIONS[precision])},
            source="ncnn-fp16" if precision == "fp16" else "ncnn",
        )

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> None:
        _unpack(model, folder, plan)
        session = self.open(folder, plan)
        session.infer({spec.name: np.zeros(spec.shape, spec.dtype) for spec in session.inputs})

    def open(self, folder: Path, plan: BuildPlan) -> Session:
        return _NcnnSession(_net(folder, plan), _tensors(folder, plan), plan)


def _unpack(model: Path, folder: Path, plan: BuildPlan) -> None:
    for name in (GRAPH, WEIGHTS, TENSORS):
        (folder / name).write_bytes(_stored(model, name, plan))


def _stored(model: Path, name: str, plan: BuildPlan) -> bytes:
    """Read one file of the archive.

    Raises:
        EngineError: the archive is damaged, or not as the exporter writes it; or there is no memory for it.
        OSError: it cannot be opened.
    """
    try:
        with model.open("rb") as file, zipfile.ZipFile(file) as archive:
            entry = archive.getinfo(name)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise ValueError(f"{name} in it is compressed")
            if entry.file_size > LARGEST_BYTES:
                raise ValueError(f"{name} in it is larger than {LARGEST_BYTES} bytes")
            return archive.read(name)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except MemoryError:
        raise EngineError(f"NCNN {plan.version}: {model.name} is larger than the memory that there is") from None
    except Exception as error:  # of a damaged archive anything may come: zlib.error, NotImplementedError, OSError
        words = f"{model.name} is no file of ours ({first_line(error)})"
        raise EngineError(f"NCNN {plan.version} refused the model: {words}") from None


def _tensors(folder: Path, plan: BuildPlan) -> dict[str, Any]:
    """Read the names, shapes and types of inputs and outputs.

    Raises:
        EngineError: the file holds something else.
    """
    try:
        tensors: dict[str, Any] = read_json(folder / TENSORS)
        specs = [
            (each["name"], each["shape"], np.dtype(each["dtype"])) for key in ("inputs", "outputs") for each in tensors[key]
        ]
        sizes = [size for _, shape, _ in specs for size in shape]
        if not all(isinstance(name, str) for name, _, _ in specs) or not all(
            type(size) is int and size >= 0 for size in sizes
        ):
            raise ValueError("names are texts, sizes are whole numbers from 0")
        if sum(math.prod(shape) for _, shape, _ in specs) > LARGEST_BYTES:
            raise ValueError(f"they have more than {LARGEST_BYTES:,} values")
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        words = f"{TENSORS} does not describe its inputs and outputs ({first_line(error)})"
        raise EngineError(f"NCNN {plan.version} refused the model: {words}; build the engine again") from None
    return tensors


def _net(folder: Path, plan: BuildPlan) -> Any:
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = plan.threads
    chosen = plan.options["switches"].split()
    for name in (*HALF, *BFLOAT):
        setattr(net.opt, name, name in chosen)
    with _stderr() as said:
        refused = net.load_param(str(folder / GRAPH)) or net.load_model(str(folder / WEIGHTS))
    if refused:
        raise EngineError(f"NCNN {plan.version} refused the model: {said[0] if said else 'it did not say why'}")
    return net


@final
class _NcnnSession(Session):
    def __init__(self, net: Any, tensors: dict[str, Any], plan: BuildPlan) -> None:
        self._net, self._plan = net, plan
        self._outputs = tensors["outputs"]
        self._bound: list[list[Any]] = []
        self._results: list[list[Any]] = []
        self.inputs = tuple(
            TensorSpec(name=each["name"], shape=(plan.batch, *each["shape"]), dtype=each["dtype"])
            for each in tensors["inputs"]
        )

    def bind(self, feed: Feed) -> None:
        import ncnn

        check_feed(self.inputs, feed)
        dtypes = ["int32" if spec.dtype == "int64" else spec.dtype for spec in self.inputs]
        self._arrays = [as_contiguous(feed[spec.name], dtype) for spec, dtype in zip(self.inputs, dtypes, strict=True)]
        self._bound = [[ncnn.Mat(array[row]) for array in self._arrays] for row in range(self._plan.batch)]

    def run(self) -> None:
        self._results = [self._one(sample) for sample in self._bound]

    def _one(self, sample: list[Any]) -> list[Any]:
        extractor = self._net.create_extractor()
        for index, value in enumerate(sample):
            extractor.input(f"in{index}", value)
        results = [extractor.extract(f"out{index}") for index in range(len(self._outputs))]
        if any(code for code, _ in results):
            raise EngineError(f"NCNN {self._plan.version} could not run the model (code {[code for code, _ in results]})")
        return [value for _, value in results]

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        return {each["name"]: self._output(index, each) for index, each in enumerate(self._outputs)}

    def _output(self, index: int, about: dict[str, Any]) -> npt.NDArray[Any]:
        rows = [np.array(sample[index]) for sample in self._results]
        if any(row.size != int(np.prod(about["shape"])) for row in rows):
            raise EngineError(
                f"NCNN {self._plan.version} makes {rows[0].shape} of output {about['name']!r}, which is {about['shape']} "
                "a sample: the model was converted wrongly"
            )
        return np.stack([row.reshape(about["shape"]) for row in rows]).astype(about["dtype"])


@contextlib.contextmanager
def _stderr() -> Iterator[list[str]]:
    """Collect the lines that C++ writes to standard error meanwhile."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
