"""compress doctor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from profiles.device import Facts

WANTED = ("avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "asimddp", "i8mm", "bf16")

GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-ctrl-gpu", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
"""A driver of a GPU that PyTorch can use has one of these: NVIDIA, Jetson, AMD, WSL."""

PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "brevitas",
    "accelerate",
    "safetensors",
    "scikit-learn",
)


@click.command()
@click.option("--device", "-d", default="local", show_default=True, metavar="URL", help="The device to look at.")
def doctor(device: str) -> int:
    """Show versions, hardware, runtimes, and why one is missing. Exit code 1 when nothing can run there."""
    from compress.pipeline.target import device_facts
    from deploy.devices import device as device_at
    from profiles.device import load
    from profiles.remedies import remedy

    at = device_at(device)
    try:
        there, usable = device_facts(at)
    finally:
        at.close()
    _tell_device(there)
    if device == "local":
        click.echo(f"cuda        {_cuda()}")
        for package in PACKAGES:
            click.echo(f"{package:<15} {_version(package)}")
    for name, able in usable.items():
        state = f"can run, version {able['version']}" if able["score"] >= 0 else f"cannot run: {able['reason']}"
        click.echo(f"engine {name:<20} {state}")
        if able["score"] < 0 and (words := remedy(name, there)):
            click.echo(f"{'':<28}there: {words}")
        for fact, value in able.get("machine", {}).items():
            click.echo(f"    {fact:<20} {value or 'unknown'}")
    if device == "local":
        for runtime in load("cpu").runtimes:
            recipe = runtime.quantization or "no int8"
            click.echo(f"device cpu, {runtime.engine}: {', '.join(runtime.precisions)} ({recipe})")
    return 0 if any(able["score"] >= 0 for able in usable.values()) else 1


def _tell_device(there: Facts) -> None:
    cores = ", ".join(f"{count} x {name}" for name, count in there.core_names.items())
    memory_gib = there.memory_bytes / 2**30
    lines = {
        "system": ", ".join(word for word in (there.system, there.release, f"Python {there.python}") if word),
        "board": there.model,
        "processor": f"{cores or there.processor} ({there.arch}), {there.cores} core(s), {memory_gib:.0f} GiB",
        "for int8": ", ".join(flag for flag in WANTED if flag in there.flags) or "nothing special",
        "governor": there.governor,
        "jetpack": f"{there.jetpack['jetpack']} (Jetson Linux {there.l4t})" if there.jetpack else there.l4t,
        "power mode": f"{there.power_mode} of {', '.join(there.power_modes)}" if there.power_modes else there.power_mode,
    }
    for what, words in lines.items():
        if words:
            click.echo(f"{what:<11} {words}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"missing; pip install {package}"


def _cuda() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown without torch"
    if sys.platform == "linux" and not any(Path(file).exists() for file in GPU_FILES):
        return "none"  # without importing torch, which takes a second
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
