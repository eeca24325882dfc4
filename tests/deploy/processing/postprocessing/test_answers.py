"""Outputs to answers, worked by hand: in pixels of the picture, characters of the text, probabilities."""

import json
import math

import numpy as np
import pytest
import torch

from deploy.processing import whole
from deploy.processing.postprocessing.mask import enlarged, to_picture
from deploy.processing.preprocessing.base import Prepared, Window, Words
from profiles.errors import UserError

PLAIN = Prepared(inputs=np.zeros((1, 3, 4, 4), np.float32))
HALF = Window(picture=(200, 100), size=(64, 64), scale=(0.32, 0.32), offset=(0.0, 16.0))
"""A picture of 200x100 in a letterbox of 64x64: 64x32 of it, 16 rows of grey above."""


def part(tmp_path, use, classes=(), **files):
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "preprocessing.json").write_text('{"use": "array"}')
    (tmp_path / "postprocessing.json").write_text(json.dumps({"schema": 1, "use": use, "classes": list(classes)}))
    for name, content in files.items():
        (tmp_path / name.replace("_json", ".json")).write_text(json.dumps(content))
    return whole.load(tmp_path).after


def test_a_class_is_the_softmax_of_logits(tmp_path):
    answer = part(tmp_path, "classes", ["a", "b", "c"])([np.log([[1.0, 5.0, 2.0]]) + 7], PLAIN)
    assert answer["label"] == "b" and answer["score"] == pytest.approx(5 / 8)
    assert [(each["label"], round(each["score"], 6)) for each in answer["top"]] == [("b", 0.625), ("c", 0.25), ("a", 0.125)]


def test_tags_are_each_for_themselves(tmp_path):
    answer = part(tmp_path, "tags", ["rain", "wind", "dog"])([np.array([[0.0, -math.log(3), math.log(3)]])], PLAIN)
    assert answer["labels"] == ["dog", "rain"] and answer["scores"] == pytest.approx(
        {"rain": 0.5, "wind": 0.25, "dog": 0.75}
    )


def test_boxes_are_in_pixels_of_the_picture_and_end_with_it(tmp_path):
    about = {"schema": 1, "head": "end_to_end", "classes": ["cat", "dog"], "thresholds": [0.5, 0.5], "most_overlap": 0.6}
    boxes = part(tmp_path, "boxes", decode_json={**about, "size": [64, 64], "strides": [8], "anchors": []})
    rows = np.array([[[8, 24, 40, 40, 0.9, 1], [-5, 0, 70, 64, 0.8, 0], [0, 0, 9, 9, 0.4, 0]]], np.float32)
    found = boxes([rows], Prepared(inputs=None, window=HALF))["detections"]
    assert [each["class"] for each in found] == ["dog", "cat"] and found[0]["score"] == pytest.approx(0.9)
    assert found[0]["box"] == pytest.approx([25, 25, 125, 75]) and found[1]["box"] == pytest.approx([0, 0, 200, 100])


def test_a_mask_is_of_the_picture(tmp_path):
    logits = np.zeros((1, 2, 64, 64), np.float32)
    logits[0, 1, 16:32, :32] = 5  # the upper left quarter of what is seen
    mask = part(tmp_path, "mask", ["ground", "roof"])([logits], Prepared(inputs=None, window=HALF))["mask"]
    assert mask.shape == (100, 200) and mask[:50, :100].all() and mask.sum() == 50 * 100


@pytest.mark.parametrize(("old", "new"), [((3, 4), (7, 9)), ((5, 5), (5, 5)), ((8, 6), (3, 4)), ((1, 2), (4, 4))])
def test_logits_are_enlarged_as_the_metric_enlarges_them(old, new):
    values = np.random.default_rng(0).normal(size=(2, *old)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(values)[None], size=new, mode="bilinear")[0]
    np.testing.assert_allclose(enlarged(values, new), wanted.numpy(), atol=1e-6)


