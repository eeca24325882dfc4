"""compress profiles and bench --estimate as a user meets them."""

import json

import onnx
import pytest
from onnx import TensorProto, helper

from compress.cli.main import entry
from profiles import device


def test_one_is_explained_with_sources_and_how_sure_they_are(capsys):
    assert entry(["profiles", "jetson-orin-nano-8gb"]) == 0
    out = capsys.readouterr().out
    for words in (
        "tensorrt: fp16, int8, fp32 (on its gpu)",
        "33.42 TOP/s int8, dense",
        "derived    = sms * 4096 * clock_ghz / 1000",
        "published  NVIDIA's Orin Nano data sheet",
        "25W (default)          6 CPUs, 1340 MHz CPU, 8 SM, 918 MHz GPU",
        "JetPack 6.2: Jetson Linux 36.4.3 to 36.5.0, Ubuntu 22.04, Python 3.10, CUDA 12.6, TensorRT 10.3",
    ):
        assert words in out


def test_the_list_says_what_runs_here(capsys):
    assert entry(["profiles"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(device.names())
    assert lines["cpu"].endswith("runs here")
    if device.facts().arch == "x86_64":
        assert lines["raspberry-pi-5"].endswith("elsewhere (aarch64)")


def test_a_new_profile_of_this_machine_is_used_and_not_overwritten(compress_here, tmp_path, small_recipe):
    done = compress_here("profiles", "new", "mine", "--device", "local", "--no-race")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "mine.toml"
    made = device.load(str(tmp_path / "mine.toml"))
    assert {runtime.engine for runtime in made.runtimes} >= {"onnxruntime"}
    (tmp_path / "mine.toml").write_text((tmp_path / "mine.toml").read_text().replace("\nthreads = ", "\nthreads = 2 # "))
    again = compress_here("profiles", "new", "mine")
    assert again.returncode == 2
    assert again.stderr == "error: mine.toml is there already; give --force to replace it, or --out FILE\n"
    plan = compress_here("run", str(small_recipe), "--device", "mine.toml", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert {build["threads"] for build in json.loads(plan.stdout)["build_plans"]} == {2}
    assert json.loads(plan.stdout)["device"]["name"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("profiles", "cpuu"), "unknown device 'cpuu' (did you mean 'cpu'?)"),
        (("profiles", "cpu", "x86-avx2"), "one profile at a time"),
        (("profiles", "new"), "a new profile needs a name"),
        (("profiles", "new", "x", "--out", "x.yaml"), "a profile's file ends in .toml"),
        (("bench", "--estimate", "x.onnx", "--device", "nowhere.toml"), "nowhere.toml: No such file"),
        (("bench", "--estimate", "x.onnx", "--device", "cpu@ssh://x"), "--estimate asks no device"),
        (("bench", "--estimate", "x.onnx"), "x.onnx: no such file"),
        (("bench", "--estimate", "small.toml"), "small.toml: not an ONNX file"),
    ],
)
def test_mistakes_are_told_in_one_line(small_recipe, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(small_recipe.parent)
    assert entry(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert words in err


def test_all_mistakes_are_told_at_once(small_recipe, monkeypatch, capsys):
    monkeypatch.chdir(small_recipe.parent)
    assert entry(["bench", "--estimate", "small.toml", "x.onnx", "--precision", "int4"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [words for words in ("small.toml: not an ONNX", "x.onnx: no such", "'int4'") if words not in "".join(lines)] == []
    assert len(lines) == 3


@pytest.mark.skipif(device.facts().arch not in ("x86_64", "AMD64"), reason="the board must be another architecture")
def test_a_board_that_is_not_connected_is_not_this_machine(capsys):
    assert entry(["run", "--device", "raspberry-pi-5", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "this machine is x86_64" in said and "profile raspberry-pi-5 is for aarch64" in said


def test_an_estimate_is_labelled_everywhere(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], [0.0] * 64 * 64)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weight])), "m.onnx")
    assert entry(["bench", "--estimate", "m.onnx", "--device", "jetson-orin-nano-8gb"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("estimated, never measured: jetson-orin-nano-8gb")
    assert "estimated ms" in out and "calibrated on YOLO11" in out
    assert "no estimate of onnxruntime fp32" in out
    assert entry(["bench", "--estimate", "m.onnx", "--device", "x86-avx2", "--precision", "int8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "estimated"
    rows = found["models"]["m.onnx"]
    assert [(row["engine"], row["precision"]) for row in rows] == [("openvino", "int8"), ("onnxruntime", "int8")]
    assert all("p50" not in row and row["estimated_ms"] > 0 and "±" in row["error"] for row in rows)
