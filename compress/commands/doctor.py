"""compress doctor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import click

PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "brevitas",
    "torch-pruning",
    "accelerate",
    "safetensors",
    "scikit-learn",
)


@click.command()
def doctor() -> int:
    """Versions, hardware, runtimes, and why one is missing. Exit code 1 when nothing can run here."""
    from deploy.engines import engine, engines
    from profiles.device import facts, load

    here = facts()
    memory = here.memory_bytes / 2**30
    click.echo(f"system      {here.system}, Python {platform.python_version()}")
    click.echo(f"processor   {here.processor} ({here.arch}), {here.cores} core(s), {memory:.0f} GiB")
    wanted = ("avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "asimddp", "i8mm", "bf16")
    click.echo(f"for int8    {', '.join(f for f in wanted if f in here.flags) or 'nothing special'}")
    click.echo(f"cuda        {_cuda()}")
    for package in PACKAGES:
        click.echo(f"{package:<15} {_version(package)}")
    able = {name: engine(name).affinity() for name in engines()}
    for name, affinity in able.items():
        state = f"can run, {affinity.version}" if affinity.score >= 0 else f"cannot run: {affinity.reason}"
        click.echo(f"engine {name:<12} {state}")
        for fact, value in affinity.machine.items():
            click.echo(f"    {fact:<20} {value or 'unknown'}")
    for runtime in load("cpu").runtimes:
        click.echo(f"device cpu, {runtime.engine}: {', '.join(runtime.precisions)} ({runtime.quantization or 'no int8'})")
    return 0 if any(affinity.score >= 0 for affinity in able.values()) else 1


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"missing; pip install {package}"


def _cuda() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown without torch"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
