"""Comparison of this machine with a bundle's target."""

from __future__ import annotations

import platform

from deploy.bundle.manifest import Target
from deploy.engines import engine, engines
from deploy.engines.base import BuildPlan
from deploy.engines.cuda import detect_compute_capability

SPELLINGS = {"amd64": "x86_64", "arm64": "aarch64"}


def here(plan: BuildPlan) -> Target:
    """Describe this machine as the target of ``plan``."""
    return Target(
        arch=platform.machine(),
        system=platform.system(),
        engine=plan.engine,
        precision=plan.precision,
        runtime_version=plan.version,
        compute_capability=detect_compute_capability() if plan.engine == "tensorrt" else None,
    )


def mismatches(target: Target) -> list[str]:
    """Return why a bundle for ``target`` is not for this machine; empty where it is."""
    faults = []
    if _arch(target.arch) != _arch(platform.machine()):
        faults.append(f"it was made for {target.arch}; this device is {platform.machine()}")
    if target.system != platform.system():
        faults.append(f"it was made for {target.system}; this device runs {platform.system()}")
    if target.compute_capability is not None and target.compute_capability != detect_compute_capability():
        faults.append(
            f"it was made for a GPU of compute capability {target.compute_capability}; "
            f"this device has {detect_compute_capability() or 'none'}"
        )
    return faults + _runtime_mismatches(target)


def _runtime_mismatches(target: Target) -> list[str]:
    if target.engine not in engines():
        return [f"it needs the engine {target.engine!r}; this device knows {', '.join(sorted(engines()))}"]
    able = engine(target.engine).affinity()
    if able.score < 0:
        return [f"its engine {target.engine} cannot run on this device: {able.reason}"]
    if able.version.split(".")[0] != target.runtime_version.split(".")[0]:
        return [
            f"it was proven with {target.engine} {target.runtime_version}; this device has {able.version}: "
            f"install {target.runtime_version} here, or run compress for this device again"
        ]
    return []


def _arch(name: str) -> str:
    return SPELLINGS.get(name.lower(), name.lower())
