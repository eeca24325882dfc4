"""What a search needs beside the product: the extra ``search``."""

from __future__ import annotations

from importlib.util import find_spec

from profiles.errors import UserError

PACKAGES = {"optuna": "optuna", "plotly": "plotly", "tomli_w": "tomli-w"}
"""Names to install by names to import."""


def check_installed() -> None:
    """Check that every package of the extra is there, before anything is resolved or trained.

    Raises:
        UserError: some are not; all at once.
    """
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"compress search needs {', '.join(missing)}: pip install 'edge-compress[search]'")
