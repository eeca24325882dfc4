"""Every runtime on one network in fp32 and int8: built, compared with the module, timed in turns; a missing row says why."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.data.base import ArraySamples
from compress.execution.progress import StreamProgress
from compress.methods.quantization import post_training
from compress.models import resnet20
from compress.pipeline.exports import capture_program
from compress.pipeline.races import timed
from compress.pipeline.target import device_facts
from deploy.devices import device
from deploy.engines import EngineError, engine
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.parity import parity
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.worker.client import RemoteWorker
from deploy.worker.patience import Patience
from profiles.device import load
from profiles.errors import UserError, one_line
from profiles.runtimes import ORDER, runtime_on
from tests.bench.figure import Figure, Table
from tests.conftest import randomise_batch_norms
from tests.zoo import build

RUNTIMES = tuple(name for name in ORDER if name != "ort-mobile")
LEAST_COSINE = {"fp32": 0.999999, "int8": 0.99}
SECONDS, QUIET_SECONDS, SAMPLES = 0.5, 60.0, 64
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 32, 32)),
    "c2f": (lambda: build("c2f"), (3, 16, 16)),
    "vit": (lambda: build("vit"), (3, 16, 16)),
    "shuffle": (lambda: build("shuffle"), (3, 16, 16)),
    "inception": (lambda: build("inception"), (3, 16, 16)),
    "squeeze_excite": (lambda: build("squeeze_excite"), (3, 16, 16)),
}
PARTS = tuple(NETWORKS)


def run(part: str) -> Table:
    torch.manual_seed(0)
    make, shape = NETWORKS[part]
    module = make().eval()
    randomise_batch_norms(module)
    images = np.random.default_rng(0).normal(size=(SAMPLES, *shape)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    here, usable = device_facts(device("local"))
    built: dict[str, str] = {}
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders: dict[str, Path] = {}
        for name in RUNTIMES:
            for precision in LEAST_COSINE:
                form = f"{name} {precision}"
                folder = Path(scratch) / form
                folder.mkdir()
                if usable[name]["score"] < 0:
                    reasons[form] = usable[name]["reason"]
                    continue
                try:
                    found = _build(module, images, name, precision, folder, here)
                except (EngineError, UserError) as error:
                    reasons[form] = one_line(str(error), 160)
                    continue
                built[form] = f"{parity(expected, found).cosine:.6f}"
                folders[form] = folder / "engine"
        patience = Patience(QUIET_SECONDS, print)
        facts = timed(folders, device("local"), SECONDS, lambda count: images[:count], patience, False, StreamProgress())
    return Table(figures=_figures(built, reasons, facts), remarks=facts["conditions"]["doubts"])


def _build(module, images, name, precision, folder, here):  # type: ignore[no-untyped-def]
    """Build a form in ``folder``; return its outputs."""
    runtime = runtime_on(name, engine(name).precisions, here)
    plan = engine(name).plan(load("cpu"), precision, engine(name).affinity().version)
    example = torch.from_numpy(images[:2])
    model, found = to_onnx(capture(module, [example])), None
    if precision == "int8":
        samples = ArraySamples(images, np.zeros(len(images), np.int64))
        found = post_training.calibrate(model, samples, runtime.quantization or "", "minmax")
    if plan.format.made_from == "program":
        program, integers = capture_program(module, example, None if found is None else (lambda: found))
        content = plan.format.export()(program, plan.batch, integers)
    else:
        content = model_bytes(model if found is None else post_training.apply(model, found), plan)
    (folder / plan.model_file).write_bytes(content)
    with RemoteWorker(device("local")) as worker:
        worker.build(folder / plan.model_file, plan, folder / "engine")
        worker.open(folder / "engine")
        return next(iter(worker.infer({"input": images}).values()))


def _figures(built: dict[str, str], reasons: dict[str, str], facts: dict) -> list[Figure]:  # type: ignore[type-arg]
    p50 = {form: latency["p50"] for form, latency in facts["latency_ms"].items()}
    figures = []
    for form in sorted(built, key=lambda each: p50[each]):
        least = LEAST_COSINE[form.split()[1]]
        words = f"{p50[form]:.3f} ms, cosine {built[form]}"
        figures.append(Figure(what=form, asked=f"cosine >= {least:g}", measured=words, met=float(built[form]) >= least))
    return [
        *figures,
        *(Figure(what=form, asked="", measured=f"not there: {why}", met=None) for form, why in reasons.items()),
    ]
