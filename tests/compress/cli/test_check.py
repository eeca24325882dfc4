"""compress check on the smallest model: what it exits with, what it writes, what it keeps. Blobs are its samples."""

import json
import xml.etree.ElementTree as ElementTree

import onnx
import pytest
from onnx import numpy_helper

from tests.deploy.tiny import tiny_onnx

QUICK = ("--engine", "onnxruntime", "--seconds", "0.2")


@pytest.fixture
def models(tmp_path):
    """A model, and one that gives the lowest score where that gives the highest."""
    old = tiny_onnx(tmp_path / "old.onnx")
    other = onnx.load(str(old))
    weights = other.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    onnx.save(other, str(tmp_path / "other.onnx"))
    (tmp_path / "blobs.toml").write_text(
        '[task]\ndata = "tests.conftest:blob_splits"\n[teacher]\nmodel = "compress.models:resnet"\n'
    )
    return "old.onnx", "other.onnx"


def test_answers_are_compared_in_pairs_and_too_little_time_tells_nothing_of_latency(models, compress_here, tmp_path):
    old, other = models
    words = ("--recipe", "blobs.toml", "--json", "--junit", "j.xml", "--summary", "s.md")
    done = compress_here("check", old, other, *QUICK, *words)
    found = json.loads(done.stdout)
    accuracy = found["findings"][1]
    facts = accuracy["facts"]
    difference = facts["old"] - facts["new"]
    assert facts["samples"] == 64 and accuracy["middle"] == pytest.approx(difference)
    assert facts["lost"] - facts["won"] == pytest.approx(difference * 64 / 100)
    latency = found["findings"][0]
    assert latency["answer"] == "cannot tell" and latency["needed"].startswith("about "), "four races do not fit"
    assert done.returncode == found["exit_code"]
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("tests") == "2"
    assert "| accuracy |" in (tmp_path / "s.md").read_text()


def test_the_last_kept_is_what_a_new_one_is_compared_with(models, compress_here, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_CHECKS", str(tmp_path / "kept"))
    first = compress_here("check", "old.onnx", "--against", "last", *QUICK)
    assert first.returncode == 3 and "nothing was kept" in first.stdout and not (tmp_path / "kept").exists()
    assert compress_here("check", "old.onnx", "--against", "last", "--keep", *QUICK).returncode == 0
    kept = tmp_path / "kept/cpu/old/model.onnx"
    assert onnx.load(str(kept)) == onnx.load(str(tmp_path / "old.onnx"))
    again = compress_here("check", "old.onnx", "--against", "last", "--json", *QUICK)
    assert json.loads(again.stdout)["old"] == str(kept)
    assert [one["answer"] for one in json.loads(again.stdout)["findings"]] == ["cannot tell", "not compared"]


def test_what_is_wrong_is_said_at_once(models, compress_here):
    done = compress_here("check", "gone.onnx", "away", *QUICK)
    assert done.returncode == 2
    assert "away: no such run, bundle or ONNX file" in done.stderr and "gone.onnx: no such" in done.stderr
    assert compress_here("check", "old.onnx").returncode == 2
    assert "no number of per cent" in compress_here("check", *models, "--most-slower", "much").stderr
