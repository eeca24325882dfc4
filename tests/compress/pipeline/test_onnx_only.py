"""A model that is an ONNX file without source code: measured, quantised and bundled, never trained."""

import functools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from deploy.bundle.bundle import verify
from deploy.export import from_onnx
from deploy.export.from_onnx import first_outputs, read
from deploy.export.to_onnx import capture, to_onnx
from profiles.errors import UserError
from tests.conftest import small_model

RECIPE = """
[task]
data = "tests.conftest:blob_splits"
[teacher]
model = "them.onnx"
[measure]
seconds = 0.1
"""


@functools.cache
def small_graph():
    return to_onnx(capture(small_model(), [torch.randn(2, 1, 16, 16)])).SerializeToString()


def exported(path, batch="free", name="input.1"):
    """A file as others make them: old opset, another input name, perhaps a fixed batch."""
    model = onnx.load_from_string(small_graph())
    for node in model.graph.node:
        for index, given in enumerate(node.input):
            if given == "input":
                node.input[index] = name
    model.graph.input[0].name = name
    if batch != "free":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        del model.graph.value_info[:]
    onnx.save(model, str(path))
    return model


@pytest.mark.parametrize("batch", [pytest.param("free", marks=pytest.mark.slow), 4])
def test_it_is_measured_quantised_and_bundled(compress_here, tmp_path, batch):
    exported(tmp_path / "them.onnx", batch)
    (tmp_path / "r.toml").write_text(RECIPE)
    done = compress_here("run", "r.toml", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {r["kind"] for r in rows} == {"baseline"}
    assert {"fp32", "int8"} <= {r["precision"] for r in rows}
    assert all(r["parity"]["cosine"] > 0.98 for r in rows)
    assert verify(tmp_path / "runs/r-cpu/bundle").top1_agreement == 1.0


@pytest.mark.slow
def test_a_smaller_file_stands_among_the_free_rows(compress_here, tmp_path):
    exported(tmp_path / "them.onnx")
    narrow = to_onnx(capture(small_model(width=0.25), [torch.randn(2, 1, 16, 16)]))
    onnx.save(narrow, str(tmp_path / "narrow.onnx"))
    (tmp_path / "r.toml").write_text(f'{RECIPE}[baselines]\nmodels = ["narrow.onnx"]\n')
    done = compress_here("run", "r.toml", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    teacher, narrow = ([r for r in rows if r["name"].startswith(name)] for name in ("teacher/", "narrow/"))
    assert [(r["engine"], r["precision"]) for r in teacher] == [(r["engine"], r["precision"]) for r in narrow]
    assert len(teacher) + len(narrow) == len(rows) and {r["kind"] for r in rows} == {"baseline"}
    assert narrow[0]["params"] < teacher[0]["params"]


def test_a_runtime_that_does_not_take_it_is_a_refused_row_and_not_the_end(compress_here, tmp_path):
    """OpenVINO has no determinants; zero times one is added to the logits, which ONNX Runtime takes."""
    model = exported(tmp_path / "them.onnx")
    logits = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == logits else name for name in node.output]
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    model.graph.initializer.append(zero)
    model.graph.node.extend(
        [
            helper.make_node("Det", ["input.1"], ["determinant"]),
            helper.make_node("Mul", ["determinant", "zero"], ["nothing"]),
            helper.make_node("Add", ["before", "nothing"], [logits]),
        ]
    )
    onnx.save(model, str(tmp_path / "them.onnx"))
    (tmp_path / "r.toml").write_text(RECIPE)
    done = compress_here("run", "r.toml")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs/r-cpu/report.json").read_text())
    assert {row["engine"] for row in report["rows"]} == {"onnxruntime"}
    assert {(one["name"], one["engine"]) for one in report["refused"]} == {("teacher", "openvino")}
    assert all("Det" in one["reason"] for one in report["refused"])
    assert "teacher on openvino in fp32 refused: OpenVINO" in done.stdout and "left out: openvino fp32" in done.stderr


@pytest.mark.parametrize(
    ("operator", "kept_bytes", "words"),
    [
        ("Relu", 100, "its weights are in w.data, which is cut off: 100 bytes instead of 1024 or more"),
        ("Relu", 0, "its weights are in w.data, which is not beside it; copy it too"),
        ("Nonsense", 1024, "Nonsense: ONNX's opset has no such operator"),
    ],
)
def test_lost_weights_and_unknown_operators_are_named(tmp_path, operator, kept_bytes, words):
    weights = numpy_helper.from_array(np.ones((64, 4), np.float32), "w")
    nodes = [helper.make_node(operator, ["x"], ["z"]), helper.make_node("MatMul", ["z", "w"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, s]) for n, s in (("x", 64), ("y", 4)))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [weights]), opset_imports=[helper.make_opsetid("", 18)]
    )
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.data", size_threshold=0)
    beside = tmp_path / "w.data"
    beside.write_bytes(beside.read_bytes()[:kept_bytes]) if kept_bytes else beside.unlink()
    with pytest.raises(UserError, match=words):
        read(tmp_path / "m.onnx")


