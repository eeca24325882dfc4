"""The last model that passed a check, by device and name: what ``--against last`` compares with."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import onnx

from compress.execution.locks import only_writer
from compress.pipeline.check.sides import Side
from compress.report.check_record import Check
from deploy.files import write_atomically
from deploy.files.folders import replaced_folder

MODEL = "model.onnx"


def checks_folder() -> Path:
    """Name the folder of kept models: ``$COMPRESS_CHECKS``, or ``runs/.checks``."""
    return Path(os.environ.get("COMPRESS_CHECKS", "runs/.checks"))


def last(device: str, name: str) -> Path | None:
    """Return the last kept model of that name for a device, a bundle or an ONNX file; None where none was kept."""
    folder = _folder(device, name)
    found = [folder / "bundle", folder / MODEL]
    return next((path for path in found if path.exists()), None)


def keep(device: str, side: Side, check: Check | None) -> Path:
    """Keep a copy of a model as the last of its name on a device, and beside it what was found; return its folder."""
    folder = _folder(device, side.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(folder.parent):
        return _replace(folder, side, check)


def _replace(folder: Path, side: Side, check: Check | None) -> Path:
    with replaced_folder(folder) as part:
        if side.folder is None:
            onnx.save(onnx.load(side.given), str(part / MODEL))  # with the weights that lay beside it
        else:
            shutil.copytree(side.folder, part / "bundle")
        if check is not None:
            write_atomically(part / "check.json", json.dumps(check.as_json(), indent=1, default=dict).encode())
    return folder


def _folder(device: str, name: str) -> Path:
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-") or "model" for text in (device, name)]
    return checks_folder() / plain[0] / plain[1]
