"""After the targets of a file: whether they reached the readers that they stand for."""

from pathlib import Path

import pytest

from tests.fuzz import mutations
from tests.fuzz.readers import FUZZED, NOT_SEEN, ROOT


@pytest.fixture(autouse=True)
def _noting(request):
    mutations.begin(request.node.originalname)


@pytest.fixture(autouse=True, scope="module")
def _reached(request):
    mutations.REACHED.clear()
    yield
    config = request.config
    if config.option.keyword or any("::" in argument for argument in config.args):
        return
    name = Path(request.node.path).name
    for target, readers in FUZZED.items():
        file, _, test = target.partition("::")
        if file == name:
            missed = set(readers) - NOT_SEEN - {_dotted(*place) for place in mutations.REACHED.get(test, ())}
            assert not missed, f"{target} does not reach {sorted(missed)}"


def _dotted(file, name):
    path = Path(file)
    inside = path.relative_to(ROOT).with_suffix("").parts if path.is_relative_to(ROOT) else (path.stem,)
    return f"{'.'.join(inside)}:{name.replace('.<locals>', '')}"
