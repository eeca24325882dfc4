"""Pictures with boxes, written here: VOC, COCO and YOLO layouts of the same coloured rectangles."""

import json

import numpy as np
import pytest
from PIL import Image

from compress.data import box_samples
from compress.data.box_transforms import FILL, BoxPreprocessing, augment_with_boxes
from compress.data.coco import coco
from compress.data.transforms import Normalise
from compress.data.voc import voc
from compress.data.yolo import yolo
from compress.tasks.detection import Detection
from profiles.errors import UserError

PLAIN = Normalise(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
COLOURS = {"ant": (255, 0, 0), "bee": (0, 0, 255)}
STILL = {"mirror": False, "zoom": 0.0, "move": 0.0, "colour": 0.0}

PICTURES = {
    "train": [[("ant", 10, 20, 50, 40)], [("bee", 0, 0, 30, 60), ("ant", 60, 30, 80, 50)], [("ant", 5, 5, 25, 35)], []],
    "val": [[("bee", 20, 10, 60, 50)]],
    "test": [[("ant", 40, 20, 70, 40)]],
}
"""Objects of each picture of 80 x 60 pixels: class and corners in pixels."""


def paint(objects, width=80, height=60):
    image = Image.new("RGB", (width, height), (0, 80, 0))
    for kind, *corners in objects:
        image.paste(COLOURS[kind], tuple(corners))
    return image


def each():
    for part, pictures in PICTURES.items():
        for number, objects in enumerate(pictures):
            yield part, f"{part}{number}", objects


def as_voc(root):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for part in PICTURES:
        names = [name for each_part, name, _ in each() if each_part == part]
        (root / f"ImageSets/Main/{part}.txt").write_text("\n".join(names) + "\n")
    for _, name, objects in each():
        paint(objects).save(root / f"JPEGImages/{name}.jpg", quality=100, subsampling=0)
        write_xml(root, name, [(k, x1 + 1, y1 + 1, x2, y2) for k, x1, y1, x2, y2 in objects])
    return root


def write_xml(root, name, objects, difficult=0):
    rows = [
        f"<object><name>{k}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for k, x1, y1, x2, y2 in objects
    ]
    size = "<size><width>80</width><height>60</height></size>"
    (root / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{''.join(rows)}</annotation>")


def as_coco(root):
    (root / "annotations").mkdir(parents=True)
    for part in PICTURES:
        (root / "images" / f"{part}2017").mkdir(parents=True)
        table = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "bee"}, {"id": 3, "name": "ant"}]}
        for number, (each_part, name, objects) in enumerate(each()):
            if each_part != part:
                continue
            table["images"].append({"id": number, "file_name": f"{name}.png", "width": 80, "height": 60})
            paint(objects).save(root / "images" / f"{part}2017" / f"{name}.png")
            for kind, x1, y1, x2, y2 in objects:
                entry = {"image_id": number, "category_id": 3 if kind == "ant" else 7, "iscrowd": 0}
                table["annotations"].append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        (root / f"annotations/instances_{part}2017.json").write_text(json.dumps(table))
    return root


def as_yolo(root):
    for part, name, objects in each():
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        paint(objects).save(root / f"images/{part}/{name}.png")
        rows = [
            f"{list(COLOURS).index(k)} {(x1 + x2) / 160} {(y1 + y2) / 120} {(x2 - x1) / 80} {(y2 - y1) / 60}"
            for k, x1, y1, x2, y2 in objects
        ]
        if rows:
            (root / f"labels/{part}/{name}.txt").write_text("\n".join(rows))
    return root


@pytest.fixture(autouse=True)
def steps(tmp_path, monkeypatch):
    (tmp_path / "steps").mkdir()
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))


SOURCES = {"voc": (voc, as_voc, {}), "coco": (coco, as_coco, {}), "yolo": (yolo, as_yolo, {"classes": ["ant", "bee"]})}


def read(kind, root, **options):
    source, write, own = SOURCES[kind]
    if not root.exists():
        write(root)
    return source(path=str(root), **{"size": [30, 40], **own, **options})


def real(batch, row=0):
    return batch.targets[row][batch.targets[row][:, 0] >= 0]


