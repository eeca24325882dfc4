"""The profiles that come with the product: every figure has its source, every derived one is what its formula gives."""

import re

import pytest

from deploy.engines import ENGINES, engine
from deploy.latency.roofline import calibrations
from profiles import device
from profiles.facts import jetpack_table
from profiles.figures import KINDS, evaluate_formula
from profiles.quantization import QUANTIZATION
from profiles.toml import read_toml

BOARDS = [name for name in device.names() if device.stated_facts(name)]
WANTED = {
    "cpu",
    "intel-n100",
    "jetson-agx-orin-32gb",
    "jetson-agx-orin-64gb",
    "jetson-agx-thor-t5000",
    "jetson-agx-xavier-32gb",
    "jetson-nano-4gb",
    "jetson-orin-nano-4gb",
    "jetson-orin-nano-8gb",
    "jetson-orin-nx-16gb",
    "jetson-orin-nx-8gb",
    "jetson-xavier-nx",
    "pixel-8",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "rk3588",
    "snapdragon-8-gen-3",
    "x86-avx2",
    "x86-avx512-vnni",
}
# Dense int8 and fp16 operations a cycle and SM, and what tells the generation: kept apart from the profiles' own formulas.
GENERATIONS = {"orin": (4096, 2048), "xavier": (2048, 1024)}
TOTALS = {  # sparse TOPS of GPU and DLA together, as advertised
    "jetson-agx-orin-64gb": 275,
    "jetson-agx-orin-32gb": 200,
    "jetson-orin-nx-16gb": 157,
    "jetson-orin-nx-8gb": 117,
    "jetson-orin-nano-8gb": 67,
    "jetson-orin-nano-4gb": 34,
}


def test_the_library_has_every_device_that_is_promised():
    assert set(device.names()) >= WANTED


def test_every_engine_recipe_and_calibration_that_a_profile_names_is_there():
    for name in device.names():
        for runtime in read_toml(device.FOLDER / f"{name}.toml")["runtime"]:
            assert runtime["engine"] in ENGINES, name
            entries = runtime.get("quantization", [])
            assert {e if isinstance(e, str) else e["name"] for e in entries} <= set(QUANTIZATION), name
            assert set(runtime.get("estimate", [])) <= set(calibrations()), name
        for resolved in device.load(name).runtimes:
            assert set(resolved.precisions) <= set(engine(resolved.engine).precisions), f"{name} {resolved.engine}"


@pytest.mark.parametrize("name", BOARDS)
def test_every_derived_figure_is_what_its_formula_gives(name):
    units = device.load(name).units
    for unit, figures in units.items():
        for key, figure in figures.items():
            where = f"{name} {unit} {key}"
            assert figure.kind in KINDS and len(figure.source) > 5, where
            if figure.formula:
                assert figure.value == pytest.approx(evaluate_formula(figure.formula, figures), rel=0.01), where
            if figure.kind == "unverified":
                assert not re.search("data sheet|measured", figure.source), f"{where}: a source that would verify it"


@pytest.mark.parametrize("name", [n for n in BOARDS if "orin" in n or "xavier" in n])
def test_jetson_peaks_follow_from_multiprocessors_and_clock(name):
    gpu = device.load(name).units["gpu"]
    int8, fp16 = GENERATIONS["orin" if "orin" in name else "xavier"]
    cycles = gpu["sms"].value * gpu["clock_ghz"].value / 1000
    assert gpu["int8_tops"].value == pytest.approx(int8 * cycles, rel=0.005)
    assert gpu["fp16_tflops"].value == pytest.approx(fp16 * cycles, rel=0.005)


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_peaks_add_up_to_what_is_advertised(name):
    units = device.load(name).units
    dense = units["gpu"]["int8_tops"].value + (units["dla"]["int8_tops"].value if "dla" in units else 0.0)
    assert 2 * dense == pytest.approx(TOTALS[name], rel=0.02)


@pytest.mark.parametrize("name", [n for n in BOARDS if n.startswith("jetson")])
def test_a_jetson_states_modes_by_name_and_its_releases(name):
    profile = device.load(name)
    assert len({mode.name for mode in profile.power_modes}) == len(profile.power_modes) >= 2
    assert sum(mode.default for mode in profile.power_modes) == 1
    assert set(profile.jetpack) <= {release["jetpack"] for release in jetpack_table()}
    assert profile.jetpack
    gpu = profile.units["gpu"]
    for mode in profile.power_modes:
        assert (mode.sms or 0) <= gpu["sms"].value, f"{name} {mode.name}"
        assert (mode.gpu_mhz or 0) <= 1000 * gpu.get("clock_ghz", gpu["sms"]).value + 5, f"{name} {mode.name}"


@pytest.mark.parametrize("name", BOARDS)
def test_what_a_profile_states_of_its_board_agrees_with_its_figures(name):
    board, profile = device.stated_facts(name), device.load(name)
    assert profile.arch[0] in ("aarch64", "x86_64") and board.cores >= 1
    if "memory" in profile.units:
        assert board.memory_bytes / 2**30 == profile.units["memory"]["capacity_gib"].value
        assert "bandwidth_gb_s" in profile.units["memory"]
    for runtime in profile.runtimes:
        assert runtime.precisions
        assert runtime.unit in profile.units


def test_a_board_is_resolved_by_its_own_flags_and_not_by_this_machines():
    assert device.load("raspberry-pi-5").runtime("onnxruntime").quantization == "arm-dotprod"
    assert device.load("raspberry-pi-4").runtime("onnxruntime").precisions == ("fp32",)
    assert device.load("x86-avx512-vnni").runtime("openvino").quantization == "x86-vnni"
    assert device.load("x86-avx2").runtime("openvino").quantization == "x86-no-vnni"
    assert device.load("rk3588").threads == 4 and device.load("raspberry-pi-5").threads == 4


def test_a_connected_board_has_the_last_word():
    said = device.stated_facts("raspberry-pi-5")
    old = device.Facts(**{**vars(said), "flags": said.flags - {"asimddp"}, "cores": 2, "memory_bytes": 2**30})
    assert device.load("raspberry-pi-5", old).runtime("onnxruntime").precisions == ("fp32",)
    warnings = device.contradictions("raspberry-pi-5", old, "pi")
    assert "asimddp" in warnings[0] and "2 can be used" in warnings[1] and "the device has 1.0 GiB" in warnings[2]
    assert device.contradictions("raspberry-pi-5", said, "pi") == []


def test_another_board_and_another_architecture():
    said = device.stated_facts("raspberry-pi-5")
    other = device.Facts(**{**vars(said), "model": "Radxa ROCK 5B"})
    assert "says it is a Radxa ROCK 5B" in device.contradictions("raspberry-pi-5", other, "pi")[0]
    arm64 = device.Facts(**{**vars(said), "arch": "arm64"})
    assert device.contradictions("raspberry-pi-5", arm64, "pi") == [], "macOS's word for aarch64"
    with pytest.raises(device.UserError, match="wrong architecture: pi is x86_64 .*; profile raspberry-pi-5 is for aarch64"):
        device.contradictions("raspberry-pi-5", device.Facts(**{**vars(said), "arch": "x86_64"}), "pi")
    assert device.contradictions("cpu", said, "pi") == [], "found out, not stated"
