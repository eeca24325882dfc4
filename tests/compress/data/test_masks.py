"""Images with masks: every layout gives the same labels, labels go with their pixels, and bad masks are named."""

import json

import numpy as np
import pytest
from PIL import Image

from compress.data.box_transforms import BoxPreprocessing
from compress.data.coco_masks import _drawn, coco_masks
from compress.data.mask_samples import NONE, augment_with_labels, fit_labels
from compress.data.masks import VOC_CLASSES, masks
from compress.data.transforms import Normalise
from profiles.errors import UserError

PLAIN = Normalise(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
CLASSES = ["ground", "roof"]
ROOFS = {"train": [(2, 1, 6, 3), (0, 0, 4, 6), (1, 2, 7, 5)], "val": [(3, 3, 8, 6)], "test": [(0, 2, 2, 4)]}
"""Corners of the one roof in each picture of 8 x 6 pixels: left, top, right, bottom."""


def labels_of(roof):
    labels = np.zeros((6, 8), np.uint8)
    left, top, right, bottom = roof
    labels[top:bottom, left:right] = 1
    return labels


def save(image, mask, labels, ending="png"):
    for file in (image, mask):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([200 * labels, 0 * labels, 50 + 0 * labels], axis=2)).save(image.with_suffix(f".{ending}"))
    Image.fromarray(labels).save(mask.with_suffix(".png"))


def as_parts_outside(root):
    for part, roofs in ROOFS.items():
        for n, roof in enumerate(roofs):
            save(root / part / "images" / f"{n}", root / part / "labels" / f"{n}", labels_of(roof))


def as_parts_inside(root):
    for part, roofs in ROOFS.items():
        for n, roof in enumerate(roofs):
            save(root / "img_dir" / part / f"{n}", root / "ann_dir" / part / f"{n}", labels_of(roof))


def as_voc(root):
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for part, roofs in ROOFS.items():
        names = [f"{part}{n}" for n in range(len(roofs))]
        (root / f"ImageSets/Segmentation/{part}.txt").write_text("\n".join(names) + "\n")
        for name, roof in zip(names, roofs, strict=True):
            save(root / "JPEGImages" / name, root / "SegmentationClass" / name, labels_of(roof), "png")
            (root / f"JPEGImages/{name}.png").rename(root / f"JPEGImages/{name}.jpg")  # a name says nothing of what is in it


def as_coco(root):
    (root / "annotations").mkdir(parents=True)
    for part, roofs in ROOFS.items():
        table = {"images": [], "annotations": [], "categories": [{"id": 9, "name": "roof"}]}
        for n, (left, top, right, bottom) in enumerate(roofs):
            save(root / "images" / part / f"{n}", root / "unused" / f"{n}", labels_of((left, top, right, bottom)))
            table["images"].append({"id": n, "file_name": f"{n}.png", "width": 8, "height": 6})
            polygon = [[left, top, right, top, right, bottom, left, bottom]]
            table["annotations"].append({"image_id": n, "category_id": 9, "segmentation": polygon})
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(table))


@pytest.mark.parametrize("write", [as_parts_outside, as_parts_inside, as_voc, as_coco])
def test_every_layout_gives_the_same_labels(tmp_path, write):
    write(tmp_path)
    if write is as_coco:
        splits = coco_masks(path=tmp_path, size=[6, 8])
        assert splits.classes == ("background", "roof")
    else:
        splits = masks(path=tmp_path, size=[6, 8], classes=CLASSES)
        assert splits.classes == ("ground", "roof")
    for part, samples in (("train", splits.train), ("val", splits.validation), ("test", splits.test)):
        batch = samples.load(np.arange(len(samples)))
        np.testing.assert_array_equal(batch.targets, [labels_of(roof) for roof in ROOFS[part]])
        np.testing.assert_array_equal(batch.inputs[:, 0] > 0.5, batch.targets == 1)
        assert batch.targets.dtype == np.int64 and batch.inputs.dtype == np.float32


