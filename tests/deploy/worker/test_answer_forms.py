"""Answers of workers that would be divided by."""

import pytest

from deploy.measure.path_times import PARTS
from deploy.worker.answers import is_answer

LOAD = {"wall_s": 1.0, "cores": 2}


@pytest.mark.parametrize(("ms", "right"), [(0.5, True), (0, False), (0.0, False), (-1.0, False), (float("nan"), False)])
def test_no_inference_takes_no_time(ms, right):
    assert is_answer("time", {"called": [1.0, ms], "own": [], "blocks": [2], "load": LOAD}) is right
    assert is_answer("time_models", {"least_ms": [1.0, ms], "p50_ms": [1.0, 1.0], "passes_ms": []}) is right
    assert is_answer("time_models", {"least_ms": [1.0, 1.0], "p50_ms": [1.0, ms], "passes_ms": []}) is right
    assert is_answer("time_models", {"least_ms": [1.0], "p50_ms": [1.0], "passes_ms": [[1.0, ms]]}) is right
    assert is_answer("time_path", {"rows": [[ms] * len(PARTS)]}) is right
    assert is_answer("time_path", {"rows": [[0.0] * (len(PARTS) - 1) + [1.0]]}), "a coarse clock sees no time in a part"
