"""Small real bundles, made in milliseconds: a convolution and a linear layer, golden outputs by the engine itself."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.pipeline import signing_keys
from deploy.bundle import bundle as bundles
from deploy.bundle import golden, manifest
from deploy.engines import engine
from deploy.export.to_packed import pack_model
from deploy.onnx_graph.take_bytes import take_bytes
from deploy.packing import indices
from deploy.packing.indices import PackedTensor
from deploy.processing import whole
from deploy.processing.pictures import png
from deploy.processing.preprocessing.pixels import normalise_from
from deploy.processing.raws import Raw
from deploy.shipping.install import Expectation, install
from deploy.shipping.receive import offer, receive
from deploy.shipping.releases import Store
from deploy.shipping.ship import LoadedBundle, load
from profiles.device import facts
from profiles.device import load as load_profile

SAMPLES = 4


def model(seed: int = 0, outputs: int = 1) -> onnx.ModelProto:
    """A (1, 1, 8, 8) input, 4 channels of 3x3, then ``outputs`` linear layers to 5 numbers."""
    rng = np.random.default_rng(seed)
    weights = {"conv": rng.normal(size=(4, 1, 3, 3)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["input", "conv"], ["c"]), helper.make_node("Flatten", ["c"], ["flat"])]
    for index in range(outputs):
        weights[f"linear{index}"] = rng.normal(size=(144, 5 + index)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", ["flat", f"linear{index}"], [f"output{index}"]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info(f"output{i}", TensorProto.FLOAT, [1, 5 + i]) for i in range(outputs)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def bundle(
    folder: Path,
    *,
    seed: int = 0,
    outputs: int = 1,
    key: signing_keys.Key | None = None,
    version: int | None = None,
    p50_ms: float | None = None,
    extras: Mapping[str, Path] | None = None,
    packed_bits: int | None = None,
    **fields: Any,
) -> Path:
    """A bundle for onnxruntime here; ``fields`` of the manifest or its target are put in before it is signed.

    With ``packed_bits`` its weights have that many bits, and it holds model.packed.
    """
    profile, runtime = load_profile("cpu"), engine("onnxruntime")
    plan = replace(runtime.plan(profile, "fp32", runtime.affinity().version), threads=1)
    inputs = np.random.default_rng(1).normal(size=(SAMPLES, 1, 8, 8)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        path, built = Path(scratch) / "m.onnx", Path(scratch) / "engine"
        made = model(seed, outputs)
        weights = {} if packed_bits is None else snap(made, packed_bits)
        onnx.save(made, path)
        built.mkdir()
        runtime.build(path, plan, built)
        pack = golden.pack(inputs, golden.run(runtime.open(built, plan), inputs))
        report = json.dumps(_report(p50_ms)).encode()
        about: dict[str, Any] = {"title": "small", "name": "small", "plan": plan, "profile": profile, "report": report}
        if packed_bits is not None:
            about["packed"] = Path(scratch) / "m.packed"
            about["packed"].write_bytes(pack_model(path.read_bytes(), weights)[0])
        bundles.write(folder, model=path, golden=pack, extras=extras, **about)
    if version is not None or fields:
        change(folder, **({} if version is None else {"version": version}), **fields)
    if key is not None:
        bundles.sign(folder, signing_keys.signer(key))
    return folder


def picture_bundle(
    folder: Path,
    *,
    seed: int = 0,
    key: signing_keys.Key | None = None,
    altered: tuple[str, dict[str, Any]] | None = None,
    form: str = "",
) -> tuple[Path, list[bytes]]:
    """A bundle for pictures of 8x8, with raw samples, and these; then one file is ``altered``, and all signed.

    With ``form`` its model takes bytes (``deploy.onnx_graph.take_bytes``).
    """
    rng = np.random.default_rng(7)
    drawn = [np.kron(rng.integers(0, 256, (3, 5)), np.ones((4, 4)))[..., None].astype(np.uint8) for _ in range(SAMPLES)]
    pictures = [png(pixels) for pixels in drawn]
    about = {"use": "image", "size": [8, 8], "crop": "centre", "short_side": 8, "interpolation": "bilinear, antialiased"}
    about |= {"mean": [0.3], "deviation": [0.4], "order": "grey", "scale": 1.0, "bytes": bool(form)}
    profile, runtime = load_profile("cpu"), engine("onnxruntime")
    plan = replace(runtime.plan(profile, "fp32", runtime.affinity().version), threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / whole.BEFORE_FILE).write_text(json.dumps(about))
        after = json.dumps({"schema": 1, "use": "classes", "classes": list("abcde")}).encode()
        (Path(scratch) / whole.AFTER_FILE).write_bytes(after)
        prepare = whole.load(Path(scratch)).prepare
        inputs = np.concatenate([prepare(Raw(value=each)).inputs for each in pictures])
        path, built = Path(scratch) / "m.onnx", Path(scratch) / "engine"
        plain = model(seed)
        made = take_bytes(plain, normalise_from(about), form) if form else plain
        assert made is not None
        onnx.save(made, path)
        built.mkdir()
        runtime.build(path, plan, built)
        outputs = golden.run(runtime.open(built, plan), inputs)
        bundles.write(
            folder,
            title="small",
            name="small",
            model=path,
            plan=plan,
            profile=profile,
            report=b"{}",
            golden=golden.pack(inputs, outputs),
            preprocessing=about,
            path_files={whole.AFTER_FILE: after},
            raws=[Raw(value=each) for each in pictures],
        )
    if altered is not None:
        file, fields = altered
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **fields}))
        found, _, _ = manifest.read(folder)
        (folder / manifest.MANIFEST).write_bytes(replace(found, files=manifest.entries(folder)).canonical())
    if key is not None:
        bundles.sign(folder, signing_keys.signer(key))
    return folder, pictures


def snap(made: onnx.ModelProto, bits: int) -> dict[str, PackedTensor]:
    """Put every constant of a model onto fitted points."""
    found = {}
    for tensor in made.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        found[tensor.name] = indices.pack(weight, bits, indices.fitted_points(weight, bits, 64), 64)
        tensor.CopyFrom(numpy_helper.from_array(found[tensor.name].unpack(), tensor.name))
    return found


def change(folder: Path, **fields: Any) -> None:
    """Put ``fields`` into a manifest or its target, unsigned."""
    found, _, _ = manifest.read(folder)
    mine = {name: value for name, value in fields.items() if name in manifest.Manifest.__dataclass_fields__}
    target = {name: value for name, value in fields.items() if name not in mine}
    found = replace(found, **mine, target=replace(found.target, **target))
    (folder / manifest.MANIFEST).write_bytes(replace(found, key=None).canonical())


def send(store: Store, freight: LoadedBundle) -> None:
    """Have the store take in what it lacks of a bundle."""
    for content in offer(store, freight.raw, freight.signature, public_key=None, trust="never")["missing"]:
        path, size = freight.path(content["sha256"]), content["size_bytes"]
        piece = {"sha256": content["sha256"], "size_bytes": size, "offset": 0, "length": size}
        receive(store, [piece], io.BytesIO(path.read_bytes()))


def put(store: Store, folder: Path, expected: Expectation | None = None) -> dict[str, Any]:
    """Ship a bundle into a store, in this process."""
    freight = load(folder)
    send(store, freight)
    return install(store, freight.raw, freight.signature, expected or Expectation())


def served(store: Store) -> int:
    """The version that a store serves."""
    release = store.the_slot("small").current()
    assert release is not None
    return release.manifest().version


def _report(p50_ms: float | None) -> dict[str, Any]:
    if p50_ms is None:
        return {}
    here = asdict(facts())
    row = {"name": "best", "latency_ms": {"p50": p50_ms}}
    device = {name: here[name] for name in ("processor", "cores")}
    return {"environment": {"device": device}, "rows": [row], "verdict": {"best": "best"}}
