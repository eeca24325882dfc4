"""What a runtime is given in a profile, and profiles limited to named runtimes."""

from dataclasses import replace

import pytest

from profiles import device
from profiles.errors import UserError
from profiles.facts import Facts
from profiles.runtimes import runtime_on, with_named
from profiles.write import DetectedRuntime, profile_toml

FLAGS = frozenset({"aarch64", "asimd", "asimdhp", "asimddp"})
PI = Facts(arch="aarch64", processor="", cores=4, memory_bytes=4 << 30, system="Linux", flags=FLAGS)
PRECISIONS = {"onnxruntime": ("fp32", "int8"), "ncnn": ("fp32", "fp16", "bf16", "int8"), "mnn": ("fp32", "fp16", "int8")}


def test_a_processor_decides_precisions_and_recipe():
    assert runtime_on("ncnn", PRECISIONS["ncnn"], PI).precisions == ("fp32", "fp16", "int8"), "no bf16 arithmetic"
    assert runtime_on("ncnn", PRECISIONS["ncnn"], PI).quantization == "ncnn"
    old = replace(PI, flags=frozenset({"asimd"}))
    assert runtime_on("ncnn", PRECISIONS["ncnn"], old).precisions == ("fp32", "int8")
    assert runtime_on("onnxruntime", ("fp32", "int8"), old).precisions == ("fp32",), "no recipe without dot products"


def test_named_runtimes_stand_in_the_order_named_and_one_that_lacks_is_added():
    profile = device.load("x86-avx512-vnni")
    named = with_named(profile, ["ncnn", "onnxruntime"], PRECISIONS, PI)
    assert [runtime.engine for runtime in named.runtimes] == ["ncnn", "onnxruntime"]
    assert named.runtime("onnxruntime") == profile.runtime("onnxruntime")
    with pytest.raises(UserError) as told:
        with_named(profile, ["ncn", "mnn", "mnn"], PRECISIONS, PI)
    assert "'ncn'" in told.value.faults[0] and "did you mean 'ncnn'" in told.value.faults[0]
    assert told.value.faults[1:] == ("--engines: mnn is named twice",)


def test_a_raced_profile_has_the_order_of_the_race(tmp_path):
    found = [DetectedRuntime(engine=name, version="1", precisions=each) for name, each in PRECISIONS.items()]
    path = tmp_path / "pi.toml"
    path.write_text(profile_toml("pi", PI, found, "ssh://pi", {"mnn": "1.5 ms in int8", "ncnn": "2 ms in fp16"}))
    made = device.load(str(path))
    assert [runtime.engine for runtime in made.runtimes] == ["mnn", "ncnn", "onnxruntime"]
    assert "[[runtime]]  # 1.5 ms in int8" in path.read_text()
    path.write_text(profile_toml("pi", PI, found, "ssh://pi"))
    assert [runtime.engine for runtime in device.load(str(path)).runtimes] == ["onnxruntime", "ncnn", "mnn"]
