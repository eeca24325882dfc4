"""Masks and keypoints behind boxes: read, moved with their pictures, drawn."""

import json

import numpy as np
import pytest

from compress.data import coco_shapes as shapes
from compress.data import object_rows as rows_of
from compress.data.box_transforms import augment_with_boxes, make_box_preprocessing
from deploy.processing.detection.objects import run_lengths
from deploy.processing.detection.rows import draw, kind_of, points_of
from profiles.errors import UserError
from tests import instances

STILL = {"mirror": False, "zoom": 0.0, "move": 0.0, "colour": 0.0}


def test_run_lengths_become_rectangles_that_are_the_mask():
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 9)) > 0.5, np.ones((3, 5), bool), np.zeros((4, 4), bool), np.tri(8, dtype=bool)):
        given = {"size": list(mask.shape), "counts": run_lengths(mask)}
        np.testing.assert_array_equal(draw(shapes.polygons_of(given, *mask.shape), *mask.shape), mask)
    whole = shapes.polygons_of({"size": [3, 5], "counts": [0, 15]}, 3, 5)
    assert whole.tolist() == [[0, 0, 0], [5, 0, 0], [5, 3, 0], [0, 3, 0]], "runs side by side are one rectangle"


def test_polygons_of_one_object_are_drawn_together():
    """A square of 2 x 3 and one of 1 x 1, the last vertices only filling up."""
    vertices = shapes.polygons_of([[1, 1, 3, 1, 3, 4, 1, 4], [5, 0, 6, 0, 6, 1, 5, 1]], 6, 6)
    row = rows_of.empty_row(5 + 33)
    row[: 5 + 24] = rows_of.joined(np.zeros((1, 5), np.float32), vertices[None], None)[0]
    assert kind_of(len(row)) == "masks"
    expected = np.zeros((6, 6), bool)
    expected[1:4, 1:3] = expected[0, 5] = True
    np.testing.assert_array_equal(draw(points_of(row), 6, 6), expected)


def test_a_ragged_mask_is_taken_coarser_and_a_polygon_without_end_is_told():
    """Of a chessboard of single pixels, 2 ** 15 rectangles, every second row and column is all there is left: one colour."""
    board = np.indices((256, 256)).sum(axis=0) % 2 == 0
    found = shapes.polygons_of({"size": [256, 256], "counts": run_lengths(board)}, 256, 256)
    assert len(found) <= shapes.MOST_VERTICES and found[:, :2].max() == 256
    coarse = board[1::2, 1::2]
    np.testing.assert_array_equal(draw(found, 256, 256), np.kron(coarse, np.ones((2, 2), bool)))
    with pytest.raises(ValueError, match="run lengths of 40000 x 40000 pixels; at most 134,217,728"):
        shapes.polygons_of({"size": [40000, 40000], "counts": [1600000000]}, 40000, 40000)
    with pytest.raises(ValueError, match="its polygons have 20000 points; at most 16384"):
        shapes.polygons_of([[0.5] * 40000], 9, 9)


def test_points_move_with_a_picture_by_hand():
    """Twice as large with the corner at (-4, 2) of 20 x 20: (3, 5) is at (2, 12), and (12, 1) at (20, 4); (13, 1) is out."""
    boxes = np.array([[0, 2, 1, 12, 6]], np.float32)
    points = np.array([[[3, 5, 2], [12, 1, 1], [13, 1, 2]]], np.float32)
    rows = rows_of.joined(boxes, points, np.array([7.0], np.float32))[None]
    two, left, top = np.array([2.0]), np.array([-4.0]), np.array([2.0])
    rows_of.move_points(rows, two, left, top, (20, 20))
    assert points_of(rows)[0, 0].tolist() == [[2, 12, 2], [20, 4, 1], [22, 4, 0]]
    assert rows[0, 0, -1] == 28
    rows_of.mirror_points(rows, 20, across=True, pairs=[(0, 1)])
    assert points_of(rows)[0, 0].tolist() == [[0, 4, 1], [18, 12, 2], [-2, 4, 0]]
    rows_of.mirror_points(rows, 20, across=False, pairs=[(0, 1)])
    assert points_of(rows)[0, 0].tolist() == [[0, 16, 1], [18, 8, 2], [-2, 16, 0]]


def test_points_turn_with_a_picture():
    points = np.array([[[1, 2, 2], [3, 0, -1]]], np.float32)
    assert rows_of.turned_points(points, (10, 6), 3).tolist() == [[[9, 4, 2], [7, 6, -1]]]
    assert rows_of.turned_points(points, (10, 6), 6).tolist() == [[[4, 1, 2], [6, 3, -1]]]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return instances.write(tmp_path_factory.mktemp("instances") / "data", (12, 4, 4))


