"""The command line as a user meets it: processes, exit codes, what goes to which stream."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def test_help_loads_the_standard_library_and_click_alone():
    """0.1 s on a quiet machine, 0.3 asked; what takes the time is what is imported."""
    code = (
        "import sys; before = set(sys.modules); from compress.cli.main import entry; entry(['--help']); "
        "loaded = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(loaded - set(sys.stdlib_module_names)), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.strip() == "['click', 'compress', 'profiles']"


def test_listing_loads_no_runtime(compress_cli):
    import subprocess
    import sys

    code = "import sys, deploy.engines; print([m for m in ('torch', 'openvino', 'onnxruntime', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_starts_without_torchs_compiler():
    """It took half of the time until a command could say that a recipe is wrong."""
    import subprocess
    import sys

    code = "import sys, compress.api.run; print([m for m in ('torch._dynamo', 'brevitas', 'sympy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("profiles",), "cpu"),
        (("profiles", "cpu"), "openvino: fp32"),
        (("stages",), "prune: "),
        (("stages", "pack"), "pack: "),
        (("engines",), "onnxruntime"),
        (("losses",), "kd             Compute KL of softened class probabilities"),
        (("tasks",), "digits"),
        (("tasks",), "path, size = 224, short_side = 0"),
        (("doctor",), "processor"),
    ],
)
def test_what_exists_is_listed(compress_here, arguments, words):
    done = compress_here(*arguments)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--device", "cpuu"), "unknown device 'cpuu' (did you mean 'cpu'?)"),
        (("run", "--device", "cpu@shh://x"), "unknown kind of device 'shh'"),
        (("run", "digit"), "unknown recipe 'digit' (did you mean 'digits'?)"),
        (("run", "--until", "prun"), "the recipe has no such stage; it has distill, prune, low_rank, quantize"),
        (("run", "--out", "small.toml"), "small.toml is a file"),
        (("bench", "nothing.onnx"), "nothing.onnx: no such file"),
        (("bench", "small.toml", "--engine", "openvno"), "did you mean 'openvino'"),
        (("bench", "small.toml", "--precision", "int4"), "no engine of it runs 'int4' here"),
        (
            ("bench", "small.toml"),
            "small.toml: not an ONNX file (its content is another); of a PyTorch model `compress.export(",
        ),
        (("bench", "."), ".: a folder without an engine (engine.json); give an .onnx file"),
        (("report", "nowhere"), "no report.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(compress_here, small_recipe, arguments, words):
    done = compress_here(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.endswith(" s so far")]) == 1  # told on a busy machine
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_recipe_and_device_faults_come_together(compress_here):
    done = compress_here("run", "digit", "--device", "cpuu")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 2


def test_dry_run_prints_everything_and_touches_nothing(compress_here, small_recipe, tmp_path):
    done = compress_here("run", str(small_recipe), "--dry-run", "--until", "distill")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["stages"] == ["distill"]
    assert plan["recipe"]["stages"][1]["ranges"] == "best"
    assert {p["engine"] for p in plan["build_plans"]} == {"openvino", "onnxruntime"}
    assert [p.name for p in tmp_path.iterdir()] == ["small.toml"]


def test_dry_run_tells_what_a_run_would_end_at(compress_here, tmp_path):
    data = 'use = "images"\npath = "{path}"\nsize = {size}\n'
    teacher = '[teacher]\nmodel = "compress.models:resnet"\nweights = "none.pth"\n'
    for path, size, words in (("nowhere", 8, "nowhere is not a folder"), (".", -3, "from 1 to 65536; given: (-3, -3)")):
        text = f'[task]\nkind = "classification"\n[task.data]\n{data.format(path=path, size=size)}{teacher}'
        (tmp_path / "wrong.toml").write_text(text)
        done = compress_here("run", "wrong.toml", "--dry-run")
        assert done.returncode == 2 and done.stdout == "" and words in done.stderr, done.stderr
        assert "none.pth: no such file" in done.stderr and len(done.stderr.splitlines()) == 2, done.stderr


def test_a_bug_keeps_its_traceback(compress_cli, small_recipe, tmp_path):
    (tmp_path / "users_data.py").write_text("def data():\n    raise ZeroDivisionError('in the data')\n")
    small_recipe.write_text(small_recipe.read_text().replace("tests.conftest:blob_splits", "users_data:data"))
    done = compress_cli("run", str(small_recipe), env=_environment(tmp_path))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: in the data" in done.stderr


def test_an_interrupt_within_evaluated_code_is_exit_130_too(compress_cli, small_recipe, tmp_path):
    """CPython notes an interrupt that leaves an ``eval``, and under ``-m`` dies of SIGINT for it, though it was caught."""
    (tmp_path / "users_data.py").write_text("def stop():\n    raise KeyboardInterrupt\ndef data():\n    eval('stop()')\n")
    small_recipe.write_text(small_recipe.read_text().replace("tests.conftest:blob_splits", "users_data:data"))
    done = compress_cli("run", str(small_recipe), env=_environment(tmp_path))
    assert done.returncode == 130
    assert done.stderr.endswith("error: interrupted; the same command goes on from here\n")


MODELS = """
import torch
from torch import nn
class Airy(nn.Module):
    def forward(self, x):
        return torch.special.airy_ai(x)
