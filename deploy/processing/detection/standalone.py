"""decode.md of a bundle: how its outputs become detections, as text, with the readers' own lines of numpy to copy."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from deploy.processing.detection.choose import readers

TEXT = """# From outputs to detections

The engine gives raw outputs, read as head `{head}`; the decode runs in float behind it. `decode.json` has the classes,
and the score from which each is shown. On a device, `python -m deploy detect BUNDLE INPUTS.npy` does all of this. Without
this product, the lines below need numpy alone: `detect(outputs)` takes the engine's outputs in their order, (samples, ...)
each, and returns for each sample rows of [class, score, x1, y1, x2, y2] in pixels of the input, best first.

```python
{code}```
"""
IMPORTS = """from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt


def final(kind):
    return kind
"""
DETECT = """

with open("decode.json") as file:
    ABOUT = json.load(file)
PRIORS = np.load("priors.npy") if os.path.exists("priors.npy") else None
HEAD = Head(
    classes=len(ABOUT["classes"]),
    size=ABOUT["size"] and tuple(ABOUT["size"]),
    strides=tuple(ABOUT["strides"]),
    anchors=tuple(tuple(tuple(anchor) for anchor in each) for each in ABOUT["anchors"]),
    priors=PRIORS,
)


def detect(outputs):
    reader, found = {reader}(), [np.asarray(each, np.float32) for each in outputs]
    fault = reader.fault([each.shape for each in found], HEAD)
    if fault:
        raise ValueError("outputs are read of " + fault)
    reading = reader.read(found, HEAD)
    least, overlap = np.array(ABOUT["thresholds"]), ABOUT["most_overlap"] if reader.suppresses else None
    pairs = zip(reading.boxes, reading.scores)
    return [detections(box, score, least_score=least, most_overlap=overlap) for box, score in pairs]
"""


def text(head: str) -> str:
    """Return decode.md for a reader of the table."""
    module, _, name = readers()[head].partition(":")
    names: dict[str, None] = {}
    for needed in (
        "deploy.processing.detection.arrays",
        "deploy.processing.detection.base",
        "deploy.processing.detection.suppression",
        module,
    ):
        _add(needed, names)
    parts = [_definitions(each) for each in names]
    return TEXT.format(head=head, code="\n\n".join([IMPORTS.rstrip("\n"), *parts]) + DETECT.replace("{reader}", name))


def _add(module: str, names: dict[str, None]) -> None:
    """Add a module of readers to ``names``, those that it imports before it."""
    for node in ast.parse(_source(module)).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deploy.processing.detection."):
            _add(str(node.module), names)
    names.setdefault(module)


def _definitions(module: str) -> str:
    """Return what a module defines, without its imports and its docstring."""
    source = _source(module)
    lines = source.splitlines()
    kept: list[str] = []
    body = [node for node in ast.parse(source).body if not isinstance(node, ast.Import | ast.ImportFrom)]
    for before, node in zip([None, *body], body, strict=False):
        if before is None and isinstance(node, ast.Expr):
            continue  # the module's docstring
        decorators = getattr(node, "decorator_list", [])
        start = min([node.lineno, *(each.lineno for each in decorators)])
        is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
        kept += [*(["", ""] if is_definition and kept else []), *lines[start - 1 : node.end_lineno]]
    return "\n".join(kept)


def _source(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text("utf-8")
