"""Reading of TOML by the standard library, or by tomli on Python 3.10."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from profiles.errors import UserError


def read_toml(path: Path) -> dict[str, Any]:
    """Read the table in ``path``.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return table
