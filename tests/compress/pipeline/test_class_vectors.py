"""compress classes: a run whose head is class vectors, then other classes in its bundle, without training."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from compress.methods.distillation.class_vectors import scaled_rows
from compress.methods.distillation.operations import Classify
from compress.methods.quantization.post_training import PostTraining, quantize_model
from compress.pipeline.class_vectors import change_classes
from deploy.bundle import bundle as bundles
from deploy.bundle import golden, manifest
from deploy.engines import engine
from deploy.engines.served import run
from deploy.export.to_onnx import capture, to_onnx
from deploy.qdq.class_vectors import find_vectors, with_vectors
from profiles.device import load as load_profile
from profiles.errors import UserError
from profiles.quantization import QUANTIZATION
from tests.conftest import ROOT, blobs, small_model
from tests.deploy.engines.small import small

RECIPE = "x86-vnni"
VECTORS = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [0.0, -1.0, 0.0], [-2.0, 0.0, 0.0]], np.float32)
DIAGONAL = np.array([[2.0, 2.0, 2.0]], np.float32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder with the bundle of a network in int8 whose head is class vectors."""
    folder = tmp_path_factory.mktemp("classes")
    module = Classify(head="linear", width=3, classes=4).apply(small_model()).eval()
    with torch.no_grad():
        module.linear.vectors.copy_(scaled_rows(torch.from_numpy(VECTORS), 10.0))
    samples, runtime, profile = blobs(32, 3), engine("onnxruntime"), load_profile("cpu")
    profile = replace(profile, runtimes=tuple(r for r in profile.runtimes if r.engine == "onnxruntime"))
    plan = replace(runtime.plan(profile, "int8", runtime.affinity().version), threads=1)
    exported = to_onnx(capture(module, [torch.zeros(2, 1, 16, 16)]))
    onnx.save(quantize_model(exported, samples, RECIPE, PostTraining()).onnx(), folder / "model.onnx")
    (folder / "engine").mkdir()
    runtime.build(folder / "model.onnx", plan, folder / "engine")
    outputs = golden.run(runtime.open(folder / "engine", plan), samples.images[:8])
    after = json.dumps({"schema": 1, "use": "classes", "classes": list("abcd")}).encode()
    bundles.write(
        folder / "bundle",
        title="blobs",
        model=folder / "model.onnx",
        plan=plan,
        profile=profile,
        golden=golden.pack(samples.images[:8], outputs),
        report=b"{}",
        preprocessing={"classes": list("abcd")},
        path_files={"postprocessing.json": after},
    )
    return folder


