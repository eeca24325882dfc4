"""What a board's files say, read from the files of real boards; and that nothing breaks where a file is missing."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from profiles import parsers
from profiles.facts import Facts, facts, jetpack_table
from profiles.peaks import cpu_peaks
from profiles.remedies import remedy
from tests.conftest import ROOT
from tests.profiles import boards


def test_flags_are_those_that_every_core_has():
    assert "erms" not in parsers.cpu_flags(boards.X86_CPUINFO, "x86_64")
    assert {"avx2", "fma"} <= parsers.cpu_flags(boards.X86_CPUINFO, "x86_64")
    assert "ssbs" not in parsers.cpu_flags(boards.RK3588_CPUINFO, "aarch64"), "the small cores have it not"
    assert "asimddp" in parsers.cpu_flags(boards.ORIN_CPUINFO, "aarch64")
    assert "asimddp" not in parsers.cpu_flags(boards.PI4_CPUINFO, "aarch64")
    assert parsers.cpu_flags("", "aarch64") == frozenset()
    assert parsers.cpu_flags(boards.X86_CPUINFO, "aarch64") == frozenset(), "an emulator that shows its host"


def test_names_and_clocks():
    assert parsers.cpu_name(boards.X86_CPUINFO) == "AMD EPYC 7763 64-Core Processor"
    assert parsers.cpu_name(boards.PI4_CPUINFO) == "Raspberry Pi 4 Model B Rev 1.4"
    assert parsers.cpu_name(boards.ORIN_CPUINFO) == ""
    assert parsers.cpu_mhz(boards.X86_CPUINFO) == 3243.018
    assert parsers.cpu_mhz(boards.ORIN_CPUINFO) is None
    assert parsers.board_model("Raspberry Pi 5 Model B Rev 1.0\0") == "Raspberry Pi 5 Model B Rev 1.0"
    assert parsers.system_name('PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"') == "Ubuntu 22.04.5 LTS"


def test_cores_are_told_by_implementer_and_part():
    assert parsers.cpu_cores(boards.RK3588_CPUINFO) == ["0x41:0xd05"] * 4 + ["0x41:0xd0b"] * 4
    assert parsers.cpu_cores(boards.X86_CPUINFO) == []
    told = replace(A_BOARD, core_ids={"0x41:0xd05": 4, "0x41:0xd0b": 4, "0x99:0x001": 1})
    assert told.core_names == {"Cortex-A55": 4, "Cortex-A76": 4, "0x99:0x001": 1}


@pytest.mark.parametrize(
    ("text", "release", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "36.4.3", "6.2"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64", "35.4.1", "5.1"),
        ("# R32 (release), REVISION: 6.1, GCID: 27863751, BOARD: t186ref, EABI: aarch64", "32.6.1", "4.6"),
        ("# R36 (release), REVISION: 4.9, GCID: 1", "36.4.9", "6.2"),  # in no table: the nearest of 36.4
        ("# R39 (release), REVISION: 2.0, GCID: 1", "39.2.0", "7.2"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", None),
        ("", "", None),
    ],
)
def test_the_jetpack_of_a_release(text, release, jetpack):
    assert parsers.l4t(text) == release
    found = replace(A_BOARD, l4t=release).jetpack
    assert (found and found["jetpack"]) == jetpack


def test_a_release_is_listed_once():
    listed = [release for entry in jetpack_table() for release in entry["l4t"]]
    assert len(listed) == len(set(listed))


def test_power_modes_are_named_in_the_order_of_their_ids():
    assert parsers.power_modes(boards.NVPMODEL_CONF) == ("15W", "25W", "MAXN_SUPER")
    assert parsers.power_mode(boards.NVPMODEL_QUERY) == "MAXN_SUPER"
    assert parsers.power_mode("NV Power Mode: 15W\n0\n") == "15W"
    assert parsers.power_mode("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13") == ""


A_BOARD = Facts(arch="aarch64", processor="x", cores=4, memory_bytes=0, flags=frozenset({"aarch64"}), system="Linux")


def test_an_orin_nano_tells_what_it_is(tmp_path):
    there = facts(boards.orin_nano(tmp_path))
    assert there.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert there.core_names == {"Cortex-A78AE": 6}
    assert there.core_mhz == {"0x41:0xd42": 1728}
    assert (there.l4t, there.jetpack["jetpack"], there.jetpack["tensorrt"]) == ("36.4.3", "6.2", ["10.3"])
    assert (there.power_modes, there.governor) == (("15W", "25W", "MAXN_SUPER"), "schedutil")
    assert there.release == "Ubuntu 22.04.5 LTS"
    assert Facts.from_json(json.loads(json.dumps(there.as_json()))) == there


def test_a_machine_without_any_of_these_files_still_answers(tmp_path):
    there = facts(tmp_path)
    assert there.cores >= 1 and there.arch and there.processor
    assert (there.model, there.l4t, there.power_modes, there.core_ids, there.jetpack) == ("", "", (), {}, None)


def test_facts_of_another_release_are_read(tmp_path):
    said = {**A_BOARD.as_json(), "something_new": 1}
    assert Facts.from_json(said) == A_BOARD


def test_the_device_command_prints_facts():
    done = subprocess.run([sys.executable, "-m", "deploy", "facts"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Facts.from_json(json.loads(done.stdout)["device"]).cores >= 1


def test_peaks_by_hand():
    rk3588 = replace(
        A_BOARD,
        cores=8,
        flags=frozenset({"asimddp", "asimdhp"}),
        core_ids={"0x41:0xd0b": 4, "0x41:0xd05": 4},
        core_mhz={"0x41:0xd0b": 2400, "0x41:0xd05": 1800},
    )
    found = cpu_peaks(rk3588)
    assert found["fp32_tflops"].value == pytest.approx((4 * 2.4 * 16 + 4 * 1.8 * 8) / 1000, abs=1e-4)
    assert found["int8_tops"].value == pytest.approx((4 * 2.4 * 64 + 4 * 1.8 * 32) / 1000, abs=1e-4)
    assert "4 x Cortex-A76 at 2400 MHz" in found["int8_tops"].source
    assert "int8_tops" not in cpu_peaks(replace(rk3588, flags=frozenset())), "no dot products, no figure"
    assert cpu_peaks(replace(rk3588, core_mhz={})) == {}
    assert cpu_peaks(replace(rk3588, core_ids={"0x99:0x001": 8}, core_mhz={"0x99:0x001": 1000})) == {}
    epyc = replace(A_BOARD, arch="x86_64", cores=2, flags=frozenset({"avx2"}), core_mhz={"": 2445})
    assert cpu_peaks(epyc)["fp32_tflops"].value == pytest.approx(2 * 2.445 * 32 / 1000, abs=1e-4)


@pytest.mark.parametrize(
    ("engine", "of", "words"),
    [
        ("tensorrt", {"l4t": "36.4.3"}, "python3-libnvinfer"),
        ("tensorrt", {"l4t": "36.4.3"}, "never pip install tensorrt"),
        ("tensorrt", {"l4t": "35.4.1"}, "3.8 is too old for the device side, which needs 3.10"),
        ("tensorrt", {}, "no Jetson Linux is here"),
        ("tensorrt", {"arch": "x86_64"}, "needs an NVIDIA GPU"),
        ("onnxruntime", {"l4t": "36.4.3"}, "PyPI has no GPU build for Jetson"),
        ("openvino", {}, "glibc 2.35 or newer"),
        ("ncnn", {}, "to run it: pip install ncnn; to make its files, on the host: pip install 'edge-compress[ncnn]'"),
        ("litert", {"arch": "x86_64"}, "to run it: pip install ai-edge-litert"),
        ("executorch", {"system": "Android 14"}, "AAR"),
    ],
)
def test_how_to_get_a_runtime_depends_on_the_platform(engine, of, words):
    assert words in remedy(engine, replace(A_BOARD, **of))


def test_a_jetpack_that_is_new_enough_is_not_called_too_old():
    assert "too old" not in remedy("tensorrt", replace(A_BOARD, l4t="36.4.3"))
