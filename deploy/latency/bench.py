"""What ``compress bench`` times: each file in each engine asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.engines import BuildPlan, engine
from deploy.engines.base import PLAN_FILE
from deploy.worker.client import RemoteWorker
from profiles.device import DeviceProfile, Runtime
from profiles.errors import UserError, unknown

Prepare = Callable[[RemoteWorker], Mapping[str, Any]]


def variants(
    models: Sequence[Path],
    profile: DeviceProfile,
    versions: Mapping[str, str],
    only: str | None,
    precision: str,
    scratch: Path,
) -> dict[str, Prepare]:
    """A function a variant that builds, opens and warms it in a worker; names are the files' and engines'.

    ``versions`` are the device's runtimes'.

    Raises:
        UserError: a file is missing, or the device has no such engine or precision; all at once.
    """
    names = [r.engine for r in profile.runtimes]
    faults = [f"{model}: no such file or engine folder" for model in models if not model.exists()]
    if only is not None and only not in names:
        faults.append(unknown("engine", only, names, f"device {profile.name}"))
    runtimes = [r for r in profile.runtimes if only in (None, r.engine) and precision in r.precisions]
    if not runtimes and not faults:
        faults.append(f"device {profile.name}: no engine of it runs {precision!r} here")
    elif not faults:
        faults += [_unbuildable(m, profile, precision) for m in models if not (_is_engine(m) or _takers(m, runtimes))]
    if faults:
        raise UserError(*faults)
    found: dict[str, Prepare] = {}
    for number, model in enumerate(models):
        if _is_engine(model):
            found[f"{model}"] = _opener(model)
            continue
        for runtime in _takers(model, runtimes):
            plan = engine(runtime.engine).plan(profile, precision, versions[runtime.engine])
            folder = scratch / f"{number}-{runtime.engine}"
            found[f"{model} {runtime.engine} {precision}"] = _builder(model, plan, folder)
    return found


def _is_engine(model: Path) -> bool:
    return (model / PLAN_FILE).is_file()


def _takers(model: Path, runtimes: Sequence[Runtime]) -> list[Runtime]:
    """The runtimes that build from such a file: an ONNX file, or ExecuTorch's program."""
    return [r for r in runtimes if (engine(r.engine).built_from == "program") == (model.suffix == ".pte")]


def _unbuildable(model: Path, profile: DeviceProfile, precision: str) -> str:
    wanted = "a .pte file" if model.suffix != ".pte" else "an ONNX file"
    return f"{model}: what device {profile.name} runs in {precision!r} is built from {wanted}"


def _builder(model: Path, plan: BuildPlan, folder: Path) -> Prepare:
    def prepare(worker: RemoteWorker) -> Mapping[str, Any]:
        given = model
        if plan.source == "onnx-fp16":
            import onnx

            from deploy.onnx_graph.half import half

            given = folder.with_suffix(".onnx")
            onnx.save(half(onnx.load(str(model))), str(given))
        worker.build(given, plan, folder)
        return _opener(folder)(worker)

    return prepare


def _opener(folder: Path) -> Prepare:
    def prepare(worker: RemoteWorker) -> Mapping[str, Any]:
        opened = worker.open(folder)
        rng = np.random.default_rng(0)
        worker.warm({i["name"]: _noise(rng, tuple(i["shape"]), i["dtype"]) for i in opened["inputs"]})
        return opened

    return prepare


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    if np.issubdtype(np.dtype(dtype), np.floating):
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