def test_voc_has_its_own_classes_and_border(tmp_path):
    as_voc(tmp_path)
    mask = Image.open(tmp_path / "SegmentationClass/test0.png")
    values = np.array(mask)
    values[0, 0] = 255
    Image.fromarray(values).save(tmp_path / "SegmentationClass/test0.png")
    splits = masks(path=tmp_path, size=[6, 8])
    assert splits.classes == VOC_CLASSES and len(VOC_CLASSES) == 21
    assert splits.test.load(np.arange(1)).targets[0, 0, 0] == -1


def test_colours_and_numbers_stand_for_what_the_recipe_says(tmp_path):
    as_parts_outside(tmp_path)
    for file in tmp_path.glob("*/labels/*.png"):
        roof = np.array(Image.open(file))
        Image.fromarray(np.where(roof[..., None] == 1, [[[70, 70, 70]]], [[[0, 0, 142]]]).astype(np.uint8)).save(file)
    splits = masks(path=tmp_path, size=[6, 8], classes=CLASSES, values=[[0, 0, 142], [70, 70, 70]])
    np.testing.assert_array_equal(splits.test.load(np.arange(1)).targets[0], labels_of(ROOFS["test"][0]))
    with pytest.raises(UserError, match=r"picture of mode RGB; a mask of numbers has one channel; .* say values = "):
        masks(path=tmp_path, size=[6, 8], classes=CLASSES).test.load(np.arange(1))


def test_labels_are_taken_from_the_nearest_pixel_and_padding_has_none():
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    plain = BoxPreprocessing(normalise=PLAIN, size=(4, 2))
    np.testing.assert_array_equal(fit_labels(labels, plain), [[0, 1], [0, 1], [2, 3], [2, 3]])
    boxed = BoxPreprocessing(normalise=PLAIN, size=(4, 2), resize="letterbox")
    np.testing.assert_array_equal(fit_labels(labels, boxed), [[NONE] * 2, [0, 1], [2, 3], [NONE] * 2])


def test_labels_are_augmented_as_their_pixels_are():
    """Pixels that hold their label: after mirror, crop and shift both still say the same, and what comes in has none."""
    view = BoxPreprocessing(normalise=PLAIN, size=(24, 24), upside_down=True, zoom=0.5, move=0.2, colour=0.0)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.repeat(rng.integers(0, 2, (16, 4, 4), dtype=np.uint8), 6, axis=1), 6, axis=2)
    pixels = np.repeat(labels[..., None] * np.uint8(255), 3, axis=3)
    moved, with_them = augment_with_labels(pixels.copy(), labels.copy(), view, np.random.default_rng(1))
    known = with_them != NONE
    assert 0.5 < known.mean() < 1 and (with_them != labels).mean() > 0.2
    right = (moved[..., 0] > 127) == (with_them == 1)
    assert right[known].mean() > 0.97, "bilinear pixels at an edge aside"
    assert (moved[..., 0][~known] == 114).mean() > 0.8


def test_a_turned_photograph_takes_its_mask_along(tmp_path):
    as_parts_outside(tmp_path)
    labels = labels_of((0, 0, 4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.stack([200 * labels] * 3, axis=2))
    picture.save(tmp_path / "test/images/0.png", exif=exif)
    Image.fromarray(labels).save(tmp_path / "test/labels/0.png")
    batch = masks(path=tmp_path, size=[8, 6], classes=CLASSES).test.load(np.arange(1))
    np.testing.assert_array_equal(batch.targets[0], np.rot90(labels, -1))
    np.testing.assert_array_equal(batch.inputs[0, 0] > 0.5, batch.targets[0] == 1)


def test_small_shapes_are_seen_before_large_ones_and_crowds_have_no_label(tmp_path):
    as_coco(tmp_path)
    file = tmp_path / "annotations/instances_test.json"
    table = json.loads(file.read_text())
    table["categories"].append({"id": 4, "name": "door"})
    whole = {"counts": [0, 48], "size": [6, 8]}
    table["annotations"] = [
        {"image_id": 0, "category_id": 4, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
        {"image_id": 0, "category_id": 9, "segmentation": whole},
        {"image_id": 0, "category_id": 9, "segmentation": {"counts": [42, 6], "size": [6, 8]}, "iscrowd": 1},
    ]
    file.write_text(json.dumps(table))
    targets = coco_masks(path=tmp_path, size=[6, 8], classes=["roof", "door"]).test.load(np.arange(1)).targets[0]
    expected = np.ones((6, 8))
    expected[1:3, 1:3], expected[:, 7] = 2, -1
    np.testing.assert_array_equal(targets, expected)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, r"train/images/0.png has no pair in labels; .*labels/0.png is"),
        (np.full((6, 8), 7, np.uint8), r"pixels of 7, which stand for no class; known: 0, 1, 255; name them in values"),
        (np.zeros((5, 8), np.uint8), r"8x6 pixels and its mask of 8x5"),
        (b"", r"cannot be read as a mask \(it is empty\)"),
    ],
)
def test_bad_masks_are_named(tmp_path, mask, words):
    as_parts_outside(tmp_path)
    file = tmp_path / "train/labels/0.png"
    file.unlink()
    if isinstance(mask, bytes):
        file.write_bytes(mask)
    elif mask is not None:
        Image.fromarray(mask).save(file)
    with pytest.raises(UserError, match=words):
        masks(path=tmp_path, size=[6, 8], classes=CLASSES).train.load(np.arange(3))


