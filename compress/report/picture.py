"""What pages with an interactive picture share: templates, Plotly inline, data as a script."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def templates() -> Any:
    """Return the environment of the report's templates; what they are given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)


def has_plotly() -> bool:
    """Whether plotly is installed."""
    return find_spec("plotly") is not None


def plotly_script() -> str:
    """Return Plotly's own script, to be written into a page."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def as_script(data: Any) -> str:
    """Write plain data as JSON for a script within HTML, whose text may hold anything but the end of the script."""
    return json.dumps(data, allow_nan=False).replace("</", "<\\/").replace("<!--", "<\\!--")