@pytest.mark.slow
def test_the_example_from_recipe_to_other_classes(tmp_path, monkeypatch):
    """Vectors drawn at random; then four of the ten classes are taken out of the bundle."""
    import compress

    vectors = np.random.default_rng(0).normal(size=(10, 24)).astype(np.float32)
    np.save(tmp_path / "texts.npy", vectors)
    monkeypatch.setenv("EDGE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    report = compress.run(str(ROOT / "examples" / "class_vectors.toml"), device="cpu", engines=["onnxruntime"])
    (student,) = [row for row in report.rows if row.stage == "quantize"][-1:]
    assert student.metric.value > 85
    np.save(tmp_path / "some.npy", vectors[:6])
    (tmp_path / "names.txt").write_text("\n".join("012345"))
    found = change_classes("runs/class_vectors-cpu", tmp_path / "some.npy", tmp_path / "names.txt", out=tmp_path / "new")
    assert found.cosine > 0.99
    assert json.loads((tmp_path / "new/postprocessing.json").read_text())["classes"] == list("012345")


def test_other_classes_in_a_bundle(finished, tmp_path):
    """The third and first class stay and a new one comes between them: theirs stay bit for bit, the new one's is P x . v."""
    bundle = finished / "bundle"
    np.save(tmp_path / "new.npy", np.concatenate([5 * VECTORS[2:3], DIAGONAL, VECTORS[:1]]))
    (tmp_path / "names.txt").write_text("c\ndiagonal\na\n")
    found = change_classes(bundle, tmp_path / "new.npy", tmp_path / "names.txt", out=tmp_path / "new")
    assert (found.before, found.classes) == (("a", "b", "c", "d"), ("c", "diagonal", "a"))
    assert "new: diagonal; gone: b, d" in str(found) and "not signed" in str(found)
    images = blobs(24, 5).images
    with bundles.opened(bundle) as old, bundles.opened(tmp_path / "new") as new:
        before, after = (run(each, {"input": images})[0] for each in (old, new))
    np.testing.assert_array_equal(after[:, [0, 2]], before[:, [2, 0]])
    scale = find_vectors(onnx.load(str(bundle / "model.onnx"))).scale
    # three of four rows span the space: what the model projects to is known from its scores
    unit = VECTORS[:3] / np.linalg.norm(VECTORS[:3], axis=1, keepdims=True)
    projected = before[:, :3] / scale @ np.linalg.inv(unit).T
    np.testing.assert_allclose(after[:, 1], scale * projected.sum(axis=1) / np.sqrt(3), atol=0.05 * scale)
    assert bundles.verify(tmp_path / "new").cosine > 0.9999, "its golden outputs are the new engine's"
    contents, _, _ = manifest.read(tmp_path / "new")
    assert contents.version > manifest.read(bundle)[0].version
    for name in ("preprocessing", "postprocessing"):
        assert json.loads((tmp_path / f"new/{name}.json").read_text())["classes"] == ["c", "diagonal", "a"]
    inputs = golden.unpack(golden.read(tmp_path / "new/golden.npz"))[0]
    np.testing.assert_array_equal(inputs, golden.unpack(golden.read(bundle / "golden.npz"))[0])
    lineage = json.loads((tmp_path / "new/lineage.json").read_text())
    assert lineage["classes"] == ["c", "diagonal", "a"] and lineage["before"] == []


def test_all_rows_back_is_the_file_itself(finished):
    """Other vectors and back: every constant is what it was, float and int8."""
    model = onnx.load(str(finished / "bundle" / "model.onnx"))
    for factor in (1e-30, 1e30):  # squares of float32 end at 1e38
        far = with_vectors(model, (factor * VECTORS).astype(np.float32), QUANTIZATION[RECIPE])
        np.testing.assert_allclose(find_vectors(far).rows, find_vectors(model).rows, rtol=0.02, atol=0.02)
    same = with_vectors(model, 3 * VECTORS, QUANTIZATION[RECIPE])
    for before, after in zip(model.graph.initializer, same.graph.initializer, strict=True):
        np.testing.assert_allclose(onnx.numpy_helper.to_array(after), onnx.numpy_helper.to_array(before), rtol=1e-6)
    with pytest.raises(ValueError, match="3 wide"):
        with_vectors(model, np.ones((2, 4), np.float32), QUANTIZATION[RECIPE])


def test_what_does_not_fit_is_told_at_once(finished, tmp_path):
    np.save(tmp_path / "wide.npy", np.ones((2, 4)))
    (tmp_path / "names.txt").write_text("a\na\nb\n")
    with pytest.raises(UserError) as told:
        change_classes(finished, tmp_path / "wide.npy", tmp_path / "names.txt")
    assert [fault.partition(": ")[2] for fault in told.value.faults] == [
        "a name a line, each once; given: a twice",
        "3 names for 2 vectors; one a line for each",
        "4 wide; the model's class vectors are 3 wide",
    ]
    np.save(tmp_path / "zero.npy", np.zeros((2, 3)))
    with pytest.raises(UserError, match="no row all zeros"):
        change_classes(finished, tmp_path / "zero.npy", tmp_path / "names.txt")
    with pytest.raises(UserError, match=r"none.npy: a \.npy file of numbers"):
        change_classes(finished, tmp_path / "none.npy", tmp_path / "names.txt")
    with pytest.raises(UserError, match="that is the bundle itself"):
        change_classes(finished, tmp_path / "wide.npy", tmp_path / "names.txt", out=finished / "bundle")


def test_a_head_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="reads no embedding of length 1"):
        find_vectors(small())