def test_wrong_options_are_told_at_once(tmp_path):
    as_parts_outside(tmp_path)
    (tmp_path / "train/labels/1.png").unlink()
    with pytest.raises(UserError) as caught:
        masks(path=tmp_path, size=[6, 8], classes=CLASSES, values=[0, 1, 255])
    text = str(caught.value)
    assert "has no pair in labels" in text
    assert "values has one for each class, 2; given: 3" in text and "more than once: 255" in text
    with pytest.raises(UserError, match=r"has no train/pictures and train/masks, nor .*; it has images, labels; known"):
        masks(path=tmp_path / "val", size=[6, 8], classes=CLASSES, images="pictures")


def test_a_changed_mask_changes_the_fingerprint(tmp_path):
    as_parts_outside(tmp_path)

    def key(**options):
        return masks(path=tmp_path, size=[6, 8], classes=CLASSES, **options).fingerprint()

    before = key()
    assert key() == before and key(ignore=[7]) != before
    Image.fromarray(labels_of((0, 0, 1, 1))).save(tmp_path / "train/labels/0.png")
    assert key() != before


def test_run_lengths_are_those_of_pycocotools(tmp_path):
    """Counts as text, which pycocotools writes, and as numbers, which it reads."""
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        drawn = (rng.random((40, 57)) < share).astype(np.uint8)
        written = mask.encode(np.asfortranarray(drawn))
        text = {"size": [40, 57], "counts": written["counts"].decode()}
        np.testing.assert_array_equal(_drawn(text, 40, 57), drawn)
        numbers = np.diff(np.flatnonzero(np.diff(drawn.T.reshape(-1), prepend=0, append=2)), prepend=0).tolist()
        np.testing.assert_array_equal(_drawn({"size": [40, 57], "counts": numbers}, 40, 57), drawn)
    with pytest.raises(ValueError, match="not those of 2280 pixels"):
        _drawn({"size": [40, 57], "counts": [5, 10**12]}, 40, 57)


def test_images_without_masks_are_of_train_alone(tmp_path):
    as_parts_outside(tmp_path / "data")
    more = tmp_path / "more"
    more.mkdir()
    for n in range(2):
        Image.fromarray(np.full((6, 8, 3), 90 * n, np.uint8)).save(more / f"{n}.png")
    given = {"path": tmp_path / "data", "size": [6, 8], "classes": CLASSES, "calibration": 3, "zoom": 0.0, "move": 0.0}
    plain, splits = masks(**given), masks(**given, unlabelled=more)
    assert len(splits.train) == len(plain.train) + 2 == 5 and len(splits.validation) == len(plain.validation)
    assert splits.notes == ("2 images of train have no labels",)
    batch = splits.train.load(np.arange(5))
    assert (batch.targets[3:] == -1).all() and (batch.targets[:3] >= 0).all()
    np.testing.assert_allclose(batch.inputs[4], 90 / 255, atol=1e-6)
    assert splits.train.fingerprint() != plain.train.fingerprint()
    assert (splits.calibration.load(np.arange(3)).targets >= 0).all()
    with pytest.raises(UserError, match="unlabelled: .* is no folder with images"):
        masks(**given, unlabelled=tmp_path / "none")
