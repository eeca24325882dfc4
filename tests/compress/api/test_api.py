"""The door for Python: the page that explains it is run, and so is every example in its docstrings."""

import ast
import doctest
import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import compress
from compress.api import run as run_module
from compress.data.arrays import split_arrays
from compress.execution.cache import steps_folder
from compress.models import given
from compress.models.factory import load_file
from compress.models.plan import PLAN
from profiles.errors import UserError
from tests.conftest import ROOT, blobs, small_model

PAGE = ROOT / "docs/python.md"


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """What the page's program leaves: its names, in the folder that it ran in."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tour")
        patch.chdir(folder)
        patch.setenv("EDGE_KEYS", str(folder / "no-keys"))
        (folder / "tour.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
        yield load_file(folder / "tour.py"), folder


def test_the_report_says_what_was_given(tour):
    made, folder = tour
    report = json.loads((folder / "runs/blobs-cpu/report.json").read_text())
    assert report["recipe"]["teacher"]["model"].startswith("given:Net-")
    assert report["recipe"]["student"]["model"].startswith("given:Net-")
    assert report["recipe"]["stages"][0]["losses"][1]["use"].startswith("given:gap-")
    assert report["recipe"]["task"] == {"kind": "classification"}
    assert json.loads(json.dumps(made.report.as_json()["verdict"])) == report["verdict"]
    assert {row["stage"] for row in report["rows"]} >= {"distill"}


def test_modules_are_dropped_when_the_run_ends(tour):
    made, folder = tour
    with pytest.raises(UserError, match="given in Python"):
        given.resolve(json.loads((folder / "runs/blobs-cpu/model" / PLAN).read_text())["factory"])


def test_the_loaded_student_is_what_the_run_measured(tour):
    made, folder = tour
    student = compress.load(folder / "runs/blobs-cpu", module=made.Net(8))
    row = next(row for row in made.report.rows if row.kind == "student" and row.precision == "fp32")
    batch = next(made.splits.test.batches(1000))
    with torch.no_grad():
        right = (student(torch.from_numpy(batch.inputs)).argmax(1).numpy() == batch.targets).mean()
    assert 100 * right == pytest.approx(row.metric.value)


def test_the_same_call_again_makes_nothing_anew(tour, capsys):
    made, _ = tour
    steps = sorted(path.name for path in steps_folder().iterdir())
    stages = [
        compress.Distill(student=made.small, epochs=8, batch_size=32, losses=["task", {"use": made.gap, "weight": 0.5}]),
        compress.Quantize(epochs=0),
    ]
    settings = {"measure": {"seconds": 0.1, "gate_seconds": 0.1}, "accuracy_drop_points": 5.0, "name": "blobs"}
    settings |= {"engines": ["onnxruntime"]}
    again = compress.run(teacher=made.teacher, data=made.splits, stages=stages, **settings)
    assert sorted(path.name for path in steps_folder().iterdir()) == steps
    assert again.rows == made.report.rows


def test_int8_is_close_to_the_module_and_exports_with_pairs(tour):
    made, folder = tour
    import onnx

    with torch.no_grad():
        x = torch.from_numpy(made.images[64:128])
        agree = (made.int8(x).argmax(1) == made.teacher(x).argmax(1)).float().mean()
    assert agree > 0.95
    operators = [node.op_type for node in onnx.load(str(folder / "int8.onnx")).graph.node]
    assert operators.count("DequantizeLinear") > 3
    assert "DequantizeLinear" not in [node.op_type for node in onnx.load(str(folder / "teacher.onnx")).graph.node]
    assert sum(p.numel() for p in made.narrow.parameters()) < 0.8 * sum(p.numel() for p in made.teacher.parameters())


PUBLIC = [
    *(name for name, module in compress.NAMES.items() if module.startswith("compress.api.")),
    "bench",
    "check",
    "split_arrays",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_example_runs(tour, name, monkeypatch):
    made, _ = tour
    names = {"compress": compress, "torch": torch, "np": np}
    names |= {key: getattr(made, key) for key in ("teacher", "small", "gap", "splits", "samples", "images", "labels")}
    (tests,) = [
        test
        for test in doctest.DocTestFinder(recurse=False).find(getattr(compress, name), name, globs=names)
        if test.examples or pytest.fail(f"{name} has no example")
    ]
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL).run(tests)
    assert results.failed == 0 and results.attempted > 0


def test_import_loads_no_torch_and_every_name_resolves():
    code = (
        "import sys, compress; print([m for m in ('torch', 'onnx', 'numpy', 'rich') if m in sys.modules]); "
        "assert set(compress.__all__) <= set(dir(compress)); [getattr(compress, n) for n in compress.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        compress.distil  # noqa: B018


def test_what_editors_see_is_what_there_is():
    tree = ast.parse(inspect.getsource(compress))
    (guarded,) = [n for n in tree.body if isinstance(n, ast.If)]
    assert {n.names[0].name: n.module for n in guarded.body} == compress.NAMES


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compress.run(), "teacher is missing.*\n.*data is missing"),
        (lambda: compress.run("digits", data="digits"), "a recipe says it all; leave out data"),
        (lambda: compress.run("digit", device="cpuu"), "unknown recipe 'digit'.*\nunknown device 'cpuu'"),
        (lambda: compress.run(teacher=7, data="digits"), "teacher is an nn.Module"),
        (lambda: compress.run(teacher="compress.models:resnet20", data=7), "data: train is a Splits, a pair"),
        (
            lambda: compress.run(teacher="compress.models:resnet20", data="digits", stages=["prun"]),
            "unknown stage 'prun' .did you mean 'prune'",
        ),
        (lambda: compress.Prune(ratio=1.5), "prune ratio: Input should be less than 1; given: 1.5"),
        (lambda: compress.load("nowhere"), "nowhere: no surgery.json"),
        (lambda: compress.bench(["nothing.onnx"]), "nothing.onnx: no such file"),
        (lambda: compress.quantize(small_model(), np.zeros((4, 3, 16, 16))), "ResNet does not take samples of shape"),
        (lambda: compress.quantize(small_model(), np.zeros((1, 1, 16, 16))), "two or more are needed; given: 1"),
        (lambda: compress.quantize(small_model(), ["a"]), "samples: numbers of shape"),
        (lambda: compress.quantize(small_model(), np.zeros((4, 1, 16, 16)), ranges="best"), "without labels to judge by"),
    ],
)
def test_errors_are_those_of_the_command_line(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        call()


def test_a_dataset_and_pairs_are_split_alike():
    samples = blobs(40)
    pair = (samples.images, samples.labels)
    dataset = TensorDataset(torch.from_numpy(samples.images), torch.from_numpy(samples.labels))
    splits = split_arrays({"train": pair}, validation=8, test=0.25)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [22, 8, 10]
    assert splits.classes == ("0", "1", "2", "3")
    assert split_arrays({"train": dataset}, validation=8, test=0.25).fingerprint() == splits.fingerprint()
    whole = split_arrays({"train": pair, "test": pair})
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (36, 4, 40)


def test_images_of_bytes_are_normalised_by_the_training_images():
    images = np.full((20, 1, 4, 4), 51, np.uint8)
    images[::2] = 204
    splits = split_arrays({"train": (images, np.zeros(20, int)), "test": (images, np.zeros(20, int))})
    values = splits.test.load(np.arange(2)).inputs
    held = images[:0]
    assert held.size == 0 and values.dtype == np.float32
    # 0.8 and 0.2 around their mean, by a deviation of at most 0.3
    assert values[0].mean() > 0.9 and values[1].mean() < -0.9


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"test": (1, 2)}, "its parts are train"),
        ({"train": (np.zeros((3, 2)), np.zeros(4))}, "as many labels as inputs"),
        ({"train": [(np.zeros(2), 1), (np.zeros(3), 1), (np.zeros(2), 0)]}, "of one shape"),
    ],
)
def test_parts_that_cannot_be_split_are_refused(parts, words):
    with pytest.raises(UserError, match=words):
        split_arrays(parts)


def test_both_forms_of_a_run_take_the_same_options():
    """What is typed for one device and for several is what ``run`` takes, but for what only one of the forms has."""
    taken = set(inspect.signature(run_module.run).parameters) - {"recipe", "device", "train_each"}
    assert set(run_module.RunOptions.__annotations__) == taken
