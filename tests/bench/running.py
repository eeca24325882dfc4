"""Examples as a user has them: their recipes run, their modules loaded."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
MISSING = "left out: EDGE_DATA does not say where the data sets are"


def report_of(recipe: Path, *, device: str = "cpu", **environment: str) -> dict[str, Any]:
    """The report of ``compress run RECIPE``; its steps are kept where $COMPRESS_STEPS says, if it does.

    Raises:
        RuntimeError: the run ended neither done nor over budget.
    """
    with tempfile.TemporaryDirectory() as scratch:
        kept = {"COMPRESS_STEPS": str(Path(scratch) / "steps"), **os.environ, **environment}
        command = [sys.executable, "-m", "compress", "run", str(recipe), "--device", device, "--json"]
        command += ["--out", str(Path(scratch) / "out")]
        done = subprocess.run(command, env=kept, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"compress run {recipe.name} ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def example_report(name: str) -> dict[str, Any]:
    """The report of ``compress run examples/NAME.toml``."""
    return report_of(ROOT / "examples" / f"{name}.toml")


def said_of_stages(report: dict[str, Any]) -> list[str]:
    """What the gate said of each stage."""
    said = {row["stage"]: f"{row['stage']}: {row['decision']}: {row['reason']}" for row in report["rows"] if row["stage"]}
    return list(said.values())


def load_example(name: str) -> Any:
    """The module ``examples/NAME.py``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
