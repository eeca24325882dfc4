"""Variants of ``compress bench``: each file on each requested engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.engines import BuildPlan, ExportFormat, engine, export_format, exports
from deploy.engines.base import PLAN_FILE
from deploy.engines.exports import ONNX
from deploy.files.confined import ConfinedError, Limits, call
from deploy.worker.client import RemoteWorker
from profiles.device import DeviceProfile
from profiles.errors import UserError, unknown

IMPORTED_BY_READERS = ("onnx",)
Prepare = Callable[[RemoteWorker], Mapping[str, Any]]


def variants(
    models: Sequence[Path],
    profile: DeviceProfile,
    versions: Mapping[str, str],
    only: str | None,
    precision: str,
    scratch: Path,
) -> dict[str, Prepare]:
    """Return a function for each variant that builds, opens and warms it in a worker; names are the files' and engines'.

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
    plans = {r.engine: engine(r.engine).plan(profile, precision, versions[r.engine]) for r in runtimes}
    if not faults:
        faults += [_unbuildable(m, profile.name, plans) for m in models if not (_is_engine(m) or _takers(m, plans))]
    if not faults:
        faults += [fault for m in models if not _is_engine(m) and _suffix(m) == ONNX.suffix and (fault := _fault(m))]
    if faults:
        raise UserError(*faults)
    result: dict[str, Prepare] = {}
    for number, model in enumerate(models):
        if _is_engine(model):
            result[f"{model}"] = opener(model)
            continue
        for name, plan in _takers(model, plans).items():
            result[f"{model} {name} {precision}"] = _builder(model, plan, scratch / f"{number}-{name}")
    return result


def onnx_fault(path: Path) -> str | None:
    """Return why ``path`` is no ONNX model, judged without its weights; None where it is one.

    It is read in a process of its own first (``deploy.files.confined``).
    """
    try:
        asked = {"file": str(path.absolute())}
        fault: str | None = call("deploy.latency.bench:read_fault", asked, Limits.of_file(path, copies=8))
    except (ConfinedError, OSError) as error:
        fault = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
    return None if fault is None else f"{path}: not an ONNX file ({fault})"


def _fault(model: Path) -> str | None:
    """Return why a file or folder is nothing to time, with what is."""
    if model.is_dir():
        return f"{model}: a folder without an engine ({PLAN_FILE}); give an .onnx file, an engine's own file or its folder"
    fault = onnx_fault(model)
    if fault is None or model.suffix == ONNX.suffix:
        return fault
    return f"{fault}; of a PyTorch model `compress.export(module, 'model.onnx', samples)` makes one, and `compress run` too"


def read_fault(file: str) -> str | None:
    """Return why a file is no ONNX model; the confined part of ``onnx_fault``."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(file, load_external_data=False)
    except DecodeError:
        return "its content is another"
    return None if model.graph.node and model.opset_import else "it holds no graph"


def _is_engine(model: Path) -> bool:
    return (model / PLAN_FILE).is_file()


def _takers(model: Path, plans: Mapping[str, BuildPlan]) -> dict[str, BuildPlan]:
    """Return by engine the plans that build from such a file: of its own format, or exported from ONNX."""
    return {name: plan for name, plan in plans.items() if _suffix(model) in _suffixes(plan.format)}


def _suffix(model: Path) -> str:
    """Return the suffix of a file's format: ONNX's where it has none that is known."""
    return model.suffix if model.suffix in {export_format(name).suffix for name in exports()} else ONNX.suffix


def _suffixes(format: ExportFormat) -> tuple[str, ...]:
    """Return the suffixes of a format's files, and of those from which it is exported here."""
    return (format.suffix, ONNX.suffix) if format.made_from == "onnx" else (format.suffix,)


def _unbuildable(model: Path, device: str, plans: Mapping[str, BuildPlan]) -> str:
    accepted = sorted({suffix for plan in plans.values() for suffix in _suffixes(plan.format)})
    precision = next(iter(plans.values())).precision
    return f"{model}: what device {device} runs in {precision!r} is built from {' and '.join(accepted)} files"


def _builder(model: Path, plan: BuildPlan, folder: Path) -> Prepare:
    def prepare(worker: RemoteWorker) -> Mapping[str, Any]:
        source = model
        if plan.format.exporter and not (model.suffix == plan.format.suffix != ONNX.suffix):
            import onnx

            from deploy.onnx_graph.model_bytes import model_bytes

            source = folder.with_suffix(plan.format.suffix)
            source.write_bytes(model_bytes(onnx.load(str(model)), plan))
        worker.build(source, plan, folder)
        return opener(folder)(worker)

    return prepare


def opener(folder: Path) -> Prepare:
    def prepare(worker: RemoteWorker) -> Mapping[str, Any]:
        opened = worker.open(folder)
        rng = np.random.default_rng(0)
        worker.warm({i["name"]: noise(rng, tuple(i["shape"]), i["dtype"]) for i in opened["inputs"]})
        return opened

    return prepare


def noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    if np.issubdtype(np.dtype(dtype), np.floating):
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
