"""Files of bundles, mutated by an author who signs them anew: taken, or refused in one line each."""

import io
import json
import zipfile
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from compress.pipeline.check.labelled import of_runs
from compress.pipeline.check.sides import open_side
from deploy.bundle import bundle as bundles
from deploy.bundle import cascade, manifest
from deploy.bundle.manifest import MANIFEST
from deploy.engines.base import BuildPlan, EngineError, load_plan, save_plan
from deploy.engines.ncnn import Ncnn
from deploy.packing import packed_file
from deploy.processing.detection import decode
from deploy.shipping.first_start import plan_here
from deploy.shipping.install import ProofError, _reference_ms
from profiles.device import load as load_profile
from tests.deploy.bundles import bundle
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes, mutated_table
from tests.fuzz.test_own_files import contents

CPU = load_profile("cpu")


@pytest.fixture
def made(tmp_path):
    return bundle(tmp_path / "bundle", p50_ms=1.0)


def relist(folder):
    """Have the manifest list what lies there now."""
    found, _, _ = manifest.read(folder)
    (folder / MANIFEST).write_bytes(replace(found, files=manifest.entries(folder), key=None).canonical())


def side(folder):
    with ExitStack() as stack:
        found = open_side(folder, CPU, {"onnxruntime": "1"}, stack)
        of_runs([found])


@pytest.mark.parametrize("name", ["plan.json", "report.json", "profile.json"])
def test_tables_of_bundles(made, name):
    rnd = generator(f"bundle {name}")
    table = json.loads((made / name).read_text())
    if name == "report.json":
        table = {**table, "recipe": {"task": {"kind": "classification"}, "data": {"use": "nothing"}}}
    readers = {
        "plan.json": (bundles.load_plan, plan_here, side),
        "report.json": (side, reference),
        "profile.json": (plan_here, reference),
    }
    for content in contents(table, rnd, inputs(60)):
        (made / name).write_bytes(content)
        relist(made)
        for reader in readers[name]:
            check(reader, made, allowed=(ProofError,))


def reference(folder):
    _reference_ms(folder, "cpu")


def test_mutated_models_do_not_end_the_verifier(made):
    """Golden samples and the model itself; what the runtime does with a file is told as the engine's."""
    rnd = generator("verify")
    for name in ("golden.npz", "model.onnx"):
        whole = (made / name).read_bytes()
        for _ in range(inputs(8)):
            (made / name).write_bytes(mutated_bytes(whole, rnd))
            relist(made)
            check(bundles.verify, made, allowed=(EngineError, ValueError))
        (made / name).write_bytes(whole)


def test_cascades(tmp_path):
    for name in (cascade.SMALL, cascade.LARGE):
        bundle(tmp_path / name)
    rnd, whole = generator("cascade"), {"margin": 0.4}
    cascade.write(tmp_path, 0.4)
    assert check(cascade.load, tmp_path) == ()
    for content in [
        *contents(whole, rnd, inputs(20)),
        b'{"margin": 1' + b"0" * 400 + b"}",
        b'{"margin": NaN}',
        b'{"margin": -1}',
    ]:
        (tmp_path / cascade.FILE).write_bytes(content)
        check(cascade.load, tmp_path)


def test_packed_models(tmp_path):
    made = bundle(tmp_path / "packed", packed_bits=3)
    file, rnd = made / packed_file.FILE, generator("packed model")
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    check(packed_file.read, whole, allowed=(ValueError,))
    for number in range(inputs(60)):
        head, rest = whole[8 : 8 + length], whole[8 + length :]
        if number % 2:
            head = json.dumps(mutated_table(json.loads(head), rnd)).encode()
            content = len(head).to_bytes(8, "little") + head + rest
        else:
            content = mutated_bytes(whole[: 8 + length + 200], rnd) + whole[8 + length + 200 :]
        check(packed_file.read, content, allowed=(ValueError,))
        if number % 6 == 0:
            file.write_bytes(content)
            relist(made)
            check(side, made)
    assert check(packed_file.read, whole, allowed=(ValueError,)) == ()


DECODE = {
    "schema": decode.SCHEMA, "head": "yolov8", "classes": ["a", "b"], "thresholds": [0.5, 0.5], "most_overlap": 0.5,
    "size": [32, 32], "strides": [8, 16, 32], "anchors": [],
}  # fmt: skip


def test_how_outputs_are_decoded(tmp_path):
    rnd = generator("decode")
    table = {**DECODE, "head": next(iter(decode.readers()))}
    for content in contents(table, rnd, inputs(100)):
        (tmp_path / decode.FILE).write_bytes(content)
        check(decode.load, tmp_path)
    (tmp_path / decode.FILE).write_text(json.dumps(table))
    array = io.BytesIO()
    np.save(array, np.array([[0, 0, 1, 1]], np.float32))
    for _ in range(inputs(60)):
        (tmp_path / decode.PRIORS).write_bytes(mutated_bytes(array.getvalue(), rnd))
        check(decode.load, tmp_path)


NCNN = BuildPlan(engine="ncnn", precision="fp32", batch=1, threads=1, version="1", options={"switches": ""}, source="ncnn")


def test_archives_of_ncnn(tmp_path):
    from deploy.engines import ncnn

    rnd, content = generator("ncnn"), io.BytesIO()
    tensors = {
        "inputs": [{"name": "x", "shape": [3], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": [2], "dtype": "float32"}],
    }
    with zipfile.ZipFile(content, "w") as archive:
        for name in (ncnn.GRAPH, ncnn.WEIGHTS, ncnn.TENSORS):
            archive.writestr(name, json.dumps(tensors))
    (tmp_path / "m.zip").write_bytes(content.getvalue())
    (tmp_path / ncnn.TENSORS).write_text(json.dumps(tensors))
    assert check(ncnn._tensors, tmp_path, NCNN, allowed=(EngineError,)) == ()
    for _ in range(inputs(60)):
        (tmp_path / "m.zip").write_bytes(mutated_bytes(content.getvalue(), rnd))
        check(ncnn._unpack, tmp_path / "m.zip", tmp_path, NCNN, allowed=(EngineError,))
    for given in contents(tensors, rnd, inputs(60)):
        (tmp_path / ncnn.TENSORS).write_bytes(given)
        check(ncnn._tensors, tmp_path, NCNN, allowed=(EngineError,))


def test_plans_beside_engines(tmp_path):
    save_plan(tmp_path, NCNN)
    assert Ncnn.name == load_plan(tmp_path).engine
