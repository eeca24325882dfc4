"""Parsers of a Linux board's text files. Every function takes text and touches nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

X86 = ("x86_64", "AMD64")


def cpu_blocks(cpuinfo: str) -> list[dict[str, str]]:
    """Parse ``/proc/cpuinfo`` into one dict per processor, without the lines of the whole board (Hardware, Model)."""
    blocks = [dict(_pair(line) for line in block.splitlines() if ":" in line) for block in re.split(r"\n\s*\n", cpuinfo)]
    return [block for block in blocks if "processor" in block]


def cpu_flags(cpuinfo: str, arch: str) -> frozenset[str]:
    """Parse the flags (x86) or Features (Arm) common to all cores: a thread may run on any.

    An emulator may show the file of its host: what is not of ``arch`` is left out.
    """
    key = "flags" if arch in X86 else "Features"
    each = [frozenset(block.get(key, "").split()) for block in cpu_blocks(cpuinfo)]
    return frozenset.intersection(*each) if each else frozenset()


def cpu_name(cpuinfo: str) -> str:
    """Parse the processor's or board's name; empty where the kernel has none (most Arm boards)."""
    blocks = cpu_blocks(cpuinfo)
    whole = dict(_pair(line) for line in cpuinfo.splitlines() if ":" in line)
    return (blocks[0].get("model name", "") if blocks else "") or whole.get("Model", "") or whole.get("Hardware", "")


def cpu_cores(cpuinfo: str) -> list[str]:
    """Parse the core of each Arm processor, in order, as implementer and part: ``0x41:0xd0b``."""
    blocks = cpu_blocks(cpuinfo)
    return [f"{b['CPU implementer']}:{b['CPU part']}" for b in blocks if {"CPU implementer", "CPU part"} <= set(b)]


def cpu_mhz(cpuinfo: str) -> float | None:
    """Parse the current clock of an x86 processor in MHz, the highest of all cores."""
    clocks = [float(block["cpu MHz"]) for block in cpu_blocks(cpuinfo) if "cpu MHz" in block]
    return max(clocks, default=None)


def l4t(nv_tegra_release: str) -> str:
    """Parse release and revision of ``/etc/nv_tegra_release``: ``36.4.3``; empty when there is none."""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", nv_tegra_release)
    return f"{match.group(1)}.{match.group(2)}" if match else ""


def jetpack(release: str, known: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Look up the JetPack of an L4T release: its own entry, else the last of the same major and minor number."""
    exact = [entry for entry in known if release in entry["l4t"]]
    near = [e for e in known if any(each.split(".")[:2] == release.split(".")[:2] for each in e["l4t"])]
    return exact[0] if exact else near[-1] if near else None


def power_mode(nvpmodel_query: str) -> str:
    """Parse the active mode from the output of ``nvpmodel -q``: a line ``NV Power Mode: 15W``, then its id."""
    match = re.search(r"NV Power Mode:\s*(\S+)", nvpmodel_query)
    return match.group(1) if match else ""


def power_modes(nvpmodel_conf: str) -> tuple[str, ...]:
    """Parse the names in ``/etc/nvpmodel.conf``, by id: lines ``< POWER_MODEL ID=0 NAME=15W >``."""
    lines = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", nvpmodel_conf, re.MULTILINE)
    return tuple(name for _, name in sorted((int(number), name) for number, name in lines))


def board_model(device_tree: str) -> str:
    """Strip ``/proc/device-tree/model`` of its final zero byte."""
    return device_tree.replace("\0", "").strip()


def system_name(os_release: str) -> str:
    """Parse ``PRETTY_NAME`` of ``/etc/os-release``."""
    match = re.search(r"^PRETTY_NAME=(.*)$", os_release, re.MULTILINE)
    return match.group(1).strip().strip("\"'") if match else ""


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()
