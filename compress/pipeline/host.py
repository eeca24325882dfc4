"""This machine beside a measurement: package versions, threads, frequency governor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compress.execution.cache import versions


def host_environment() -> dict[str, Any]:
    """Describe this machine beside a measurement: package versions, threads, frequency governor."""
    packages = ("torch", "onnx", "onnxruntime", "openvino", "brevitas", "numpy")
    return {"versions": versions(*packages), "torch_threads": torch.get_num_threads(), "governor": _governor()}


def _governor() -> str | None:
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return file.read_text().strip() if file.exists() else None
