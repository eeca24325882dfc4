"""Ways of choosing calibration samples against random: int8's distance from float on test, over ten seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from calib.select import BY_FEATURES, balanced, entropy, random
from compress.data.base import ArraySamples
from compress.methods.quantization.post_training import PostTraining, quantize_model
from tests.bench.figure import Figure, Table
from tests.bench.int8_subjects import SUBJECTS

COUNT, SEEDS, POOL, JUDGED = 16, 10, 300, 256
RECIPE = "x86-no-vnni"
OPTIONS = PostTraining(biases=False)
Outputs = npt.NDArray[np.float32]


def run() -> Table:
    subject = SUBJECTS["gated"]()
    batch = subject.calibration.load(np.arange(min(POOL, len(subject.calibration))))
    judged = subject.test.load(np.arange(min(JUDGED, len(subject.test)))).inputs
    logits = _outputs(subject.model, batch.inputs)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    methods: dict[str, Callable[[int], npt.NDArray[np.int64]]] = {
        "random": lambda seed: random(batch.targets, COUNT, seed),
        "balanced": lambda seed: balanced(batch.targets, COUNT, seed),
        "entropy": lambda seed: entropy(probabilities, COUNT, seed),
        **{name: (lambda seed, of=of: of(logits, COUNT, seed)) for name, of in BY_FEATURES.items()},
    }
    expected = _outputs(subject.model, judged)
    found: dict[str, list[float]] = {name: [] for name in methods}
    for seed in range(SEEDS):
        for name, choose in methods.items():
            chosen = choose(seed)
            samples = ArraySamples(batch.inputs[chosen], batch.targets[chosen])
            made = _outputs(quantize_model(subject.model, samples, RECIPE, OPTIONS).onnx(), judged)
            found[name].append(float(np.linalg.norm(made - expected) / np.linalg.norm(expected)))
    by_chance = found["random"]
    figures = [
        Figure(
            what=f"{name}: {COUNT} of {len(batch.inputs)} samples, logits off by (median of {SEEDS} seeds, worst)",
            asked="",
            measured=f"{100 * statistics.median(each):.2f} %, {100 * max(each):.2f} %; nearer than random in "
            f"{sum(a < b for a, b in zip(each, by_chance, strict=True))} of {SEEDS}",
            met=None,
        )
        for name, each in found.items()
    ]
    return Table(figures=figures, remarks=["herding does not depend on the seed; the network is the bench int8's `gated`"])


def _outputs(model: onnx.ModelProto, inputs: npt.NDArray[np.float32]) -> Outputs:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    made: Outputs = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return made
