"""A profile made from what a board said reads back as that board, and as the profile of its kind where there is one."""

from dataclasses import replace

from profiles import device
from profiles.facts import Facts, facts
from profiles.figures import evaluate_formula
from profiles.write import DetectedRuntime, known_board, profile_toml
from tests.profiles import boards

ORT = DetectedRuntime(engine="onnxruntime", version="1.31.1", precisions=("fp32", "int8"))
TRT = DetectedRuntime(engine="tensorrt", version="10.3.0", precisions=("fp32", "fp16", "int8"))


def orin_nano(tmp_path, gib=7.3) -> Facts:
    said = facts(boards.orin_nano(tmp_path))
    flags = frozenset({"aarch64", "asimd", "asimddp", "fphp", "asimdhp", "crc32"})
    return replace(said, arch="aarch64", flags=flags, cores=6, memory_bytes=int(gib * 2**30))


def test_a_known_board_keeps_the_figures_of_its_kind(tmp_path):
    there = orin_nano(tmp_path / "root")
    path = tmp_path / "lab.toml"
    path.write_text(profile_toml("lab", there, [ORT, TRT], "ssh://lab"))
    made, like = device.load(str(path)), device.load("jetson-orin-nano-8gb")
    assert made.name == "lab"
    assert [runtime.engine for runtime in made.runtimes] == ["tensorrt", "onnxruntime"], "the faster first"
    assert made.runtime("tensorrt") == like.runtime("tensorrt")
    assert made.runtime("onnxruntime").quantization == "arm-dotprod"
    assert made.units["gpu"] == like.units["gpu"]
    assert evaluate_formula(made.units["gpu"]["int8_tops"].formula, made.units["gpu"]) > 33
    assert made.units["memory"]["capacity_gib"].value == 7.3
    assert made.units["memory"]["capacity_gib"].kind == "measured"
    assert {mode.name: mode.gpu_mhz for mode in made.power_modes} == {"15W": 612, "25W": 918, "MAXN_SUPER": 1020}
    assert made.jetpack == ("6.2",)
    assert "crc32" not in path.read_text(), "flags that decide nothing are left out"
    assert device.contradictions(str(path), there, "lab") == []


def test_memory_tells_boards_of_one_model_apart(tmp_path):
    assert known_board(orin_nano(tmp_path, 7.3)).name == "jetson-orin-nano-8gb"
    assert known_board(orin_nano(tmp_path, 3.4)).name == "jetson-orin-nano-4gb"
    assert known_board(replace(orin_nano(tmp_path), model="Acme Board 3")) is None


def test_an_unknown_board_gets_what_it_said_and_no_more(tmp_path):
    said = replace(
        orin_nano(tmp_path / "root"),
        model='Acme "Board" 3',
        l4t="",
        power_modes=("ECO",),
        core_ids={"0x41:0xd0b": 4},
        core_mhz={"0x41:0xd0b": 2400},
        flags=frozenset({"aarch64", "asimd"}),
    )
    path = tmp_path / "acme.toml"
    path.write_text(profile_toml("acme", said, [ORT], "ssh://acme"))
    made = device.load(str(path))
    assert made.title == 'Acme "Board" 3'
    assert made.runtime("onnxruntime").precisions == ("fp32",), "no dot products, no recipe, no int8"
    assert made.units["cpu"]["fp32_tflops"].kind == "derived"
    assert set(made.units["memory"]) == {"capacity_gib"}
    assert "look at this: bandwidth_gb_s is not known" in path.read_text()
    assert made.power_modes[0].gpu_mhz is None
