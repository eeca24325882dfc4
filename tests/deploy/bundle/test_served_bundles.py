"""Bundles of several sizes and of models with states: built, proven and served on a device, from files alone."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.pipeline import signing_keys
from compress.pipeline.check.sides import open_side
from compress.pipeline.target import resolve, runtime_versions
from deploy.bundle import bundle as bundles
from deploy.bundle import golden
from deploy.bundle.signing import from_pem
from deploy.engines import engine
from deploy.engines.served import Served, open_served
from deploy.engines.serving import Serving, Sizes, State, part
from deploy.shipping.first_start import ready
from deploy.shipping.releases import Store
from profiles.device import load as load_profile
from profiles.errors import UserError
from tests.deploy.bundles import put

SIZES = Serving(sizes=Sizes(name="length", sizes=(4, 8), axes={"input": 1}, outputs=(0,)))
STATES = Serving(states=(State(name="h", output=1, shape=(2,)),), every=True)


def graph(nodes, inputs, outputs):
    given, made = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in each.items()]
        for each in (inputs, outputs)
    )
    kind = helper.make_graph([helper.make_node(*node) for node in nodes], "small", given, made)
    return helper.make_model(kind, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def sums(size):
    """The sum of a sample's numbers: what fills up adds nothing."""
    return graph([("ReduceSum", ["input"], ["sum"])], {"input": [1, size]}, {"sum": [1, 1]})


def running():
    """The sum of all steps so far: it is the answer, and fed back."""
    nodes = [("Add", ["x", "h"], ["y"]), ("Identity", ["y"], ["hn"])]
    return graph(nodes, {"x": [1, 2], "h": [1, 2]}, {"y": [1, 2], "hn": [1, 2]})


def write(folder, models, serving, inputs, key=None):
    """Write a bundle of models by size, whose golden outputs are their engines' own."""
    profile, runtime = load_profile("cpu"), engine("onnxruntime")
    plan = replace(runtime.plan(profile, "fp32", runtime.affinity().version), threads=1)
    sessions, paths = {}, {}
    for size, model in models.items():
        paths[size], built = folder.parent / f"{size}.onnx", folder.parent / f"built-{size}"
        onnx.save(model, str(paths[size]))
        built.mkdir()
        runtime.build(paths[size], plan, built)
        sessions[size] = runtime.open(built, plan)
    pack = golden.pack(inputs, golden.run(Served(sessions, serving), inputs))
    largest = max(models)
    about = {"title": "small", "name": "small", "plan": plan, "profile": profile, "report": b"{}"}
    smaller = {size: path for size, path in paths.items() if size != largest}
    bundles.write(folder, model=paths[largest], golden=pack, served=serving, smaller=smaller, **about)
    if key is not None:
        bundles.sign(folder, signing_keys.signer(key))
    return folder


def test_an_engine_of_each_size_is_built_where_a_service_starts(tmp_path):
    inputs = np.array([[1, 2, 3, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]], np.float32)
    folder = write(tmp_path / "bundle", {4: sums(4), 8: sums(8)}, SIZES, inputs)
    assert "There is a model for each length: 4, 8" in (folder / "README.md").read_text()
    assert bundles.verify(folder).cosine == pytest.approx(1.0)
    built, reasons = ready(folder, tmp_path / "cache")
    assert reasons == ("there is no engine yet",) and (built / part(4) / "model.onnx").is_file()
    assert ready(folder, tmp_path / "cache")[1] == ()
    served = open_served(built)
    assert next(iter(served.infer(inputs).values())).ravel().tolist() == [6.0, 6.0]
    assert [served.sessions[size].inputs[0].shape for size in (4, 8)] == [(1, 4), (1, 8)]
    assert next(iter(served.infer(np.array([[5, 5]], np.float32)).values())).tolist() == [[10.0]], (
        "a request of its own size"
    )
    (folder / part(4) / "model.onnx").write_bytes(b"altered")
    with pytest.raises(UserError, match="was altered"):
        bundles.verify(folder)


def test_states_are_fed_back_from_step_to_step_and_begin_with_zeros(tmp_path):
    steps = {"x": np.arange(1, 9, dtype=np.float32).reshape(1, 4, 2)}
    folder = write(tmp_path / "bundle", {0: running()}, STATES, steps)
    assert np.load(folder / "golden.npz")["output"][0].tolist() == [[1, 2], [4, 6], [9, 12], [16, 20]]
    assert bundles.verify(folder).samples == 1
    served = open_served(ready(folder, tmp_path / "cache")[0])
    for _ in range(2):
        served.reset()
        found = [served.step({"x": steps["x"][:, step]})["y"].tolist() for step in range(4)]
        assert found == [[[1, 2]], [[4, 6]], [[9, 12]], [[16, 20]]]
    last = Served(served.sessions, replace(STATES, every=False))
    assert last.infer(steps)["y"].tolist() == [[16, 20]]
    target = resolve("cpu")
    versions = runtime_versions(target.device)
    with ExitStack() as stack, pytest.raises(UserError, match="has several sizes or states, which a check does not know"):
        open_side(folder, target.profile, versions, stack)


def test_a_device_installs_every_size(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_KEYS", str(tmp_path / "keys"))
    key = signing_keys.new("default")
    inputs = np.array([[1, 2, 3, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]], np.float32)
    folder, store = write(tmp_path / "bundle", {4: sums(4), 8: sums(8)}, SIZES, inputs, key), Store(tmp_path / "store")
    store.trust(from_pem(key.pem, "x"))
    proof = put(store, folder)["proof"]
    assert proof["golden"]["cosine"] == pytest.approx(1.0)
    assert (store.the_slot("small").current().engine / part(4) / "model.onnx").is_file()
