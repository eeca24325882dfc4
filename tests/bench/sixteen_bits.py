"""Activations of 16 bits on a detector in ONNX Runtime: what they bring and cost on a CPU, and what is chosen of it."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from compress.execution.progress import StreamProgress
from compress.methods.quantization.post_training import PostTraining, QuantizedModel, calibrate, quantize_model
from compress.pipeline.device_costs import DeviceCostModel
from deploy.devices import device
from deploy.engines import engine
from deploy.measure.parity import parity
from deploy.onnx_graph.run import onnx_session
from deploy.qdq.insert import Scales, insert, weight_scales
from deploy.qdq.placement import COMPUTE
from profiles.device import load
from profiles.quantization import QUANTIZATION
from tests.bench.figure import Figure, Table
from tests.bench.int8_subjects import SUBJECTS
from tests.bench.timing import p50_ms

SUBJECT, RECIPE = "fastestdet", "ort-x86-vnni"
OPTIONS = PostTraining(biases=False, weights="largest")
"""The same for all forms, so that activations alone differ."""


def run() -> Table:
    subject = SUBJECTS[SUBJECT]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        mixed = chosen(subject.model, subject.calibration, folder)
        files = {
            "fp32": subject.model,
            "int8": quantize_model(subject.model, subject.calibration, RECIPE, OPTIONS).onnx(),
            "int8, activations of 16 bits everywhere": sixteen(subject.model, subject.calibration),
            "int8, some layers float or 16 bits, as chosen": mixed.onnx(),
        }
        for number, model in enumerate(files.values()):
            onnx.save(model, str(folder / f"{number}.onnx"))
        inputs = subject.test.load(np.arange(1)).inputs
        variants = {
            name: (folder / f"{number}.onnx", "onnxruntime", "fp32" if name == "fp32" else "int8")
            for number, name in enumerate(files)
        }
        times = p50_ms(variants, {subject.model.graph.input[0].name: inputs})
    some = subject.test.load(np.arange(min(32, len(subject.test)))).inputs
    expected = onnx_session(subject.model)(some)
    figures = [figure(name, model, subject, times, some, expected) for name, model in files.items()]
    kept = [name for name, _ in mixed.quantize.placement.kept_float if name in {n.name for n in subject.model.graph.node}]
    remarks = [*mixed.notes, f"chosen: {len(kept)} of {layers(subject.model)} layers float"]
    return Table(figures=figures, remarks=[remark.replace("|", "/") for remark in remarks])


def figure(name, model, subject, times, inputs, expected) -> Figure:
    predict = onnx_session(model)
    metric = subject.task.evaluate(predict, subject.test)
    cosine = min(parity(a, b).cosine for a, b in zip(expected, predict(inputs), strict=True))
    speed = f"{times[name]:.2f} ms, {times[name] / times['fp32']:.2f} of fp32"
    measured = f"{metric.name} {metric.value:.3f}, least cosine {cosine:.5f}; {speed}"
    return Figure(what=name, asked="", measured=measured, met=None)


def layers(model: onnx.ModelProto) -> int:
    return sum(node.op_type in COMPUTE for node in model.graph.node)


def sixteen(model: onnx.ModelProto, samples) -> onnx.ModelProto:
    every = [node.name for node in model.graph.node if node.op_type in COMPUTE]
    quantize = calibrate(model, samples, RECIPE, OPTIONS.ranges, wide=every)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rules = QUANTIZATION[RECIPE]
    weights = {w.tensor: weight_scales(constants[w.tensor], w.axis, rules) for w in quantize.placement.weights}
    return insert(model, quantize.placement, Scales(activations=quantize.activations, weights=weights), rules)


def chosen(model: onnx.ModelProto, samples, folder: Path) -> QuantizedModel:
    """What the product chooses, by what it measures on ONNX Runtime here."""
    onnx.save(model, str(folder / "float.onnx"))
    runtime = replace(load("cpu").runtime("onnxruntime"), quantization=RECIPE)
    profile = replace(load("cpu"), runtimes=(runtime,), threads=1)
    versions = {"onnxruntime": engine("onnxruntime").affinity().version}
    quiet = StreamProgress(io.StringIO())
    costs = DeviceCostModel(lambda: folder / "float.onnx", device("local"), {}, profile, versions, folder, quiet)
    return quantize_model(model, samples, RECIPE, replace(OPTIONS, mixed=True), price=costs.in_float)
