"""Remedies for a runtime that is missing on a device, where a plain ``pip install`` is wrong."""

from __future__ import annotations

from profiles.facts import Facts

OLDEST_PYTHON = (3, 10)
WHEELS = {"ncnn": "ncnn", "mnn": "MNN", "litert": "ai-edge-litert"}
MADE_BY = {
    "ncnn": "pip install 'edge-compress[ncnn]'",
    "mnn": "pip install 'edge-compress[mnn]'",
    "litert": "pip install 'edge-compress[litert]'",
}
"""Runtimes with files of their own: what a device needs, and what the host needs that makes the files."""
PROVIDERS = {
    "onnxruntime-cuda": "pip install onnxruntime-gpu, with CUDA and cuDNN, in the place of onnxruntime",
    "onnxruntime-tensorrt": "pip install onnxruntime-gpu, with CUDA and TensorRT, in the place of onnxruntime",
    "onnxruntime-openvino": "pip install onnxruntime-ep-openvino on Intel's hardware, beside onnxruntime",
    "onnxruntime-qnn": "pip install onnxruntime-qnn on Qualcomm's devices (Linux, Windows on Arm), beside onnxruntime",
    "onnxruntime-coreml": "pip install onnxruntime on a Mac has it; on iOS the app's build",
    "onnxruntime-nnapi": "the app brings it: the AAR com.microsoft.onnxruntime:onnxruntime-android",
    "onnxruntime-xnnpack": "no wheel on PyPI has it: builds for Android and iOS have, and one of your own (--use_xnnpack)",
    "onnxruntime-directml": "pip install onnxruntime-directml on Windows, in the place of onnxruntime",
}
"""What brings ONNX Runtime's execution providers."""


def remedy(engine: str, device: Facts) -> str:
    """Suggest what to do where ``engine`` cannot run on ``device``; empty when the engine's reason suffices."""
    if engine == "tensorrt":
        return _tensorrt(device)
    if engine == "onnxruntime" and device.l4t:
        return "pip install onnxruntime runs on the CPU; PyPI has no GPU build for Jetson: there the GPU is tensorrt's"
    if engine in PROVIDERS:
        return PROVIDERS[engine]
    if engine == "openvino" and _is_arm(device):
        return "pip install openvino: its aarch64 wheel runs fp32 and int8 (glibc 2.35 or newer: Debian 12, Ubuntu 22.04)"
    if engine in MADE_BY:
        return f"to run it: pip install {WHEELS[engine]}; to make its files, on the host: {MADE_BY[engine]}"
    if engine == "executorch" and device.system.startswith("Android"):
        return (
            "on a phone the app brings it: the AAR org.pytorch:executorch-android, or an executor_runner built with the NDK"
        )
    return ""


def _tensorrt(device: Facts) -> str:
    if device.l4t:
        release = device.jetpack
        python = str(release["python"]) if release else "the system's"
        words = (
            "take the JetPack's own: sudo apt-get install python3-libnvinfer, then a venv of the system's Python "
            f"({python}) made with --system-site-packages; never pip install tensorrt: PyPI's Arm wheel is for servers"
        )
        return f"{words}; {python} is too old for the device side, which needs 3.10" if _too_old(python) else words
    if _is_arm(device):
        return "it runs on NVIDIA devices alone, and no Jetson Linux is here (/etc/nv_tegra_release)"
    return "it needs an NVIDIA GPU and its driver; then: pip install tensorrt"


def _too_old(python: str) -> bool:
    numbers = python.split(".")
    return len(numbers) == 2 and all(n.isdigit() for n in numbers) and tuple(map(int, numbers)) < OLDEST_PYTHON


def _is_arm(device: Facts) -> bool:
    return device.arch in ("aarch64", "arm64")
