"""The example of a task of one's own: its metric by hand, and the whole way through with it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from compress.models.factory import factory
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "segmentation.py"


def test_intersection_over_union_by_hand():
    counts, mean_iou = factory(f"{EXAMPLE}:counts"), factory(f"{EXAMPLE}:mean_iou")
    confusion = counts(np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 1]]), 3)
    np.testing.assert_array_equal(confusion, [[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert mean_iou(confusion) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2), "a class that does not occur does not count"


def test_the_protocol_tells_what_does_not_fit(example):
    from profiles.errors import UserError

    task, data = factory(f"{EXAMPLE}:Segmentation")(), factory(f"{EXAMPLE}:digit_masks")()
    task.check(data)
    task.check_outputs(factory(f"{EXAMPLE}:encoder_decoder")()(example.new_zeros(2, 1, 32, 32)), data)
    with pytest.raises(UserError, match=r"gives \(2, 11, 8, 8\) for two samples; this task reads \(2, 11, 32, 32\)"):
        task.check_outputs(example.new_zeros(2, 11, 8, 8), data)


@pytest.mark.slow
def test_every_stage_and_engine_work_for_it(tmp_path):
    recipe = (ROOT / "examples" / "segmentation.toml").read_text().replace("segmentation.py:", f"{EXAMPLE}:")
    (tmp_path / "segmentation.toml").write_text(recipe)
    command = [sys.executable, "-m", "compress", "run", "segmentation.toml", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    report = json.loads(done.stdout)
    assert {row["metric"]["name"] for row in report["rows"]} == {"mIoU"}
    assert all(row["parity"]["top1_agreement"] > 0.98 for row in report["rows"])
    assert report["verdict"]["speedup_vs_best_free"] > 1