@pytest.mark.parametrize("kind", SOURCES)
def test_every_layout_gives_the_same_boxes_on_the_same_pixels(kind, tmp_path):
    splits = read(kind, tmp_path / "data")
    assert splits.classes == ("ant", "bee") and splits.test.classes == splits.classes
    assert [len(part) for part in (splits.train, splits.calibration, splits.validation, splits.test)] == [4, 4, 1, 1]
    batch = splits.test.load(np.array([0]))
    assert batch.inputs.shape == (1, 3, 30, 40) and batch.inputs.dtype == np.float32
    np.testing.assert_allclose(real(batch), [[0, 20, 10, 35, 20]], atol=1e-4)
    np.testing.assert_allclose(batch.inputs[0, :, 12:18, 22:33].mean((1, 2)), [1, 0, 0], atol=0.02)
    both = splits.train.load(np.arange(4)).targets
    assert both.shape == (4, 2, 5) and both.dtype == np.float32
    np.testing.assert_allclose(both[1], [[1, 0, 0, 15, 30], [0, 30, 15, 40, 25]], atol=1e-4)
    np.testing.assert_allclose(both[3], [[-1, 0, 0, 0, 0]] * 2)
    Detection().check(splits)


def test_letterbox_keeps_proportions_and_tells_how(tmp_path):
    splits = read("yolo", tmp_path / "data", size=[40, 40], resize="letterbox")
    batch = splits.test.load(np.array([0]))
    np.testing.assert_allclose(real(batch), [[0, 20, 15, 35, 25]], atol=1e-4)  # 40 x 30 between rows of 5
    np.testing.assert_allclose(batch.inputs[0, :, [0, 4, 35, 39]], FILL / 255, atol=1e-6)
    assert splits.preprocessing["resize"] == "letterbox" and splits.preprocessing["size"] == [40, 40]


def test_channels_in_the_models_order(tmp_path):
    rgb = read("yolo", tmp_path / "data").test.load(np.array([0])).inputs
    bgr = read("yolo", tmp_path / "data", order="bgr").test.load(np.array([0])).inputs
    np.testing.assert_array_equal(bgr, rgb[:, ::-1])


def test_without_antialias_it_takes_the_pixels_that_opencv_takes(tmp_path):
    """Shrunk by 4, bilinear reads the two middle pixels of four: a line beside them is not seen."""
    root = as_yolo(tmp_path / "data")
    image = Image.new("RGB", (80, 60))
    image.paste((255, 255, 255), (4, 0, 5, 60))
    image.save(root / "images/test/test0.png")
    plain, smooth = (read("yolo", root, size=[15, 20], antialias=a).test.load(np.array([0])).inputs for a in (False, True))
    assert plain[0, 0, 5, 1] == 0
    assert smooth[0, 0, 5, 1] > 0.1


def test_what_is_dropped_is_counted_and_said(tmp_path):
    root = as_voc(tmp_path / "data")
    write_xml(
        root, "train0", [("ant", 10, 20, 50, 40), ("ant", 30, 30, 30, 30), ("bee", 90, 10, 95, 20), ("bee", 70, 50, 99, 60)]
    )
    splits = read("voc", root)
    assert splits.notes == ("2 boxes without extent inside their picture were dropped",)
    kept = real(splits.train.load(np.array([0])))
    np.testing.assert_allclose(kept, [[0, 4.5, 9.5, 25, 20], [1, 34.5, 24.5, 40, 30]], atol=1e-4)


def test_difficult_and_crowds_are_left_out_and_said(tmp_path):
    root = as_voc(tmp_path / "voc")
    write_xml(root, "test0", [("ant", 1, 1, 20, 20)])
    write_xml(root, "train0", [("ant", 1, 1, 20, 20)], difficult=1)
    assert read("voc", root).notes == ("1 boxes marked difficult were left out",)
    assert read("voc", root, difficult=True).notes == ()
    root = as_coco(tmp_path / "coco")
    file = root / "annotations/instances_train2017.json"
    table = json.loads(file.read_text())
    table["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(table))
    assert read("coco", root).notes == ("1 boxes around crowds were left out",)


def test_without_parts_they_are_held_out(tmp_path):
    root = as_voc(tmp_path / "data")
    for part in ("val", "test"):
        (root / f"ImageSets/Main/{part}.txt").unlink()
    splits = read("voc", root, validation=1, test=1)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2, 1, 1]


