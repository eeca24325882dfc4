"""On an NVIDIA GPU, in under ten minutes: training on CUDA, and three networks in fp32, fp16, int8 and mixed on TensorRT.

``make gpu`` runs it. Without a GPU or TensorRT it ends with one line that says so, and exit code 1. Every network is trained
here on handwritten digits, so that its forms are judged by what they answer, beside their parity with the module.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress.data.base import Splits
from compress.data.digits import digits
from compress.execution.progress import StreamProgress
from compress.methods.distillation.objective import Objective, parse_losses
from compress.methods.quantization import post_training
from compress.methods.quantization.post_training import PostTraining
from compress.models.resnet import resnet
from compress.pipeline.races import timed
from compress.tasks.classification import Classification
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from deploy.devices import device
from deploy.engines import BuildPlan, EngineError, engine
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.parity import parity
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.worker.client import RemoteWorker
from deploy.worker.patience import Patience
from profiles.device import load
from profiles.errors import one_line
from tests.bench.figure import Figure, Table, at_least
from tests.bench.small_models import gated, vit

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-20": lambda: resnet(blocks=3, in_channels=1),
    "EfficientNet, small": gated,
    "ViT, width 96": vit,
}
INTEGERS: dict[str, PostTraining | None] = {
    "fp32": None,
    "fp16": None,
    "int8": PostTraining(),
    "mixed": PostTraining(mixed=True),
}
"""Forms by name; how the integers are made. In ``mixed`` the layers that cost most accuracy stay float."""
LEAST_COSINE = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.99, "mixed": 0.99}
LEAST_ACCURACY = 90.0
SCHEDULE = Schedule(epochs=12, batch_size=64, optimizer="adamw", learning_rate=2e-3, weight_decay=0.02, warmup=0.1)
SECONDS, QUIET_SECONDS, LAST_BUILD_S = 0.5, 10.0, 420.0
"""After so many seconds no further network is begun."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A file, and the plan by which TensorRT builds it."""

    name: str
    plan: BuildPlan
    content: bytes


def obstacle() -> str:
    """Say in a line why this machine proves nothing; empty where it can."""
    if not torch.cuda.is_available():
        return "no GPU: PyTorch finds no CUDA device here, so neither training nor TensorRT is proven"
    able = engine("tensorrt").affinity()
    return "" if able.score >= 0 else f"no TensorRT: {one_line(able.reason)}"


def forms(module: nn.Module, splits: Splits, version: str) -> Iterator[Form]:
    """Export a network in every form, for a version of TensorRT."""
    model = to_onnx(capture(module, [torch.from_numpy(splits.calibration.load(np.arange(2)).inputs)]))
    for name, options in INTEGERS.items():
        plan = engine("tensorrt").plan(load("cpu"), name if options is None else "int8", version)
        made = model
        if options is not None:
            made = post_training.quantize_model(model, splits.calibration, "tensorrt", options).onnx()
        yield Form(name=name, plan=plan, content=model_bytes(made, plan))


def run() -> Table:
    if why := obstacle():
        raise SystemExit(why)
    started, splits = time.monotonic(), digits()
    figures, remarks = list[Figure](), list[str]()
    for name, make in NETWORKS.items():
        if time.monotonic() - started > LAST_BUILD_S:
            remarks.append(f"{name} was left out: {LAST_BUILD_S:.0f} s had gone")
            continue
        torch.manual_seed(0)
        module = make()
        figures.append(_trained(name, module, splits))
        made, doubts = _raced(name, module.cpu().eval(), splits)
        figures += made
        remarks += doubts
    about = f"{torch.cuda.get_device_name()}, TensorRT {engine('tensorrt').affinity().version}, CUDA {torch.version.cuda}"
    return Table(figures=figures, remarks=[about, *dict.fromkeys(remarks)])


def _trained(name: str, module: nn.Module, splits: Splits) -> Figure:
    """Train on CUDA; the figure is what it answers then."""
    example = torch.from_numpy(splits.train.load(np.arange(2)).inputs)
    objective = Objective(parse_losses(["task"]), Classification(), module, None, example)
    torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        Trainer(0, StreamProgress(io.StringIO())).fit(name, module, objective, splits.train, SCHEDULE, Path(scratch))
    took, used = time.monotonic() - started, torch.cuda.max_memory_allocated() / 2**20
    assert used > 0, "nothing was allocated on the GPU: the training ran elsewhere"
    images, labels = _test(splits)
    with torch.no_grad():
        right = 100 * float(np.mean(module.cpu().eval()(torch.from_numpy(images)).numpy().argmax(1) == labels))
    what = f"{name}: trained on CUDA in {took:.0f} s, {used:.0f} MiB at most; top-1 on test"
    return at_least(what, LEAST_ACCURACY, right, " %")


def _raced(name: str, module: nn.Module, splits: Splits) -> tuple[list[Figure], list[str]]:
    """Build every form, compare it with the module, and time all in turns."""
    images, labels = _test(splits)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    found: dict[str, tuple[float, float]] = {}
    figures, folders = list[Figure](), dict[str, Path]()
    with tempfile.TemporaryDirectory() as scratch:
        for form in forms(module, splits, engine("tensorrt").affinity().version):
            folder = Path(scratch) / form.name
            folder.mkdir()
            (folder / form.plan.model_file).write_bytes(form.content)
            try:
                outputs = _answers(folder, form, images)
            except EngineError as error:
                figures.append(Figure(what=f"{name}: {form.name}", asked="built", measured=one_line(str(error)), met=False))
                continue
            right = 100 * float(np.mean(outputs.argmax(axis=1) == labels))
            found[form.name], folders[form.name] = (parity(expected, outputs).cosine, right), folder / "engine"
        patience = Patience(QUIET_SECONDS, print)
        facts = timed(folders, device("local"), SECONDS, lambda count: images[:count], patience, False, StreamProgress())
    p50 = {form: latency["p50"] for form, latency in facts["latency_ms"].items()}
    return [*figures, *_figures(name, found, p50)], facts["conditions"]["doubts"]


def _answers(folder: Path, form: Form, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with RemoteWorker(device("local")) as worker:
        worker.build(folder / form.plan.model_file, form.plan, folder / "engine")
        worker.open(folder / "engine")
        outputs: npt.NDArray[np.float32] = next(iter(worker.infer({"input": images}).values()))
        return outputs


def _figures(name: str, found: Mapping[str, tuple[float, float]], p50: Mapping[str, float]) -> list[Figure]:
    figures = []
    for form, (cosine, right) in found.items():
        faster = f", {p50['fp32'] / p50[form]:.2f}x fp32" if "fp32" in p50 and form != "fp32" else ""
        words = f"{p50[form]:.3f} ms{faster}, cosine {cosine:.5f}, top-1 {right:.1f} %"
        least = LEAST_COSINE[form]
        figures.append(Figure(what=f"{name}: {form}", asked=f"cosine >= {least:g}", measured=words, met=cosine >= least))
    return figures


def _test(splits: Splits) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    batch = splits.test.load(np.arange(len(splits.test)))
    return batch.inputs.astype(np.float32), batch.targets
