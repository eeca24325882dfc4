"""docs/scale.md has the model's table, and the model is what the page says."""

import re

import pytest

from tests.bench.scale import PAIRS, Cluster, Pair, all_reduce_s, images_per_second, table
from tests.conftest import ROOT

PAGE = ROOT / "docs/scale.md"


def test_the_table_is_the_models():
    (shown,) = re.findall(r"<!-- model: begin -->\n(.*?)\n<!-- model: end -->", PAGE.read_text(), re.DOTALL)
    assert shown == table()


def test_a_step_by_hand():
    cluster = Cluster(
        tflops=100.0, utilisation=0.5, inside_gb_s=10.0, between_gb_s=1.0, reached=1.0, cores=10, images_s=100.0
    )
    pair = Pair(name="toy", teacher_gmacs=50.0, student_gmacs=25.0, student_mparams=250.0, batch=1000)
    # one GPU: 100 TFLOP of the teacher and 3 x 50 of the student at 50 TFLOPS are 5 s; 1000 images at 1000/s are 1 s
    assert images_per_second(pair, 1, cluster) == (200.0, "compute")
    # two: half of it, and 1 GB twice halved through 10 GB/s, 0.1 s, behind the backward pass of 1 s
    assert all_reduce_s(1e9, 2, cluster) == pytest.approx(0.1)
    assert images_per_second(pair, 2, cluster) == (400.0, "compute")
    # sixteen: 2 x 15 / 16 GB through 1 GB/s are 1.875 s; teacher and forward pass are 3 / 16 s
    assert images_per_second(pair, 16, cluster)[0] == pytest.approx(1000 / (1.875 + 3 / 16))
    assert images_per_second(pair, 16, cluster)[1] == "all-reduce"
    slow = Cluster(tflops=100.0, utilisation=0.5, cores=1, images_s=50.0)
    assert images_per_second(pair, 1, slow) == (50.0, "data")


def test_the_pages_words_are_the_models():
    one, many = (images_per_second(PAIRS[0], gpus, Cluster())[0] for gpus in (1, 64))
    assert f"64 GPUs are {many / one:.0f} times as fast" in PAGE.read_text()
    twice = Pair(**{**vars(PAIRS[0]), "batch": 2 * PAIRS[0].batch})
    assert images_per_second(twice, 64, Cluster())[1] == "compute"
    assert images_per_second(PAIRS[0], 8, Cluster(cores=7))[1] == "data"
