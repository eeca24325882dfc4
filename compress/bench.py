"""What ``compress bench`` times: each file in each engine asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.engines import engine
from deploy.engines.base import PLAN_FILE
from deploy.remote import RemoteWorker
from profiles.device import DeviceProfile
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
    if faults:
        raise UserError(*faults)
    found: dict[str, Prepare] = {}
    for number, model in enumerate(models):
        if (model / PLAN_FILE).is_file():
            found[f"{model}"] = _opener(model)
            continue
        for runtime in runtimes:
            plan = engine(runtime.engine).plan(profile, precision, versions[runtime.engine])
            folder = scratch / f"{number}-{runtime.engine}"
            found[f"{model} {runtime.engine} {precision}"] = _builder(model, plan, folder)
    return found


def _builder(model: Path, plan: Any, folder: Path) -> Prepare:
    def prepare(worker: RemoteWorker) -> Mapping[str, Any]:
        worker.build(model, plan, folder)
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