def test_training_is_refused_with_the_reason(compress_here, tmp_path):
    exported(tmp_path / "them.onnx")
    (tmp_path / "r.toml").write_text(
        RECIPE + '[student]\nfrom = "teacher"\n[[stage]]\nuse = "distill"\n[[stage]]\nuse = "prune"\n'
    )
    done = compress_here("run", "r.toml")
    assert done.returncode == 2
    assert "[[stage]] 1 (distill) trains, and an .onnx model has no source code to train" in done.stderr
    assert "[[stage]] 2 (prune)" in done.stderr
    assert "[student] cannot be made from an .onnx file" in done.stderr


def test_data_of_another_shape_is_told(compress_here, tmp_path):
    model = to_onnx(capture(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), [torch.randn(2, 1, 8, 8)]))
    onnx.save(model, str(tmp_path / "them.onnx"))
    (tmp_path / "r.toml").write_text(RECIPE)
    done = compress_here("run", "r.toml")
    assert done.returncode == 2
    assert "takes samples of shape (1, 8, 8); the data's are (1, 16, 16)" in done.stderr


def test_batch_norms_and_old_opsets_are_folded_and_raised(tmp_path):
    torch.manual_seed(0)
    module, inputs = small_model().eval(), torch.randn(2, 1, 16, 16)
    names = {"input_names": ["a"], "keep_initializers_as_inputs": True, "do_constant_folding": False}
    path = str(tmp_path / "bn.onnx")
    mode = torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(module, (inputs,), path, dynamo=False, training=mode, opset_version=11, **names)
    before = onnx.load(path)
    assert "BatchNormalization" in {n.op_type for n in before.graph.node}
    model = read(tmp_path / "bn.onnx")
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
    assert [i.name for i in model.graph.input] == ["a"]
    assert model.opset_import[0].version >= 18
    outputs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"a": inputs.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(outputs, module(inputs).numpy(), atol=1e-4)


def test_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="not an ONNX model"):
        read(tmp_path / "no.onnx")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.onnx")


def test_a_quantised_model_is_refused(tmp_path):
    from compress.methods.quantization import post_training
    from tests.conftest import blob_splits

    model = exported(tmp_path / "m.onnx", name="input")
    quantize = post_training.calibrate(model, blob_splits().calibration, "x86-vnni", "mse")
    onnx.save(post_training.apply(model, quantize), str(tmp_path / "q.onnx"))
    with pytest.raises(UserError, match="is quantised already"):
        read(tmp_path / "q.onnx")


def test_several_inputs_are_fed_by_name(tmp_path):
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 4]) for n in "abc"]
    graph = helper.make_graph([helper.make_node("Sub", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(tmp_path / "two.onnx"))
    inputs = {"b": np.full((3, 4), 2, np.float32), "a": np.full((3, 4), 5, np.float32)}
    (found,) = first_outputs(read(tmp_path / "two.onnx"), inputs)
    np.testing.assert_array_equal(found, np.full((3, 4), 3, np.float32))


def hostile(tmp_path, *nodes, initializers=()):
    """A file whose graph takes ``a`` and gives ``z``."""
    given, result = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ("n", s)) for n, s in (("a", 4), ("z", "m")))
    graph = helper.make_graph(list(nodes), "g", [given], [result], list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(tmp_path / "h.onnx"))
    return tmp_path / "h.onnx"


def test_a_graph_that_takes_all_memory_is_told(tmp_path):
    times = onnx.numpy_helper.from_array(np.array([1, 10**8]), "times")
    file = hostile(tmp_path, helper.make_node("Tile", ["a", "times"], ["z"]), initializers=[times])
    with pytest.raises(UserError, match=r"cannot be run: one batch takes more than 1.0 GiB of memory"):
        first_outputs(read(file), np.ones((2, 4), np.float32))


def test_a_graph_that_does_not_end_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(from_onnx.RUNNING, "base_s", 1)
    one, yes = helper.make_tensor("one", onnx.TensorProto.INT64, [], [2**62]), helper.make_tensor("yes", 9, [], [True])
    turn = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "turn",
        [helper.make_tensor_value_info(n, k, s) for n, k, s in (("i", 7, []), ("go", 9, []), ("x", 1, None))],
        [helper.make_tensor_value_info(n, k, s) for n, k, s in (("on", 9, []), ("y", 1, None))],
    )
    file = hostile(tmp_path, helper.make_node("Loop", ["one", "yes", "a"], ["z"], body=turn), initializers=[one, yes])
    with pytest.raises(UserError, match="cannot be run: one batch takes more than 1 s of processor time to be read"):
        first_outputs(read(file), np.ones((2, 4), np.float32))


def test_weights_beside_the_file_count_in_its_limits(tmp_path):
    weights = onnx.numpy_helper.from_array(np.ones((4, 2**18), np.float32), "w")
    hostile(tmp_path, helper.make_node("MatMul", ["a", "w"], ["z"]), initializers=[weights])
    model = onnx.load(str(tmp_path / "h.onnx"))
    onnx.save(model, str(tmp_path / "e.onnx"), save_as_external_data=True, location="e.data")
    assert from_onnx.external_bytes(str(tmp_path / "e.onnx")) == 2**22
    assert first_outputs(read(tmp_path / "e.onnx"), np.ones((2, 4), np.float32))[0].shape == (2, 2**18)
