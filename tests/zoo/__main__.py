"""Take the sixty architectures through every stage, and write docs/zoo.md: ``python -m tests.zoo [--only NAME ...]``.

Each is taken in a process of its own, a fork (``chain``), and Torch-Pruning in another (``beside``). What was found by the
code as it is is not found again, so that a run that was broken off goes on; ``--table`` writes the page of what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploy.export.to_onnx import capture, to_onnx
from deploy.files import write_atomically
from tests.zoo import document, records
from tests.zoo.networks import NETWORKS

FORK = multiprocessing.get_context("fork")
LIBRARIES = ("torchvision", "timm", "transformers", "segmentation_models_pytorch", "torch_pruning")
WALL_S = 1800
"""After so long a process is ended whatever it does; its own limit is of processor time."""
CHAIN, BESIDE = "tests.zoo.chain", "tests.zoo.beside"


def main() -> None:
    parser = argparse.ArgumentParser(description="sixty architectures through every stage")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="parts of networks' names")
    parser.add_argument("--again", action="store_true", help="also what was found by the code as it is")
    parser.add_argument("--table", action="store_true", help="run nothing, write the page")
    asked = parser.parse_args()
    wanted = [n for n in NETWORKS if not asked.only or any(part.lower() in n.lower() for part in asked.only)]
    if not asked.table:
        _warm()
    for part in () if asked.table else (take, take_beside):
        for name in wanted:
            if part(name, again=asked.again):
                document.write()
    document.write()


def take(name: str, *, again: bool) -> bool:
    """Take a network through the stages where that is not known of the code as it is; say whether it was taken."""
    found, code = records.load(name), records.code_of(name, CHAIN)
    if not again and found.get("code") == code:
        return False
    print(f"{name} ...", flush=True)
    run = _run(CHAIN, name) or {"network": name, "steps": {}}
    found = {**found, "ended": "", **run, "code": code, "versions": records.versions(), "date": time.strftime("%Y-%m-%d")}
    _keep(name, found)
    print("\n".join(f"  {step}: {document.tell(each)}" for step, each in found["steps"].items()), flush=True)
    return True


def take_beside(name: str, *, again: bool) -> bool:
    """Have Torch-Pruning take what it takes, where that is not known; say whether it was asked."""
    found, code = records.load(name), records.code_of(name, BESIDE)
    if not again and found.get("beside_code") == code:
        return False
    found |= {"beside": _run(BESIDE, name) or {"error": "the process died"}, "beside_code": code}
    print(f"{name}, Torch-Pruning: {found['beside']}", flush=True)
    _keep(name, found)
    return True


def _keep(name: str, found: dict[str, Any]) -> None:
    records.FOLDER.mkdir(exist_ok=True)
    write_atomically(records.path_of(name), (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())


def _run(module: str, name: str) -> dict[str, Any] | None:
    """Run a module's ``main`` on a network in a process of its own; what it had found, if it was ended too."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "record.json"
        process = FORK.Process(target=_alone, args=(module, name, path))
        process.start()
        process.join(WALL_S)
        ended = "" if process.exitcode == 0 else f"exit status {process.exitcode}"
        if process.is_alive():
            process.kill()
            process.join()
            ended = f"ended after {WALL_S} s"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        if found is not None and ended:
            found["ended"] = ended
        return found


def _alone(module: str, name: str, path: Path) -> None:
    """Run in a fork: what it writes to the terminal is of no use, and nothing of the user's is touched."""
    os.environ |= {"XDG_CONFIG_HOME": str(path.parent), "YOLO_CONFIG_DIR": str(path.parent), "TMPDIR": str(path.parent)}
    tempfile.tempdir = None
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    importlib.import_module(module).main(name, path)


def _warm() -> None:
    """Import here what all networks need, half of the time of a small one; forks have it.

    The code is digested before: that of files which are changed meanwhile is not what runs.
    """
    for module in (CHAIN, BESIDE):
        records.code_of(next(iter(NETWORKS)), module)
    os.environ |= {"HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"}
    torch.set_num_threads(1)
    layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    to_onnx(capture(layer, torch.zeros(2, 3, 8, 8)))
    for name in (CHAIN, BESIDE, "brevitas", *LIBRARIES):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


if __name__ == "__main__":
    main()
