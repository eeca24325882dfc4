"""Int8 of ResNet-20 on CIFAR-10 from 16 calibration samples of each kind, beside random over ten seeds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from calib.select import BY_FEATURES, balanced, entropy, random
from compress.data.base import ArraySamples
from compress.methods.quantization.post_training import PostTraining, quantize_model
from compress.methods.quantization.zeroq import synthesize
from compress.models.checkpoint import load_into
from compress.models.foreign import load_foreign
from compress.models.resnet import resnet
from tests.bench.figure import Figure, Table
from tests.bench.int8_subjects import SUBJECTS

COUNT, SEEDS, POOL, JUDGED, MADE = 16, 10, 300, 2000, 3
RECIPE, CHECKPOINT = "ort-x86-vnni", "resnet20-12fca82f.th"
Array = np.ndarray


def run() -> Table:
    subject = SUBJECTS["resnet20"]()
    pool = subject.calibration.load(np.arange(min(POOL, len(subject.calibration))))
    test = subject.test.load(np.arange(JUDGED))
    logits = outputs(subject.model, pool.inputs)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    ways: dict[str, tuple[int, Callable[[int], Array]]] = {
        "random": (SEEDS, lambda seed: pool.inputs[random(pool.targets, COUNT, seed)]),
        "balanced": (SEEDS, lambda seed: pool.inputs[balanced(pool.targets, COUNT, seed)]),
        "entropy": (SEEDS, lambda seed: pool.inputs[entropy(probabilities, COUNT, seed)]),
        "herding": (1, lambda seed: pool.inputs[BY_FEATURES["herding"](logits, COUNT, seed)]),
        "k_centre": (SEEDS, lambda seed: pool.inputs[BY_FEATURES["k_centre"](logits, COUNT, seed)]),
        "coverage": (SEEDS, lambda seed: pool.inputs[BY_FEATURES["coverage"](logits, COUNT, seed)]),
        "synthesised": (MADE, partial(made, module())),
    }
    accuracy = partial(right, labels=test.targets, inputs=test.inputs)
    plain, whole = accuracy(subject.model), accuracy(int8(subject.model, pool.inputs))
    found = {
        name: [accuracy(int8(subject.model, choose(seed))) for seed in range(seeds)]
        for name, (seeds, choose) in ways.items()
    }
    by_chance = found["random"]
    figures = [
        Figure(
            what=f"{name}: {COUNT} samples, top-1 (mean of {len(each)} seeds, worst to best)",
            asked="shown beside random" if name != "random" else "",
            measured=f"{statistics.fmean(each):.2f} %, {min(each):.2f} to {max(each):.2f} "
            f"({statistics.fmean(each) - statistics.fmean(by_chance):+.2f} beside random)",
            met=None,
        )
        for name, each in found.items()
    ]
    error = 100 * (plain / 100 * (1 - plain / 100) / JUDGED) ** 0.5
    remarks = [
        f"float {plain:.2f} %, int8 of all {POOL} samples of the pool {whole:.2f} %, on {JUDGED} images of test (standard "
        f"error of a figure {error:.2f}; differences on the same images are nearer than that)",
        f"quantised without training ({RECIPE}, ranges norm, biases corrected) and judged in ONNX Runtime; samples are "
        "of the training split; herding does not depend on the seed",
    ]
    return Table(figures=figures, remarks=remarks, seeds=SEEDS)


def module():
    made = resnet(blocks=3, shortcut="pad")
    load_into(made, load_foreign(Path(os.environ["EDGE_DATA"]) / "weights" / "resnet_cifar10" / CHECKPOINT), CHECKPOINT)
    return made.eval()


def made(of, seed: int) -> Array:
    return synthesize(of, (3, 32, 32), COUNT, seed)


def int8(model: onnx.ModelProto, inputs: Array) -> onnx.ModelProto:
    return quantize_model(model, ArraySamples(inputs, np.full(len(inputs), -1)), RECIPE, PostTraining()).onnx()


def right(model: onnx.ModelProto, *, labels: Array, inputs: Array) -> float:
    return 100 * float((outputs(model, inputs).argmax(axis=1) == labels).mean())


def outputs(model: onnx.ModelProto, inputs: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    parts = [session.run(None, {"input": inputs[start : start + 100]})[0] for start in range(0, len(inputs), 100)]
    return np.concatenate(parts)
