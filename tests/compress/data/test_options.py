"""Options of sources, tasks and losses: names, types, bounds and paths, by the signatures that take them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from compress.data.images import images
from compress.data.npz import npz
from compress.data.options import check_options, fill_paths
from compress.data.yolo import yolo
from compress.methods.distillation.loss_specs import parse_losses
from compress.recipe.parse import parse
from profiles.errors import UserError

WRONG = (
    ({"mirror": "false"}, "mirror: should be a valid boolean; given: 'false'"),
    ({"mirror": 1}, "mirror"),
    ({"seed": -1}, "seed: should be greater than or equal to 0; given: -1"),
    ({"seed": True}, "seed"),
    ({"size": "32"}, "size"),
    ({"size": 32.5}, "size"),
    ({"size": [32]}, "size"),
    ({"size": {"height": 32}}, "size"),
    ({"mean": 0.5}, "mean: should be a list; given: 0.5"),
    ({"mean": ["a"]}, "mean"),
    ({"scale": "255"}, "scale"),
    ({"scale": float("nan")}, "scale: should be a finite number; given: nan"),
    ({"validation": "10%"}, "validation"),
    ({"validation": float("inf")}, "validation"),
    ({"calibration": 0.5}, "calibration"),
    ({"sise": 3}, "unknown option 'sise' (did you mean 'size'?)"),
)


@pytest.mark.parametrize(("options", "words"), WRONG)
@pytest.mark.parametrize("source", ["images", "huggingface", "in Python"])
def test_a_wrong_option_of_a_source_is_one_line_that_names_it(source, options, words, tmp_path):
    given = {"size": 32, **options}
    where = {"name": "none"} if source == "huggingface" else {"path": str(tmp_path)}
    call = images if source == "in Python" else lambda **options: recipe({"use": source, **options}, tmp_path)
    with pytest.raises(UserError) as caught:
        call(**where, **given)
    (fault,) = caught.value.faults
    assert words in fault


def test_all_wrong_options_are_told_at_once_and_before_anything_is_read(tmp_path):
    wrong = {"path": "nowhere", "size": "a", "mirror": "no", "seed": -1, "clases": 1}
    with pytest.raises(UserError) as caught:
        recipe({"use": "yolo", **wrong}, tmp_path)
    assert len(caught.value.faults) == 4
    assert all("[task] data yolo" in fault for fault in caught.value.faults)


def test_a_missing_option_is_named(tmp_path):
    with pytest.raises(UserError, match="path is missing"):
        recipe({"use": "npz"}, tmp_path)


@pytest.mark.parametrize("call", [images, yolo, npz])
def test_numpy_numbers_and_paths_are_options_too(call, tmp_path):
    with pytest.raises(UserError) as caught:
        call(path=tmp_path, seed=np.int64(1), **({} if call is npz else {"size": [np.int64(8), 8]}))
    assert "should be" not in str(caught.value), "what is wrong is the folder"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"use": "detection", "strides": 8}, "strides: should be a list; given: 8"),
        ({"use": "detection", "box_weight": "2"}, "box_weight"),
        ({"use": "detection", "least_scores": 0.1}, "did you mean 'least_score'?"),
        ({"use": "classification", "classes": 3}, "unknown option 'classes'"),
    ],
)
def test_options_of_tasks_are_checked_alike(kind, words, tmp_path):
    with pytest.raises(UserError) as caught:
        recipe("digits", tmp_path, kind)
    (fault,) = caught.value.faults
    assert words in fault


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"use": "kd", "temperature": "4"}, "loss kd temperature: should be a valid number; given: '4'"),
        ({"use": "kd", "temperature": 0}, "greater than 0"),
        ({"use": "top_k_ld", "k": 2.5}, "loss top_k_ld k"),
        ({"use": "cwd", "temprature": 4.0}, "did you mean 'temperature'?"),
        ({"use": "token_relations", "fused": "yes"}, "loss token_relations fused"),
        ({"use": "kd", "weight": {"use": "scheduled", "ends": "1"}}, "weight scheduled ends"),
        ({"use": "kd", "weight": {"use": "scheduled", "end_at": 1}}, "weight scheduled: unknown option 'end_at'"),
    ],
)
def test_options_of_losses_and_of_weights_are_checked_alike(loss, words):
    with pytest.raises(ValueError, match="loss ") as caught:
        parse_losses([loss])
    assert words in str(caught.value)


def test_a_source_of_ones_own_is_checked_by_its_annotations(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "def data(*, photos: Path, masks: 'str | Path' = '', label: str = '', depth: 'tuple[int, int]' = (1, 2)):\n"
        "    return photos, masks, label, depth\n"
    )
    with pytest.raises(UserError) as caught:
        recipe({"use": "mine.py:data", "photos": 3, "depth": [1], "lable": "b"}, tmp_path)
    assert len(caught.value.faults) == 3
    parsed = recipe({"use": "mine.py:data", "photos": "a", "depth": [3, 4]}, tmp_path)
    assert parsed.data.arguments["photos"] == str(tmp_path / "a")


def test_variables_and_relative_paths_are_filled_in_for_each_path(tmp_path, monkeypatch):
    def source(*, path: str, photos: Path, lists: Sequence[Path], label: str, image_dir: str = "", loose=None, free=None):
        raise AssertionError("checked, not called")

    monkeypatch.setenv("EDGE_DATA", "/data")
    (tmp_path / "beside").mkdir()
    options = {
        "path": "$EDGE_DATA/a",
        "photos": "b",
        "lists": ["${EDGE_DATA}/c", "d"],
        "label": "beside",  # a text that happens to be a file's name is no path
        "image_dir": "~/e",
        "loose": "beside",  # without an annotation what is there decides
        "free": "$EDGE_DATA/x",
    }
    assert fill_paths(source, options, tmp_path, "data") == {
        "path": "/data/a",
        "photos": str(tmp_path / "b"),
        "lists": ["/data/c", str(tmp_path / "d")],
        "label": "beside",
        "image_dir": str(Path("~/e").expanduser()),
        "loose": str(tmp_path / "beside"),
        "free": "/data/x",
    }


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a" * 300, "a\0b", "$HOME\0", "", "."])
def test_what_is_no_path_is_one_line(path, tmp_path):
    def read():
        images(path=recipe({"use": "images", "path": path, "size": 8}, tmp_path).data.arguments["path"], size=8)

    with pytest.raises(UserError) as caught:
        read()
    assert all(fault.count("\n") == 0 for fault in caught.value.faults)


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGE_NOT_SET", raising=False)
    with pytest.raises(UserError, match="the variable EDGE_NOT_SET is not set"):
        recipe({"use": "images", "path": "$EDGE_NOT_SET/a"}, tmp_path)


def test_files_of_losses_are_beside_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_DATA", "/data")
    losses = [{"use": "align", "texts": "t.npy", "images": "$EDGE_DATA/i.npy"}]
    parsed = recipe("digits", tmp_path, stages=[{"use": "distill", "losses": losses}])
    options = parsed.stages[0].fields()["losses"][0]["options"]
    assert (options["texts"], options["images"]) == (str(tmp_path / "t.npy"), "/data/i.npy")


def test_values_come_as_the_annotations_say():
    def source(*, path: str | Path, size: tuple[int, int], mean: Sequence[float], free=None, **others: int):
        raise AssertionError("checked, not called")

    given = {"path": "a", "size": [1, 2], "mean": [1], "free": {"a": (1,)}, "more": 3}
    assert check_options(source, given, "data") == {**given, "size": (1, 2), "mean": [1.0]}


def recipe(data, folder, kind="classification", stages=()):
    """A recipe of that data in a folder."""
    table = {
        "task": {"kind": kind, "data": data},
        "teacher": {"model": "compress.models:resnet20"},
        "stage": list(stages),
    }
    return parse(table, name="r", source=str(folder / "r.toml"))
