"""Our post-training int8 against that of each runtime's own tool, on the runtime: same module, same samples, in turns.

MNN's ``mnnquant`` (KL), Google's ai-edge-quantizer for LiteRT, ExecuTorch's XNNPACKQuantizer with torchao, each with its
defaults. NCNN's tools (``ncnn2table``, ``ncnn2int8``) are in no wheel; NNCF and ONNX Runtime's tool are in the bench
``int8``. Ours is as the product makes it without a look at labels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.pipeline.target import device_facts
from deploy.devices import device
from deploy.engines import BuildPlan
from deploy.measure.timing import interleave, ratio_interval, summarise
from deploy.worker.client import RemoteWorker
from tests.bench.figure import Figure, Table, at_most
from tests.bench.runtimes import Given, given, write_model

LEEWAY_POINTS, LEEWAY_TIME, SECONDS = 0.1, 1.02, 3.0
MNNQUANT = "import sys, _tools; _tools.mnnquant(*sys.argv[1:])"
PARTS = ("resnet20", "gated", "squeezenet")


def litert_tool(of: Given, plain: Path, made: Path) -> None:
    """ai-edge-quantizer with its recipe of 8 bits for weights and activations."""
    import ai_edge_quantizer
    from ai_edge_quantizer import quantizer

    recipe = Path(ai_edge_quantizer.__file__).parent / "recipes" / "default_a8w8_recipe.json"
    tool = quantizer.Quantizer(str(plain), str(recipe))
    (signature,) = _signatures(plain).items()
    name, (given_name,) = signature
    samples = [{given_name: sample[None]} for sample in calibration(of)]
    tool.quantize(tool.calibrate({name: samples}, num_threads=1)).export_model(str(made), overwrite=True)


def _signatures(file: Path) -> dict[str, list[str]]:
    from ai_edge_litert.interpreter import Interpreter

    return {name: each["inputs"] for name, each in Interpreter(str(file)).get_signature_list().items()}


def executorch_tool(of: Given, plain: Path, made: Path) -> None:
    """XNNPACK's quantizer, symmetric weights by channel, in torchao's flow."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = (torch.from_numpy(of.images[:1]),)
    how = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(of.module, example).module(), how)
    with torch.no_grad():
        for sample in calibration(of):
            prepared(torch.from_numpy(sample[None]))
    whole = torch.export.export(convert_pt2e(prepared), example)
    made.write_bytes(to_edge_transform_and_lower(whole, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


def mnn_tool(of: Given, plain: Path, made: Path) -> None:
    """``mnnquant`` on samples as text, in a process of its own: it ends that on what it cannot read."""
    folder = made.parent / "samples"
    shape = list(of.images[:1].shape)
    for number, sample in enumerate(calibration(of)):
        each = folder / f"{number:04d}"
        each.mkdir(parents=True)
        (each / "input.json").write_text(json.dumps({"inputs": [{"name": "input", "shape": shape}], "outputs": ["output"]}))
        np.savetxt(each / "input.txt", sample.ravel(), fmt="%.9g")
    config = {"path": str(folder), "input_type": "sequence", "feature_quantize_method": "KL"}
    config |= {"weight_quantize_method": "MAX_ABS", "model": str(plain)}
    (made.parent / "mnn.json").write_text(json.dumps(config))
    command = [sys.executable, "-c", MNNQUANT, str(plain), str(made), str(made.parent / "mnn.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    if not made.is_file():
        raise RuntimeError(f"mnnquant made no file: {(done.stdout + done.stderr)[-500:]}")


TOOLS: dict[str, Callable[[Given, Path, Path], None]] = {
    "mnn": mnn_tool,
    "litert": litert_tool,
    "executorch": executorch_tool,
}


def calibration(of: Given) -> npt.NDArray[np.float32]:
    samples: npt.NDArray[np.float32] = of.calibration.load(np.arange(len(of.calibration))).inputs
    return samples


def run(part: str) -> Table:
    of = given(part)
    here, _ = device_facts(device("local"))
    figures: list[Figure] = []
    for name, tool in TOOLS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folders = {who: Path(scratch) / who for who in ("float", "ours", "tool")}
            for folder in folders.values():
                folder.mkdir()
            plain, _ = write_model(of, name, "fp32", folders["float"], here)
            ours, plan = write_model(of, name, "int8", folders["ours"], here)
            theirs = folders["tool"] / ours.name
            try:
                tool(of, plain, theirs)
            except Exception as error:  # a row says why there is no other
                told = f"its tool failed: {' '.join(str(error).split())[:160]}"
                figures.append(Figure(what=name, asked="", measured=told, met=None))
                continue
            figures += _figures(name, of, {"ours": ours, "tool": theirs}, plan)
    plain_right = 100 * float(np.mean(of.expected.argmax(axis=1) == of.labels))
    remarks = [
        f"{part}: the module is right on {plain_right:.1f} % of {len(of.images)} images; {len(of.calibration)} calibration "
        f"images; a point of accuracy is {len(of.images) / 100:g} images"
    ]
    return Table(figures=figures, remarks=remarks)


def _figures(name: str, of: Given, files: dict[str, Path], plan: BuildPlan) -> list[Figure]:
    right, timers = {}, {}
    with ExitStack() as stack:
        for who, file in files.items():
            worker = stack.enter_context(RemoteWorker(device("local")))
            worker.build(file, plan, file.parent / "engine")
            (spec,) = worker.open(file.parent / "engine")["inputs"]
            made = next(iter(worker.infer({spec["name"]: of.images}).values()))
            right[who] = 100 * float(np.mean(made.argmax(axis=1) == of.labels))
            worker.warm({spec["name"]: of.images[:1]})
            timers[who] = worker.time
        times = interleave(timers, SECONDS)
    low, high = ratio_interval(times["ours"].medians(), times["tool"].medians())
    p50 = {who: summarise(each, batch=1, threads=1).p50 or float("nan") for who, each in times.items()}
    told = {who: f"top-1 {right[who]:.2f} %, {p50[who]:.3f} ms" for who in files}
    return [
        at_most(f"{name}: points below its own tool", LEEWAY_POINTS, right["tool"] - right["ours"], ""),
        at_most(f"{name}: p50 against its own tool", LEEWAY_TIME, p50["ours"] / p50["tool"]),
        Figure(what=f"{name}: ours", asked="", measured=f"{told['ours']} ({low:.2f}x to {high:.2f}x)", met=None),
        Figure(what=f"{name}: its tool", asked="", measured=told["tool"], met=None),
    ]
