"""Checkpoints of PyTorch and ONNX files, mutated: read in a process of their own, or one line for each fault."""

import functools
import io
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from compress.models.foreign import load_foreign
from deploy.export.from_onnx import first_outputs, read
from deploy.latency.bench import onnx_fault
from deploy.latency.estimates import estimates
from profiles.device import load
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes

BOARD = load("raspberry-pi-5")


@functools.cache
def checkpoint(*, zipped):
    content = io.BytesIO()
    table = {"model": {"a.weight": torch.ones(3, 4), "b": torch.zeros(2).half()}, "epoch": 3, "names": ["a", ("b", 1.5)]}
    torch.save(table, content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


def repickled(content, rnd):
    """Mutate the pickle of an archive and leave the archive whole."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(result, "w") as archive:
        for name in source.namelist():
            part = source.read(name)
            archive.writestr(name, mutated_bytes(part, rnd) if name.endswith("data.pkl") else part)
    return result.getvalue()


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle in a zip"])
def test_checkpoints_of_pytorch(form, tmp_path):
    file, rnd, content = tmp_path / "w.pth", generator(f"pth {form}"), checkpoint(zipped=form != "legacy")

    def given(content):
        file.write_bytes(content)
        load_foreign(file)

    assert check(given, content) == ()
    for _ in range(inputs(30)):
        check(given, repickled(content, rnd) if form == "pickle in a zip" else mutated_bytes(content, rnd))


@functools.cache
def small_graph():
    """A graph of which most bytes are structure."""
    w = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["a", "w"], ["b"]), helper.make_node("Softmax", ["b"], ["z"], axis=-1)]
    values = [helper.make_tensor_value_info(n, 1, ("n", size)) for n, size in (("a", 4), ("z", 2))]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], [w])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()


def test_onnx_files(tmp_path):
    file, rnd, content = tmp_path / "m.onnx", generator("onnx"), small_graph()

    def bench(content):
        file.write_bytes(content)
        fault = onnx_fault(file)
        assert fault is None or "\n" not in fault

    def teacher(content):
        file.write_bytes(content)
        first_outputs(read(file), np.ones((2, 4), np.float32))

    def estimate(content):
        file.write_bytes(content)
        estimates([file], BOARD, None, None)

    assert check(bench, content) == check(teacher, content) == check(estimate, content) == ()
    for number in range(inputs(16)):
        mutated = mutated_bytes(content, rnd)
        check(bench, mutated)
        check(estimate, mutated)
        if number % 2 == 0:
            check(teacher, mutated)
