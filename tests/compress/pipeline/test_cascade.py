"""A cascade: the margin by hand, and a real one of two models on blobs."""

import json

import numpy as np
import pytest

from compress.pipeline.cascade import ALL, choose_margin, compose
from tests.deploy.tiny import tiny_onnx


def test_the_margin_by_hand():
    sure = np.array([0.9, 0.2, 0.4, 0.6, 0.1])
    small, large = np.array([1, 0, 0, 1, 1]), np.array([1, 1, 1, 0, 1])
    assert choose_margin(sure, small, large) == 0.4, "0.1 and 0.2 go on: then four are right, as the large one's four"
    assert choose_margin(sure, small, large, most_less=0.2) == 0.0, "three, the small one's own, are one less than four"
    assert choose_margin(sure, large, small) == 0.0, "the small one is the better one"
    assert choose_margin(np.array([0.9, 0.1]), np.array([0, 1]), np.array([1, 1])) == ALL, "wrong where it is most sure"


def test_samples_of_one_margin_go_together():
    sure, small, large = np.full(4, 0.5), np.array([0, 1, 1, 1]), np.ones(4)
    assert choose_margin(sure, small, large) == ALL
    assert choose_margin(sure, small, large, most_less=0.25) == 0.0


def test_times_are_those_of_the_small_one_and_of_both():
    found = compose([1.0, 1.0, 3.0, 1.0], [10.0, 10.0, 10.0, 12.0], 0.2)
    assert found.mean == pytest.approx(1.5 + 0.2 * 10.5) and found.worst == 15.0
    assert found.p50 == 1.0 and found.p90 == pytest.approx(11.0)
    assert compose([1.0], [10.0], 0.0).worst == 1.0


def test_two_models_on_blobs(tmp_path, compress_here):
    tiny_onnx(tmp_path / "small.onnx")
    (tmp_path / "blobs.toml").write_text(
        '[task]\ndata = "tests.conftest:blob_splits"\n[teacher]\nmodel = "compress.models:resnet"\n'
    )
    words = ("cascade", "small.onnx", "small.onnx", "--recipe", "blobs.toml", "--json", "--seconds", "0.2")
    done = compress_here(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["went_on"] == 0 and found["margin"] == 0.0, "the same model is never less sure than itself"
    assert found["accuracy"]["small"] == found["accuracy"]["cascade"] and found["drop"][1] == 0
    assert found["times"]["cascade"]["mean"] == pytest.approx(found["times"]["small"]["mean"])
    (tmp_path / "served/large").mkdir(parents=True)
    (tmp_path / "served/large/mine.txt").write_text("mine")
    refused = compress_here(*words, "--out", "served")
    assert refused.returncode == 2 and "--out takes runs or bundles" in refused.stderr
    assert "large in it has files that are of no bundle (mine.txt)" in refused.stderr
    assert (tmp_path / "served/large/mine.txt").read_text() == "mine"
    assert "no labelled samples" in compress_here(*words[:3]).stderr