def view(**options):
    return BoxPreprocessing(normalise=PLAIN, size=(30, 40), **{**STILL, **options})


def test_boxes_move_with_the_picture():
    """A white rectangle: after any augmentation the box is where the white is."""
    pixels = np.zeros((64, 30, 40, 3), np.uint8)
    pixels[:, 10:20, 8:24] = 255
    boxes = np.tile(np.array([[[1, 8, 10, 24, 20]]], np.float32), (64, 1, 1))
    made, moved = augment_with_boxes(
        pixels, boxes, view(mirror=True, upside_down=True, zoom=0.5, move=0.3), np.random.default_rng(0)
    )
    checked = 0
    for picture, (label, x1, y1, x2, y2) in zip(made[..., 0], moved[:, 0], strict=True):
        if label < 0:
            continue
        ys, xs = np.nonzero((picture > 180) & (picture != FILL))
        np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x1, y1, x2, y2], atol=1.01)
        checked += 1
    assert checked > 48
    assert len({tuple(row) for row in moved[:, 0].tolist()}) > 40


def test_mirroring_by_hand():
    pixels, boxes = np.zeros((50, 30, 40, 3), np.uint8), np.full((50, 2, 5), -1, np.float32)
    boxes[:, 0], boxes[:, 1, 1:] = (0, 4, 6, 10, 16), 0
    _, made = augment_with_boxes(pixels, boxes, view(mirror=True), np.random.default_rng(0))
    assert {tuple(row) for row in made[:, 0].tolist()} == {(0, 4, 6, 10, 16), (0, 30, 6, 36, 16)}
    assert (made[:, 1] == [-1, 0, 0, 0, 0]).all()


def test_colour_varies_and_stays_a_picture():
    pixels = np.full((20, 30, 40, 3), 200, np.uint8)
    made, _ = augment_with_boxes(pixels, np.full((20, 1, 5), -1, np.float32), view(colour=0.2), np.random.default_rng(0))
    assert made.min() > 120 and made[:, 0, 0].std() > 5


