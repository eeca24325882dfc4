"""Which model factories a plan that is read from disk may call.

``surgery.json`` names a callable, and calling is running code. So a plan is built only where its factory is one of the
product's own, of a library, or was named before by a recipe that this user ran or by an explicit word. Nothing is imported
to find that out.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.files import write_atomically
from profiles.errors import UserError
from profiles.json_text import read_json

OWN = ("compress.models", "compress.models.resnet", "compress.models.vgg", "compress.models.detector")
LIBRARIES = ("torchvision", "timm", "transformers", "ultralytics")
_allowed: set[str] = set()


def allow(*references: str) -> None:
    """Remember factories that this user's recipes name, for later processes too."""
    new = {reference for reference in references if not is_allowed(reference)}
    if not new:
        return
    _allowed.update(new)
    with contextlib.suppress(OSError):  # they hold for this process
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(file, json.dumps(sorted(_remembered() | new), indent=1).encode())


def is_allowed(reference: str) -> bool:
    """Whether a factory may be called without a further word."""
    module = reference.partition(":")[0]
    if module in OWN or module in LIBRARIES or module == "given":
        return True
    return reference in _allowed or reference in _remembered()


def check(reference: str, arguments: Mapping[str, Any], where: Path) -> None:
    """Refuse a factory that no recipe of this user has named.

    Raises:
        UserError: with what would be called.
    """
    if not is_allowed(reference):
        given = ", ".join(f"{name} = {value!r}" for name, value in arguments.items())
        raise UserError(
            f"{where}: its plan would call {reference} ({given or 'no arguments'}), which no recipe of yours has named; "
            "nothing was called. If that is the model's own factory, load with trust=True"
        )


def _remembered() -> set[str]:
    try:
        names = read_json(_file())
        return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    except (OSError, ValueError):
        return set()


def _file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "edge-compress" / "factories.json"
