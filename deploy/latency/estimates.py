"""Latency estimates of ``compress bench --estimate``: each file on each runtime of an absent device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from deploy.latency.bench import onnx_fault
from deploy.latency.roofline import CLASSES, Estimate, Kernel, estimate, kernels
from profiles.device import DeviceProfile
from profiles.errors import UserError, one_line, unknown

COLUMNS = (*CLASSES, "overhead")


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Latency estimates by file.

    Attributes:
        device: name of the device profile.
        by_model: estimates by path of the file.
        reasons: one line for each file, runtime and precision without an estimate.
    """

    device: str
    by_model: dict[str, list[Estimate]]
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the estimates as JSON values."""
        models = {model: [asdict(each) for each in estimates] for model, estimates in self.by_model.items()}
        return {"kind": "estimated", "device": self.device, "models": models, "not_estimated": list(self.reasons)}


def estimates(models: Sequence[Path], profile: DeviceProfile, only: str | None, precision: str | None) -> Estimates:
    """Estimate every file on every runtime and precision of ``profile``, or on ``only`` one and in ``precision``.

    Raises:
        UserError: a file is missing or no ONNX file, or nothing can be estimated; all faults at once.
    """
    engines = [runtime.engine for runtime in profile.runtimes]
    faults = [f"{model}: no such file" for model in models if not model.is_file()]
    faults += [fault for model in models if model.is_file() and (fault := onnx_fault(model))]
    if only is not None and only not in engines:
        faults.append(unknown("engine", only, engines, f"device {profile.name}"))
    selected = [(r, p) for r in profile.runtimes if only in (None, r.engine) for p in r.precisions if precision in (None, p)]
    if not selected and only in (None, *engines):
        faults.append(f"device {profile.name}: no engine of it runs {precision!r}")
    if faults:
        raise UserError(*faults)
    by_model: dict[str, list[Estimate]] = {str(model): [] for model in models}
    reasons: list[str] = []
    for model in models:
        work = _kernels(model)
        for runtime, each in selected:
            try:
                by_model[str(model)].append(estimate(work, profile, runtime, each))
            except UserError as error:
                reasons += [fault for fault in error.faults if fault not in reasons]
    if not any(by_model.values()):
        raise UserError(*reasons)
    return Estimates(device=profile.name, by_model=by_model, reasons=tuple(reasons))


def _kernels(model: Path) -> list[Kernel]:
    """Read the kernels of a foreign file.

    Raises:
        UserError: its graph lacks what they are counted from.
    """
    try:
        return kernels(onnx.load(str(model), load_external_data=False))
    except UserError:
        raise
    except Exception as error:  # of a damaged graph anything may come
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"{model}: cannot be estimated, its graph is damaged or without shapes ({reason})") from error


def table(result: Estimates) -> str:
    """Format the estimates as text, each labelled, with their basis and their error."""
    lines = [f"estimated, never measured: {result.device}"]
    width = max(len(model) for model in result.by_model)
    lines += [
        f"{'':<{width}}  {'engine':<12} {'':<5} {'estimated ms':>12}   of it: " + " ".join(f"{c:>9.9}" for c in COLUMNS)
    ]
    words: list[str] = []
    for model, estimates_ in result.by_model.items():
        for each in estimates_:
            parts = " ".join(f"{each.by_class_ms[column]:>9.3f}" for column in COLUMNS)
            lines += [f"{model:<{width}}  {each.engine:<12} {each.precision:<5} {each.estimated_ms:>12.3f}          {parts}"]
            words += [f"{each.engine} {each.precision}: error {each.error}; calibrated on {each.calibrated_on}"]
    return "\n".join([*lines, *dict.fromkeys(words), *result.reasons])