def test_masks_lie_on_what_is_drawn(root):
    """In augmented pictures too: every pixel of a mask, but for its edge, is bright in its class's colour."""
    train = instances.splits(root, "masks", colour=0.0).train
    for augment in (None, np.random.default_rng(1), np.random.default_rng(2)):
        batch = train.load(np.arange(12), augment)
        shares = []
        for image, objects in zip(batch.inputs, batch.targets, strict=True):
            for row in objects[objects[:, 0] >= 0]:
                mask = draw(points_of(row), 32, 32)
                x1, y1, x2, y2 = row[1:5]
                assert mask[max(0, int(y1) - 1) : int(y2) + 2, max(0, int(x1) - 1) : int(x2) + 2].sum() == mask.sum()
                shares.append((image[int(row[0])][mask] > 0.5).mean())
        assert len(shares) > 15 and np.mean(shares) > 0.9


def test_keypoints_are_the_middles_of_what_is_drawn(root):
    splits = instances.splits(root, "keypoints", colour=0.0, move=0.0, zoom=0.0, upside_down=True)
    batch = splits.train.load(np.arange(12), np.random.default_rng(3))
    real = batch.targets[batch.targets[..., 0] >= 0]
    points = points_of(real)
    np.testing.assert_allclose(points[:, 2, :2], (real[:, 1:3] + real[:, 3:5]) / 2, atol=1e-4)
    np.testing.assert_allclose(points[:, :2, 0], real[:, [1, 3]], atol=1e-4, err_msg="left is left in a mirror too")
    assert splits.train.load(np.arange(2)).targets.shape == (2, 2, 5 + 9 + 1)


def test_wide_pictures_take_their_points_along(root):
    small = instances.splits(root, "masks", size=[64, 16], **STILL).test.load(np.arange(1)).targets[0]
    whole = instances.splits(root, "masks", **STILL).test.load(np.arange(1)).targets[0]
    scale = np.array([0.5, 2, 1], np.float32)
    np.testing.assert_allclose(points_of(small), points_of(whole) * scale, atol=1e-4)


def test_shapes_that_are_none_are_told_at_once(tmp_path):
    root = instances.write(tmp_path / "data", (3, 1, 1))
    file = root / "annotations/instances_train.json"
    table = json.loads(file.read_text())
    for entry, shape in zip(table["annotations"], ([[1, 2, 3]], {"size": [9, 9], "counts": [81]}, "x", []), strict=False):
        entry["segmentation"] = shape
    file.write_text(json.dumps(table))
    with pytest.raises(UserError) as told:
        instances.splits(root, "masks")
    assert [fault.partition(".png: ")[2] for fault in told.value.faults] == [
        "a polygon is a list of x and y in turns, three points or more",
        "run lengths of a picture of [9, 9], which is [32, 32]",
        "a segmentation is a list of polygons, or run lengths",
    ]
    file = root / "annotations/person_keypoints_train.json"
    table = json.loads(file.read_text())
    table["annotations"][0]["keypoints"] = [1, 2, 1, 2]
    file.write_text(json.dumps(table))
    with pytest.raises(UserError, match=r"keypoints of 0.png: .* 9 numbers; given: 4, without visibilities"):
        instances.splits(root, "keypoints")


@pytest.mark.parametrize("objects", ["masks", "keypoints"])
def test_pictures_without_an_object_have_rows_of_the_same_kind(objects, tmp_path):
    root = instances.write(tmp_path / "data", (3, 1, 1))
    for start in ("instances", "person_keypoints"):
        file = root / f"annotations/{start}_train.json"
        table = json.loads(file.read_text())
        table["annotations"] = [entry for entry in table["annotations"] if entry["image_id"] == 1]
        file.write_text(json.dumps(table))
    train = instances.splits(root, objects, calibration=1).train
    batch = train.load(np.array([0, 2]), np.random.default_rng(0))
    assert kind_of(batch.targets.shape[2]) == objects and (batch.targets[..., 0] == -1).all()
    assert (train.load(np.array([1])).targets[..., 0] >= 0).all()


def test_a_row_that_is_gone_says_nothing():
    view = make_box_preprocessing(size=[20, 20], mean=(), deviation=(), order="rgb", scale=1.0, move=0.9, mirror=False)
    boxes = np.array([[1, 0, 0, 3, 3]], np.float32)
    vertices = np.array([[[0, 0, 0], [3, 0, 0], [3, 3, 0]]], np.float32)
    rows = np.repeat(rows_of.joined(boxes, vertices, None)[None], 40, axis=0)
    _, moved = augment_with_boxes(np.zeros((40, 20, 20, 3), np.uint8), rows, view, np.random.default_rng(0))
    gone = moved[moved[..., 0] < 0]
    assert len(gone) > 5 and (gone == rows_of.empty_row(14)).all()