def test_only_training_changes_and_the_generator_alone_decides(tmp_path):
    splits = read("yolo", tmp_path / "data")
    first, again, other = (splits.train.load(np.arange(3), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    np.testing.assert_array_equal(first.targets, again.targets)
    assert not np.array_equal(first.targets, other.targets)
    plain = splits.train.load(np.arange(3))
    np.testing.assert_array_equal(plain.targets, next(splits.train.batches(3)).targets)


def test_the_fingerprint_follows_pixels_boxes_and_settings(tmp_path):
    root = as_yolo(tmp_path / "data")
    before = read("yolo", root).fingerprint()
    assert read("yolo", root).fingerprint() == before
    assert read("yolo", root, zoom=0.1).fingerprint() != before
    (root / "labels/train/train0.txt").write_text("1 0.5 0.5 0.5 0.5")
    moved = read("yolo", root).fingerprint()
    assert moved != before
    paint([]).save(root / "images/train/train0.png")
    assert read("yolo", root).fingerprint() not in (before, moved)


def test_much_is_held_in_a_file(tmp_path, monkeypatch):
    root = as_yolo(tmp_path / "data")
    small = read("yolo", root).train.load(np.arange(4)).inputs
    monkeypatch.setattr(box_samples, "IN_MEMORY_BYTES", 100)
    samples = read("yolo", root).train
    np.testing.assert_array_equal(samples.load(np.arange(4)).inputs, small)
    assert isinstance(samples._held._pixels, np.memmap)


def faults(kind, root, **options):
    with pytest.raises(UserError) as caught:
        read(kind, root, **options)
    return caught.value.faults


def test_all_faults_of_voc_at_once(tmp_path):
    root = as_voc(tmp_path / "data")
    (root / "Annotations/train0.xml").write_text("<annotation><object>")
    (root / "Annotations/train1.xml").unlink()
    write_xml(root, "val0", [("bea", 1, 1, 9, 9)])
    (root / "Annotations/test0.xml").write_text("<annotation><size><width>80</width></size></annotation>")
    found = "\n".join(faults("voc", root, classes=["ant", "bee"]))
    assert "train0.xml is not XML" in found
    assert "train1.xml is not there, and train1 is in the lists of ImageSets/Main" in found
    assert "unknown class 'bea' (did you mean 'bee'?)" in found
    assert "test0.xml: <annotation> has no <size><height>" in found


def test_all_faults_of_yolo_at_once(tmp_path):
    root = as_yolo(tmp_path / "data")
    (root / "labels/train/train0.txt").write_text("0 0.5 0.5\n2 0.5 0.5 0.1 0.1\n0 50 50 10 10\n1 .5 .5 .2 .2 .3")
    (root / "images/train/train1.png").write_bytes(b"no picture")
    found = "\n".join(faults("yolo", root))
    rows = '"class x y width height", or a polygon "class x1 y1 x2 y2 x3 y3 ..."'
    assert f"train0.txt, row 1: a row is {rows}; given: '0 0.5 0.5'" in found
    assert "row 2: class 2 is unknown; allowed: 0 to 1" in found
    assert "row 3: positions are shares of the picture" in found
    assert "row 4: a row is" in found
    assert "train1.png cannot be opened" in found


def test_all_faults_of_coco_at_once(tmp_path):
    root = as_coco(tmp_path / "data")
    file = root / "annotations/instances_val2017.json"
    table = json.loads(file.read_text())
    table["categories"].append({"id": 9, "name": "wasp"})
    table["annotations"] += [
        {"image_id": 99, "category_id": 3, "bbox": [1, 1, 5, 5]},
        {"image_id": 4, "category_id": 5, "bbox": [1, 1, 5, 5]},
        {"image_id": 4, "category_id": 3, "bbox": [1, 1]},
    ]
    file.write_text(json.dumps(table))
    found = "\n".join(faults("coco", root))
    for words in ("unknown class 'wasp'", "of the picture 99, which is not in images", "of the category 5", "given: [1, 1]"):
        assert words in found
    file.write_text("{")
    assert "instances_val2017.json: " in faults("coco", root)[0]
    file.write_text('{"images": [{"id": 1}], "annotations": []}')
    assert "an entry of images has no file_name" in faults("coco", root)[0]


def test_folders_that_are_missing_are_told(tmp_path):
    assert "no JPEGImages, Annotations, ImageSets/Main/train.txt" in faults("voc", _empty(tmp_path / "a"))[0]
    assert "no annotations/instances_train*.json" in faults("coco", _empty(tmp_path / "b"))[0]
    assert "neither images/train nor train/images" in faults("yolo", _empty(tmp_path / "c"))[0]
    with pytest.raises(UserError, match="is not a folder; give one that holds images/train and labels/train"):
        yolo(path=str(tmp_path / "none"), size=[30, 40], classes=["ant"])
    with pytest.raises(UserError, match="obj.names is not there; give a file under path with a name a row"):
        yolo(path=str(tmp_path / "c"), size=[30, 40], names="obj.names")


def _empty(folder):
    folder.mkdir()
    return folder


def test_no_boxes_at_all_is_told(tmp_path):
    root = as_yolo(tmp_path / "data")
    for file in (root / "labels").rglob("*.txt"):
        file.unlink()
    assert "not one of 6 pictures has a box; is this the right folder?" in faults("yolo", root)[0]


def test_pictures_that_are_not_there_or_of_another_size_are_told(tmp_path):
    root = as_voc(tmp_path / "data")
    (root / "JPEGImages/train0.jpg").unlink()
    assert "train0.jpg is annotated and not there" in faults("voc", root)[0]
    paint([], 60, 80).save(root / "JPEGImages/train0.jpg")
    with pytest.raises(UserError, match="is of 60x80 pixels, and its annotation says 80x60; boxes would be off"):
        read("voc", root).train.load(np.arange(2))


def test_settings_that_are_not_possible_are_told_at_once(tmp_path):
    found = "\n".join(faults("yolo", tmp_path / "data", size=[0, 40], resize="crop", zoom=-1, move=1.0, colour=2))
    for words in (
        "size is the input's height and width",
        "resize is one of plain, letterbox",
        "zoom is",
        "move is",
        "colour is",
    ):
        assert words in found
    assert "give either classes, a list of names, or names" in faults("yolo", tmp_path / "data", classes=[])[0]
