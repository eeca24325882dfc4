"""Every runtime on one network in fp32 and int8: built, compared with the module, judged, timed in turns; or why not.

Four networks have weights, and are judged on images that nothing was chosen on; two have random ones and are judged by how
often they answer as the module does.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress.data.base import ArraySamples, Samples
from compress.execution.progress import StreamProgress
from compress.methods.quantization import post_training
from compress.pipeline.exports import capture_program
from compress.pipeline.races import timed
from compress.pipeline.target import device_facts
from deploy.devices import device
from deploy.engines import BuildPlan, EngineError, engine
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.parity import parity
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.worker.client import RemoteWorker
from deploy.worker.patience import Patience
from profiles.device import Facts, load
from profiles.errors import UserError, one_line
from profiles.runtimes import ORDER, runtime_on
from tests.bench.figure import Figure, Table
from tests.bench.int8_subjects import SUBJECTS
from tests.conftest import randomise_batch_norms
from tests.zoo import build

RUNTIMES = tuple(name for name in ORDER if name != "ort-mobile")
LEAST_COSINE = {"fp32": 0.999999, "int8": 0.98}
SECONDS, QUIET_SECONDS, CALIBRATION = 0.5, 20.0, 64
JUDGED = {"resnet20": 500, "squeezenet": 150, "gated": 360, "vit": 360}
RANDOM = ("c2f", "shuffle")
PARTS = (*JUDGED, *RANDOM)


@dataclass(frozen=True, kw_only=True)
class Given:
    """A network, what its ranges are taken from, and what it is judged on.

    Attributes:
        labels: (samples,) of ``images``; the module's own answers where its weights are random.
    """

    module: nn.Module
    calibration: Samples
    images: npt.NDArray[np.float32]
    expected: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def given(part: str) -> Given:
    torch.manual_seed(0)
    if part in RANDOM:
        module = build(part).eval()
        randomise_batch_norms(module)
        images = np.random.default_rng(0).normal(size=(2 * CALIBRATION, 3, 16, 16)).astype(np.float32)
        calibration: Samples = ArraySamples(images[:CALIBRATION], np.zeros(CALIBRATION, np.int64))
        judged, labels = images[CALIBRATION:], None
    else:
        subject = SUBJECTS[part]()
        assert subject.module is not None
        module, calibration = subject.module.eval(), subject.calibration
        batch = subject.test.load(np.linspace(0, len(subject.test) - 1, JUDGED[part]).astype(np.int64))
        judged, labels = batch.inputs.astype(np.float32), batch.targets
    with torch.no_grad():
        expected = module(torch.from_numpy(judged)).numpy()
    labels = expected.argmax(axis=1) if labels is None else np.asarray(labels)
    return Given(module=module, calibration=calibration, images=judged, expected=expected, labels=labels)


def run(part: str) -> Table:
    of = given(part)
    here, usable = device_facts(device("local"))
    built: dict[str, tuple[float, float]] = {}
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders: dict[str, Path] = {}
        for name in RUNTIMES:
            for precision in LEAST_COSINE:
                form = f"{name} {precision}"
                folder = Path(scratch) / form
                folder.mkdir()
                if usable[name]["score"] < 0:
                    reasons[form] = one_line(usable[name]["reason"], 120)
                    continue
                try:
                    found = _build(of, name, precision, folder, here)
                except (EngineError, UserError) as error:
                    reasons[form] = one_line(str(error), 160)
                    continue
                right = float(np.mean(found.argmax(axis=1) == of.labels))
                built[form] = parity(of.expected, found).cosine, 100 * right
                folders[form] = folder / "engine"
        patience = Patience(QUIET_SECONDS, print)
        facts = timed(folders, device("local"), SECONDS, lambda count: of.images[:count], patience, False, StreamProgress())
    plain = 100 * float(np.mean(of.expected.argmax(axis=1) == of.labels))
    judged = (
        f"the module is right on {plain:.1f} % of {len(of.images)} images" if part in JUDGED else "its weights are random"
    )
    remarks = [f"{part}: {judged}; {len(of.calibration)} calibration images at most", *facts["conditions"]["doubts"]]
    return Table(figures=_figures(built, reasons, facts, part in JUDGED), remarks=remarks)


def _build(of: Given, name: str, precision: str, folder: Path, here: Facts) -> npt.NDArray[np.float32]:
    """Build a form in ``folder``; return its outputs."""
    model, plan = write_model(of, name, precision, folder, here)
    with RemoteWorker(device("local")) as worker:
        worker.build(model, plan, folder / "engine")
        worker.open(folder / "engine")
        outputs: npt.NDArray[np.float32] = next(iter(worker.infer({"input": of.images}).values()))
        return outputs


def write_model(of: Given, name: str, precision: str, folder: Path, here: Facts) -> tuple[Path, BuildPlan]:
    """Write the file of a runtime in a precision as the product makes it; return it and the plan of its engine."""
    runtime = runtime_on(name, engine(name).precisions, here)
    plan = engine(name).plan(load("cpu"), precision, engine(name).affinity().version)
    example = torch.from_numpy(of.images[:2])
    model, found = to_onnx(capture(of.module, [example])), None
    if precision == "int8":
        found = post_training.calibrate(
            model, of.calibration, runtime.quantization or "", post_training.PostTraining().ranges
        )
    if plan.format.made_from == "program":
        program, integers = capture_program(of.module, example, None if found is None else (lambda: found))
        content = plan.format.export()(program, plan.batch, integers)
    else:
        content = model_bytes(model if found is None else post_training.apply(model, found), plan)
    (folder / plan.model_file).write_bytes(content)
    return folder / plan.model_file, plan


def _figures(
    built: dict[str, tuple[float, float]], reasons: dict[str, str], facts: dict[str, Any], is_judged: bool
) -> list[Figure]:
    p50 = {form: latency["p50"] for form, latency in facts["latency_ms"].items()}
    figures = []
    for form in sorted(built, key=lambda each: p50[each]):
        least, (cosine, right) = LEAST_COSINE[form.split()[1]], built[form]
        answers = f"top-1 {right:.1f} %" if is_judged else f"{right:.1f} % of the module's answers"
        words = f"{p50[form]:.3f} ms ({p50[form] / min(p50.values()):.2f}x the fastest), cosine {cosine:.6f}, {answers}"
        figures.append(Figure(what=form, asked=f"cosine >= {least:g}", measured=words, met=cosine >= least))
    return [
        *figures,
        *(Figure(what=form, asked="", measured=f"not there: {why}", met=None) for form, why in reasons.items()),
    ]
