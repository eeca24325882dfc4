from dataclasses import replace

import pytest

from profiles import device
from profiles.errors import UserError

X86 = device.Facts(arch="x86_64", processor="x", cores=4, memory_bytes=0, flags=frozenset({"x86_64"}), system="Linux")


def test_what_the_processor_cannot_do_is_left_out():
    plain = device.load("cpu", X86)
    assert plain.runtime("openvino").precisions == ("fp32", "int8")
    assert plain.runtime("openvino").quantization == "x86-no-vnni"
    able = device.load("cpu", replace(X86, flags=X86.flags | {"avx512_vnni", "avx512_bf16"}))
    assert able.runtime("openvino").precisions == ("fp32", "bf16", "int8")
    assert able.runtime("openvino").quantization == "x86-vnni"


def test_a_runtime_without_a_recipe_has_no_int8():
    arm = device.load("cpu", replace(X86, arch="aarch64", flags=frozenset({"aarch64", "asimd"})))
    assert arm.runtime("onnxruntime").precisions == ("fp32",)


def test_every_profile_reads_and_survives_json():
    for name in device.names():
        profile = device.load(name)
        assert device.DeviceProfile.from_json(profile.as_json()) == profile


def test_unknown_device_names_the_nearest():
    with pytest.raises(UserError, match="unknown device 'cpuu' .did you mean 'cpu'"):
        device.load("cpuu")


def test_all_faults_of_a_profile_at_once():
    table = {"runtme": [], "runtime": [{"engine": "openvino", "precisions": ["fp23"], "quantization": ["x86"]}]}
    with pytest.raises(UserError) as caught:
        device.resolve("new", table, X86)
    assert len(caught.value.faults) == 3


def test_a_device_without_a_usable_runtime_says_why():
    profile = device.load("cpu", X86)
    with pytest.raises(UserError, match="not installed"):
        device.with_engines(profile, {r.engine: (False, "not installed") for r in profile.runtimes})