def airy():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 4), Airy())
def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(99, 4))
def ten():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
"""


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("airy", "operator aten.special_airy_ai in module '2' has no ONNX form"),
        ("wide", "does not take the data's inputs of shape (2, 1, 16, 16)"),
        ("ten", "gives (2, 10) for two samples; classification of 4 classes reads (2, 4)"),
    ],
)
def test_a_model_that_will_not_do_is_told_before_anything_is_trained(compress_here, small_recipe, tmp_path, model, words):
    (tmp_path / "users_models.py").write_text(MODELS)
    text = small_recipe.read_text().replace("compress.models:resnet", f"users_models.py:{model}")
    lines = [line for line in text.splitlines() if not line.startswith(("arguments", "width"))]
    small_recipe.write_text("\n".join(lines))
    done = compress_here("run", str(small_recipe))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1


def test_weights_that_do_not_fit_are_told(compress_here, small_recipe, tmp_path):
    import torch

    torch.save({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "w.pth")
    small_recipe.write_text(small_recipe.read_text().replace("[student]", 'weights = "w.pth"\n[student]'))
    done = compress_here("run", str(small_recipe))
    assert done.returncode == 2
    assert "w.pth: missing bn1.bias" in done.stderr
    assert "conv1.weight is (3, 3); ResNet takes (16, 1, 3, 3)" in done.stderr


UNLABELLED = """
import numpy as np
from compress.data.base import ArraySamples
from dataclasses import replace
from tests.conftest import blob_splits
def data():
    splits = blob_splits()
    return replace(splits, train=ArraySamples(splits.train.images, np.full(128, -1)))
"""


@pytest.mark.slow
def test_unlabelled_data_is_enough_where_no_loss_reads_labels(compress_cli, small_recipe, tmp_path):
    from compress.models.checkpoint import save_tensors
    from tests.conftest import small_model

    (tmp_path / "users_data.py").write_text(UNLABELLED)
    text = small_recipe.read_text().replace("tests.conftest:blob_splits", "users_data:data")
    small_recipe.write_text(text)
    done = compress_cli("run", str(small_recipe), env=_environment(tmp_path))
    assert done.returncode == 2
    assert "teacher: the training data has no labels to train it on; give its weights" in done.stderr
    assert "stage distill: its loss 'task' needs labels" in done.stderr
    assert "stage quantize: its loss 'task' needs labels" in done.stderr
    save_tensors(tmp_path / "w.safetensors", small_model(width=1.0).state_dict())
    text = text.replace("[student]", 'weights = "w.safetensors"\n[student]').replace("epochs = 8", "epochs = 1")
    text = text.replace('use = "distill"', 'use = "distill"\nlosses = ["kd", "attention"]')
    small_recipe.write_text(text.replace('use = "quantize"', 'use = "quantize"\nlosses = ["kd"]'))
    done = compress_cli("run", str(small_recipe), env=_environment(tmp_path))
    assert done.returncode in (0, 3), done.stderr


def test_bench_times_files_against_each_other(compress_here, tmp_path):
    import numpy as np
    import onnx
    from onnx import helper

    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 64]) for n in ("input", "output")]
    for name, width in (("narrow", 64), ("wide", 16384)):  # 256 times the products
        weights = {"a": np.ones((64, width), np.float32), "b": np.ones((width, 64), np.float32)}
        constants = [onnx.numpy_helper.from_array(weight, one) for one, weight in weights.items()]
        nodes = [helper.make_node("MatMul", ["input", "a"], ["x"]), helper.make_node("MatMul", ["x", "b"], ["output"])]
        graph = helper.make_graph(nodes, name, values[:1], values[1:], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, tmp_path / f"{name}.onnx")
    done = compress_here("bench", "wide.onnx", "narrow.onnx", "--engine", "onnxruntime", "--seconds", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    p50 = {name.split(".")[0]: latency["p50"] for name, latency in found.items()}
    assert p50["narrow"] < p50["wide"]


def _environment(folder):
    import os

    from tests.conftest import ROOT

    return {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}


def test_keys_that_a_source_does_not_take_are_told(compress_here, small_recipe):
    text = small_recipe.read_text().replace('"tests.conftest:blob_splits"', '{ use = "digits", sead = 1 }')
    small_recipe.write_text(text)
    done = compress_here("run", str(small_recipe))
    assert done.returncode == 2
    assert "[task] data digits: unknown option 'sead' (did you mean 'seed'?)" in done.stderr


def test_shipping_needs_no_torch(tmp_path):
    import subprocess
    import sys

    from tests.conftest import ROOT

    code = "import sys; from compress.cli.main import entry; code = entry(['ship', 'none', '-d', 'local']); "
    code += "print(code, [m for m in ('torch', 'openvino', 'onnxruntime', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"
    assert "none: no manifest.json; no such folder" in done.stderr


@pytest.mark.parametrize("name", ["deploy", "calib", "profiles"])
def test_a_users_folder_that_hides_a_package_of_ours_is_told_in_a_line(compress_cli, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    done = compress_cli("--help")
    assert done.returncode == 2 and done.stdout == ""
    place = f"error: {tmp_path / name} hides edge-compress's own package {name!r}; start `compress` instead"
    assert done.stderr.startswith(place) and done.stderr.count("\n") == 1


def test_a_users_folder_without_code_hides_nothing(compress_cli, tmp_path):
    (tmp_path / "deploy").mkdir()
    assert compress_cli("--help").returncode == 0
