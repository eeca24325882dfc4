"""The spine: what the demo reaches, and what the pipeline itself costs."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.data.digits import digits
from compress.models import resnet20
from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.timing import p50_ms


def run() -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        report, own, seconds, again = _demo(folder)
        figures = [*_verdict(report), *_against_tools(report, folder / "steps", folder)]
        figures += [at_least("training step of ResNet-20, batch 128, against the plain fp32 NCHW loop", 1.5, _training())]
        figures += [at_most("pipeline's own cost in the demo", 5.0, 100 * own / seconds, " %")]
        figures += [at_most("demo from nothing", 300, seconds, " s"), at_most("the same command again", 15, again, " s")]
    return Table(figures=figures)


def _demo(folder: Path) -> tuple[dict[str, Any], float, float, float]:
    environment = {**os.environ, "COMPRESS_STEPS": str(folder / "steps")}
    command = [sys.executable, "-m", "compress", "run", "--out", str(folder / "out"), "--json"]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    outside = re.search(r"([\d.]+) s outside its steps", done.stderr)
    assert outside
    started = time.monotonic()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return json.loads(done.stdout), float(outside.group(1)), seconds, time.monotonic() - started


def _row(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in report["rows"] if row["name"] == name)
    return found


def _verdict(report: dict[str, Any]) -> Iterator[Figure]:
    verdict, teacher = report["verdict"], _row(report, "teacher/openvino/fp32")
    students = [r for r in report["rows"] if r["kind"] == "student" and r["engine"] == "openvino"]
    fastest = min(students, key=lambda row: row["latency_ms"]["p50"])
    speed = teacher["latency_ms"]["p50"] / fastest["latency_ms"]["p50"]
    drop = teacher["metric"]["value"] - fastest["metric"]["value"]
    yield at_least("digits student against teacher fp32, OpenVINO, p50", 2.5, speed)
    yield at_most("its drop of top-1 on test", 1.0, drop, " points")
    yield at_least("digits student against the best free baseline", 1.3, verdict["speedup_vs_best_free"])


def _against_tools(report: dict[str, Any], steps: Path, folder: Path) -> Iterator[Figure]:
    """The int8 student against the float student it came from, quantised by NNCF and by onnxruntime's tool."""
    import onnx

    exports = {_decided(e.parent)["artifact"]: e for e in steps.glob("export-*/model.onnx")}
    key = next(key for key in exports if key.startswith("quantize-"))
    trained, plain = exports[key], exports[_decided(steps / key)["start"]]
    data = digits()
    samples = data.calibration.load(np.arange(len(data.calibration))).inputs
    tools = {"openvino": folder / "nncf.onnx", "onnxruntime": folder / "ort.onnx"}
    onnx.save(nncf_int8(onnx.load(plain), samples), tools["openvino"])
    ort_int8(plain, tools["onnxruntime"], samples, folder)
    variants = {f"{who} {e}": (m, e, "int8") for e in tools for who, m in (("ours", trained), ("tool", tools[e]))}
    p50 = p50_ms(variants, {"input": samples[:1]})
    names = {"openvino": "NNCF", "onnxruntime": "onnxruntime.quantization"}
    for each, tool in names.items():
        ratio = p50[f"ours {each}"] / p50[f"tool {each}"]
        yield at_most(f"int8 student on {each} against {tool} on the same float student, p50", 1.10, ratio)


def _decided(step: Path) -> dict[str, Any]:
    """What decided a step of the cache."""
    found: dict[str, Any] = json.loads((step / "step.json").read_text())["decided_by"]
    return found


def nncf_int8(model: Any, samples: Any) -> Any:
    """NNCF's post-training int8 with its defaults."""
    import nncf

    dataset = nncf.Dataset([samples[i : i + 1] for i in range(len(samples))], lambda x: {"input": x})
    return nncf.quantize(model, dataset, subset_size=len(samples))


def ort_int8(model: Path, out: Path, samples: Any, scratch: Path) -> None:
    """onnxruntime's own post-training tool, with the data types that suit x86 with VNNI."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            self._rows = iter([{"input": samples[i : i + 1]} for i in range(len(samples))])

        def get_next(self) -> Any:
            return next(self._rows, None)

    prepared = scratch / "prepared.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types)


def _training() -> float:
    """How much faster a step of our loop is than the plain one: median of alternating rounds."""
    ratios = []
    for _ in range(5):
        plain, ours = _plain_step_s(), _our_step_s()
        ratios.append(plain / ours)
    return statistics.median(ratios)


def _batch() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(128, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, 128)


def _plain_step_s(steps: int = 10) -> float:
    images, labels = _batch()
    model = resnet20().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()

    return _median_s(step, steps)


def _our_step_s(steps: int = 10) -> float:
    """Wall time of ``Trainer.fit`` over its steps, everything in it counted."""
    import io

    from compress.data.base import ArraySamples
    from compress.execution.progress import StreamProgress
    from compress.methods.distillation.objective import Objective, parse_losses
    from compress.tasks.classification import Classification
    from compress.training.schedule import Schedule
    from compress.training.trainer import Trainer

    images, labels = _batch()
    model = resnet20()
    objective = Objective(parse_losses(["task"]), Classification(), model, None, torch.from_numpy(images[:2]))
    trainer = Trainer(0, StreamProgress(io.StringIO()))
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for epochs in (2, 2 + steps):
            samples = ArraySamples(images, labels)
            times.append(trainer.fit("x", model, objective, samples, Schedule(epochs=epochs), Path(folder)).seconds)
    return (times[1] - times[0]) / steps


def _median_s(step: Callable[[], None], steps: int) -> float:
    step()
    step()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
