"""Figures cut out of their images: points stay on what they are points of, however it is turned, and bad ones are named."""

import json

import numpy as np
import pytest

from compress.data.coco_keypoints import coco_keypoints, mirror_pairs
from profiles.errors import UserError
from tests import figures

STILL = {"mirror": False, "turn": 0.0, "zoom": 0.0, "move": 0.0, "colour": 0.0}


def read(root, **options):
    return coco_keypoints(path=figures.write(root) if not root.exists() else root, **{"size": [64, 48], **options})


def colours_at(batch):
    """The colour at each labelled point, and the one that is drawn there."""
    for image, target in zip(batch.inputs, batch.targets, strict=True):
        for (x, y, seen), colour in zip(target[:-1], figures.COLOURS, strict=True):
            if seen and 1 <= x < 47 and 1 <= y < 63:
                yield image[:, int(y), int(x)], np.array(colour) / 255


def test_points_stay_on_their_colours_when_a_figure_is_cut_out(tmp_path):
    test = read(tmp_path / "data", **STILL).test
    batch = test.load(np.arange(4))
    assert batch.inputs.shape == (4, 3, 64, 48) and batch.targets.shape == (4, 6, 3)
    pairs = list(colours_at(batch))
    assert len(pairs) == 20 and all(np.abs(found - drawn).max() < 0.3 for found, drawn in pairs)
    np.testing.assert_array_equal(batch.targets[:, -1, 1:], [[48, 64]] * 4)


def test_and_when_it_is_turned_enlarged_moved_and_mirrored(tmp_path):
    """After a mirror a left hand is a right one, and in the other's colour: of all but the head either will do."""
    train = read(tmp_path / "data", colour=0.0).train
    right, total, mirrored = 0, 0, 0
    for seed in range(4):
        batch = train.load(np.arange(16), np.random.default_rng(seed))
        for image, target in zip(batch.inputs, batch.targets, strict=True):
            for number, (x, y, seen) in enumerate(target[:-1]):
                other = {1: 2, 2: 1, 3: 4, 4: 3}.get(number, number)
                if seen and 1 <= x < 47 and 1 <= y < 63:
                    found = image[:, int(y), int(x)]
                    apart = [np.abs(found - np.array(figures.COLOURS[n]) / 255).max() for n in (number, other)]
                    right, total = right + (min(apart) < 0.45), total + 1
                    mirrored += apart[1] < apart[0]
        assert (batch.targets[:, 1, 0] > batch.targets[:, 2, 0]).mean() > 0.9, "a left hand is to the right, as before"
    assert total > 200 and right / total > 0.95
    assert 0.25 < mirrored / total < 0.55, "half of them, but for the heads'"


def test_area_and_sides_are_of_the_input(tmp_path):
    splits = read(tmp_path / "data", **STILL, padding=0.0)
    figure, target = splits.test.figures[0], splits.test.load(np.arange(1)).targets[0]
    factor = min(48 / figure.box[2], 64 / figure.box[3])
    assert target[-1].tolist() == pytest.approx([figure.area * factor**2, 48, 64], rel=1e-5)
    placed = (figure.points[0, :2] - np.array(figure.box[:2]) - np.array(figure.box[2:]) / 2) * factor + [24, 32]
    np.testing.assert_allclose(target[0, :2], placed, rtol=1e-5)


def test_names_tell_what_changes_places():
    assert mirror_pairs(figures.NAMES) == [(1, 2), (3, 4)]
    assert mirror_pairs(["nose", "left_eye"]) == []


def change(root, **fields):
    file = root / "annotations/person_keypoints_train.json"
    table = json.loads(file.read_text())
    table["annotations"][0] |= fields
    file.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keypoints": [1, 2] * 5}, r"keypoints is x, y and visibility of each of 5 points, 15 numbers; given: 10, without"),
        ({"keypoints": [1, 2, 7] * 5}, r"a visibility is 0 \(not labelled\), 1 \(hidden\) or 2 \(seen\)"),
        ({"bbox": [1, 2, 0, 3]}, "bbox has a width and a height of 1 pixel or more"),
        ({"image_id": 99}, "a figure is of the picture 99, which is not in images"),
    ],
)
def test_bad_figures_are_named(tmp_path, fields, words):
    change(figures.write(tmp_path / "data"), **fields)
    with pytest.raises(UserError, match=words):
        read(tmp_path / "data")


def test_crowds_and_figures_without_points_are_left_out_and_told(tmp_path):
    change(figures.write(tmp_path / "data"), keypoints=[0] * 15)
    splits = read(tmp_path / "data")
    assert len(splits.train) == 15 and splits.notes == ("1 figures without a labelled point were left out",)
    change(tmp_path / "data", iscrowd=1)
    assert read(tmp_path / "data").notes == ("1 crowds were left out",)
    with pytest.raises(UserError, match="(?s)turn is an angle.*move is a share"):
        read(tmp_path / "data", turn=360.0, move=1.0)
