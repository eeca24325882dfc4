"""What trained results depend on is listed by hand: here that nothing is forgotten where stages live on it."""

from pathlib import Path

import pytest

import compress
from compress.pipeline.cache_keys import ROOM


@pytest.mark.parametrize("folder", ["pruning", "factors"])
def test_a_change_to_what_cuts_makes_results_anew(folder):
    files = {f.stem for f in (Path(compress.__file__).parent / folder).glob("*.py")} - {"__init__"}
    assert {f"compress.{folder}.{name}" for name in files} <= set(ROOM)