def test_what_a_centre_crop_does_not_show_has_its_nearest_edge():
    window = Window(picture=(8, 4), size=(4, 4), scale=(1.0, 1.0), offset=(-2.0, 0.0))
    assert to_picture(np.tile(np.arange(4), (4, 1)), window)[0].tolist() == [0, 0, 0, 1, 2, 3, 3, 3]


def test_points_go_back_to_the_picture(tmp_path):
    heat = np.zeros((1, 2, 8, 8), np.float32)
    heat[0, 0, 4, 2], heat[0, 0, 4, 3], heat[0, 1, 2, 7] = 0.9, 0.5, 0.4  # a quarter of a place to the right
    points = part(tmp_path, "points", ["nose", "ear"])([heat], Prepared(inputs=None, window=HALF))["points"]
    across, down = (2.5 + 0.25) * 8, 4.5 * 8
    assert points[0] == pytest.approx({"name": "nose", "x": across / 0.32, "y": (down - 16) / 0.32, "score": 0.9})
    assert points[1]["y"] == pytest.approx((2.5 * 8 - 16) / 0.32)


def test_entities_are_spans_of_characters(tmp_path):
    text, spans = "Ann Lee saw Rome.", [(0, 3), (4, 7), (8, 11), (12, 16), (16, 17)]
    tags = ["O", "B-person", "I-person", "B-place"]
    first = np.array([-1, 0, 1, -1, 2, 3, 4, -1])  # marks at both ends; the second word is two tokens
    chosen = [3, 1, 2, 3, 0, 3, 0, 1]  # what is no first token does not count
    words = Words(text=text, spans=spans, first_tokens=first)
    found = part(tmp_path, "entities", tags)([np.eye(4)[chosen][None]], Prepared(inputs=None, words=words))["entities"]
    assert found == [
        {"kind": "person", "text": "Ann Lee", "start": 0, "end": 7},
        {"kind": "place", "text": "Rome", "start": 12, "end": 16},
    ]


def test_pictures_values_embeddings_and_what_is_no_kind(tmp_path):
    given = np.array([-0.1, 0.5, 1.2, 0.2], np.float32).reshape(1, 1, 2, 2)
    assert part(tmp_path, "picture")([given], PLAIN)["picture"][..., 0].tolist() == [[0, 128], [255, 51]]
    assert part(tmp_path, "values")([given], PLAIN)["values"].tolist() == given[0].tolist()
    assert part(tmp_path, "embedding")([np.array([[3.0, 0, -4.0]])], PLAIN)["embedding"] == pytest.approx([0.6, 0, -0.8])
    assert part(tmp_path, "outputs")([given, given], PLAIN)["outputs"][1].shape == (1, 2, 2)


@pytest.mark.parametrize("use", ["classes", "tags", "mask", "entities", "picture", "values", "embedding"])
def test_outputs_of_another_shape_are_told(use, tmp_path):
    with pytest.raises(ValueError, match=r"the model gives \(1, 2, 3, 4, 5\)"):
        part(tmp_path, use, ["a"])([np.zeros((1, 2, 3, 4, 5))], PLAIN)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"use": "os:system", "classes": []}, "asks for 'os:system'"),
        ({"use": ["classes"], "classes": []}, "asks for"),
        ({"use": "classes", "classes": "ab"}, "classes are names"),
        ({"use": "classes"}, "KeyError"),
        ({"use": "classes", "classes": [], "schema": 2}, "of schema 2"),
        ([], "holds no table"),
    ],
)
def test_what_postprocessing_json_may_not_say(after, words, tmp_path):
    (tmp_path / "preprocessing.json").write_text('{"use": "array"}')
    (tmp_path / "postprocessing.json").write_text(json.dumps(after))
    with pytest.raises(UserError, match=words) as told:
        whole.load(tmp_path)
    assert len(told.value.faults) == 1 and "\n" not in str(told.value)


@pytest.mark.parametrize("use", ["classes", "tags"])
def test_what_is_no_number_is_no_class(use, tmp_path):
    """The largest of NaN is the first class, which would look like an answer."""
    with pytest.raises(ValueError, match="NaN"):
        part(tmp_path, use, ["a", "b"])([np.array([[math.nan, 1.0]])], PLAIN)
