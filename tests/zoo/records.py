"""What was found of each network, kept as JSON with the digest of the code that found it."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

from compress.execution.cache import digest, source_digest
from compress.pipeline.cache_keys import closure
from tests.zoo.networks import NETWORKS

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "timm", "transformers", "segmentation-models-pytorch", "ultralytics")
RUNTIMES = ("onnxruntime", "openvino", "torch-pruning")
TABLE = "tests.zoo.networks"
Record = dict[str, Any]


def path_of(name: str) -> Path:
    return FOLDER / f"{''.join(c if c.isalnum() else '-' for c in name)}.json"


def load(name: str) -> Record:
    """Read what is known of a network; empty where nothing is."""
    path = path_of(name)
    found: Record = json.loads(path.read_text()) if path.exists() else {}
    return found


def code_of(name: str, module: str) -> str:
    """Digest what decides a network's record by a module: the code that it reaches, and the network's own line."""
    return digest([_code(module), astuple(NETWORKS[name])])


@functools.cache
def _code(module: str) -> str:
    roots = [module, "tests.zoo.wholes"]
    return digest([(name, source_digest(path.read_text())) for name, path in closure(roots) if name != TABLE])


def versions() -> dict[str, str]:
    """Return the versions of the libraries and runtimes that are installed."""
    found = {}
    for package in (*PACKAGES, *RUNTIMES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found
