"""A bundle: one folder with a model, how to build and run it, and samples that prove it. Needs no PyTorch.

model.onnx      what every engine is built from
plan.json       the engine, precision and options that were proven
    golden.npz      inputs, and the outputs that the proven engine gave
    preprocessing.json  what was done to a sample before the model saw it
profile.json    the device it was proven on
report.json     what was measured
manifest.json   SHA-256 of each file
README.md       how to run it without this product
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.engines import BuildPlan, engine
from profiles.device import DeviceProfile
from profiles.errors import UserError

SCHEMA = 1
MANIFEST = "manifest.json"
README = """# {title}

`{file}` was proven with {engine} in {precision} on {device}; `report.json` has the figures, `golden.npz` inputs
and the outputs to expect, `preprocessing.json` what was done to a sample before the model saw it.
{example}
Check it on a device: `python -m deploy verify .`
"""
ONNX_EXAMPLE = """
    import numpy as np, onnxruntime
    golden = np.load("golden.npz")
    session = onnxruntime.InferenceSession("model.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: golden["input"][:1]})
"""
PTE_EXAMPLE = """
    import numpy as np, torch
    from executorch.runtime import Runtime
    golden = np.load("golden.npz")
    program = Runtime.get().load_program("model.pte")
    outputs = program.load_method("forward").execute([torch.from_numpy(golden["input"][:1])])
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What became of a bundle's golden samples on this machine."""

    max_abs: float
    top1_agreement: float
    samples: int


def write(
    folder: Path,
    *,
    title: str,
    model: Path,
    plan: BuildPlan,
    profile: DeviceProfile,
    golden: dict[str, npt.NDArray[Any]],
    report: bytes,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Replace ``folder`` by a bundle; it is there whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(model, part / plan.model_file)
    (part / "plan.json").write_text(json.dumps(plan.as_json(), indent=1, sort_keys=True))
    (part / "profile.json").write_text(json.dumps(profile.as_json(), indent=1, sort_keys=True))
    (part / "report.json").write_bytes(report)
    (part / "preprocessing.json").write_text(json.dumps(dict(preprocessing or {}), indent=1, sort_keys=True))
    np.savez(part / "golden.npz", **golden)  # type: ignore[arg-type]  # numpy's stub takes the keywords for its flags
    words = README.format(
        title=title,
        file=plan.model_file,
        engine=plan.engine,
        precision=plan.precision,
        device=profile.title,
        example=PTE_EXAMPLE if plan.source == "pte" else ONNX_EXAMPLE,
    )
    (part / "README.md").write_text(words)
    files = {path.name: _sha256(path) for path in sorted(part.iterdir())}
    (part / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "files": files}, indent=1, sort_keys=True))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def verify(folder: Path) -> Check:
    """Check every file of a bundle, build its engine here and run its golden samples.

    Raises:
        UserError: a file is missing, altered or not in the manifest; or the engine cannot run here.
        EngineError: the runtime refused the model.
    """
    _check_files(folder)
    plan = BuildPlan(**json.loads((folder / "plan.json").read_text()))
    runtime = engine(plan.engine)
    able = runtime.affinity()
    if able.score < 0:
        raise UserError(f"{folder}: its engine {plan.engine} cannot run here: {able.reason}")
    with np.load(folder / "golden.npz", allow_pickle=False) as stored, tempfile.TemporaryDirectory() as scratch:
        runtime.build(folder / plan.model_file, plan, Path(scratch))
        session = runtime.open(Path(scratch), plan)
        inputs, expected = stored["input"], stored["output"]
        name, batch = session.inputs[0].name, session.inputs[0].shape[0]
        outputs = [session.infer({name: inputs[i : i + batch]}) for i in range(0, len(inputs), batch)]
    got = np.concatenate([next(iter(output.values())) for output in outputs])
    return Check(
        max_abs=float(np.abs(got - expected).max()),
        top1_agreement=float((got.argmax(-1) == expected.argmax(-1)).mean()),
        samples=len(inputs),
    )


def _check_files(folder: Path) -> None:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise UserError(f"{folder}: no {MANIFEST}; this is no bundle")
    listed = json.loads(manifest.read_text())["files"]
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    faults = [f"{folder}: {name} is missing" for name in sorted(set(listed) - present)]
    faults += [f"{folder}: {name} is not in the manifest" for name in sorted(present - set(listed))]
    faults += [
        f"{folder}: {name} was altered" for name in sorted(present & set(listed)) if _sha256(folder / name) != listed[name]
    ]
    if faults:
        raise UserError(*faults)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
