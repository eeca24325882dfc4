"""One decoder for all sources of images: what a file holds is what a viewer shows, with boxes and without."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageOps

from compress.data.coco import coco
from compress.data.decoding import read_header, turned_boxes, upright
from compress.data.images import images
from compress.data.voc import voc
from compress.data.yolo import yolo
from compress.tasks.classification import Classification
from compress.tasks.detection import Detection
from profiles.errors import UserError

WIDE, HIGH = 48, 32
BOX = (4, 6, 20, 14)
"""Left, top, right and bottom of a bright box as shown; nothing else is bright."""

SOURCES = ("images", "yolo", "coco", "voc")
STILL = {"mirror": False, "mean": [0, 0, 0], "deviation": [1, 1, 1]}
ONE_EACH = {"validation": 1, "test": 1, "calibration": 1}
LEVEL = 180


def shown(level=240, ground=20):
    """An image with a box, as a viewer shows it."""
    pixels = np.full((HIGH, WIDE, 3), ground, np.uint8)
    left, top, right, bottom = BOX
    pixels[top:bottom, left:right] = level
    return Image.fromarray(pixels)


def stored(image, orientation):
    """The pixels and EXIF of a camera that was held so."""
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Transpose.FLIP_LEFT_RIGHT ... by number
    exif = Image.Exif()
    exif[0x0112] = orientation
    return (image.transpose(Image.Transpose(turns[back])) if orientation > 1 else image), exif


def source(kind, folder, files, size=None, box=BOX, **options):
    """A source of those files (name to function that writes it), each with one box on a picture of ``size``."""
    size = size or (WIDE, HIGH)
    names = [f"{number}{Path('x' + suffix).suffix}" for number, suffix in enumerate(files)]
    places = {"images": "train/a", "yolo": "images/train", "coco": "train", "voc": "JPEGImages"}
    place = folder / places[kind]
    place.mkdir(parents=True)
    for name, write in zip(names, files.values(), strict=True):
        write(place / name)
    left, top, right, bottom = box
    if kind == "yolo":
        (folder / "labels/train").mkdir(parents=True)
        row = [
            (left + right) / 2 / size[0],
            (top + bottom) / 2 / size[1],
            (right - left) / size[0],
            (bottom - top) / size[1],
        ]
        for name in names:
            (folder / "labels/train" / name).with_suffix(".txt").write_text(" ".join(map(str, [0, *row])))
    if kind == "coco":
        (folder / "annotations").mkdir()
        listed = [{"id": i, "file_name": n, "width": size[0], "height": size[1]} for i, n in enumerate(names)]
        boxes = [
            {"image_id": i, "category_id": 1, "bbox": [left, top, right - left, bottom - top]} for i in range(len(names))
        ]
        table = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
        (folder / "annotations/instances_train.json").write_text(json.dumps(table))
    if kind == "voc":
        as_voc(folder, names, size, box)
    extra = {"augment": "none", "short_side": HIGH} if kind == "images" else {"zoom": 0, "move": 0, "colour": 0}
    extra |= {"classes": ["a"]} if kind in ("yolo", "voc") else {}
    call = {"images": images, "yolo": yolo, "coco": coco, "voc": voc}[kind]
    return call(path=folder, size=[HIGH, WIDE], **{**STILL, **ONE_EACH, **extra, **options})


def as_voc(folder, names, size, box):
    (folder / "Annotations").mkdir()
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/train.txt").write_text("\n".join(name.split(".")[0] for name in names))
    for name in names:
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = name
        for key, value in zip(("width", "height"), size, strict=True):
            place = root.find("size") if root.find("size") is not None else ElementTree.SubElement(root, "size")
            ElementTree.SubElement(place, key).text = str(value)
        each = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(each, "name").text = "a"
        corners = ElementTree.SubElement(each, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True):
            ElementTree.SubElement(corners, key).text = str(value)
        ElementTree.ElementTree(root).write((folder / "Annotations" / name).with_suffix(".xml"))


def inputs(splits):
    """All inputs of the four splits, and their boxes where there are any."""
    batches = [part.load(np.arange(len(part))) for part in (splits.train, splits.validation, splits.test)]
    return np.concatenate([b.inputs for b in batches]), [row for b in batches for row in b.targets]


FORMATS = {
    ".png": lambda image, file: image.save(file),
    ".jpg": lambda image, file: image.save(file, quality=95),
    ".jpeg": lambda image, file: image.convert("CMYK").save(file, quality=95),
    ".tif": lambda image, file: image.save(file),
    ".tiff": lambda image, file: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(file),
    ".bmp": lambda image, file: image.save(file),
    ".webp": lambda image, file: image.save(file, lossless=True),
    ".gif": lambda image, file: image.save(file),
    ".0.png": lambda image, file: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(file),
    ".1.png": lambda image, file: image.quantize(4).save(file),
    ".2.png": lambda image, file: image.convert("L").save(file),
    ".3.png": lambda image, file: image.convert("LA").save(file),
    ".4.png": lambda image, file: image.convert("RGBA").save(file),
    ".5.png": lambda image, file: image.quantize(4).save(file, transparency=0),
    ".ppm": lambda image, file: image.save(file),
    ".PNG": lambda image, file: image.save(file, format="PNG"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_each_format_and_mode_gives_the_same_grey_from_each_source(kind, tmp_path):
    files = {suffix: (lambda file, write=write: write(shown(LEVEL, 20), file)) for suffix, write in FORMATS.items()}
    splits = source(kind, tmp_path / "d", files)
    pixels, _ = inputs(splits)
    assert len(pixels) == len(FORMATS)
    left, top, right, bottom = BOX
    box = pixels[:, :, top + 2 : bottom - 2, left + 2 : right - 2]
    np.testing.assert_allclose(box, LEVEL / 255, atol=0.03)
    np.testing.assert_allclose(pixels[:, :, 20:, 26:], 20 / 255, atol=0.03)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", SOURCES)
def test_images_are_turned_as_shown_and_boxes_are_of_what_is_shown(kind, orientation, tmp_path):
    image, exif = stored(shown(), orientation)
    files = {
        ".jpg": lambda file: image.save(file, exif=exif, quality=95),
        ".png": lambda file: image.save(file, exif=exif),
        ".tif": lambda file: image.save(file, exif=exif),
        ".webp": lambda file: image.save(file, exif=exif, lossless=True),
    }
    splits = source(kind, tmp_path / "d", files)
    check_boxes(*inputs(splits), kind)
    assert any("turned as their EXIF says" in note for note in splits.notes) == (orientation > 1 and kind != "images")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_boxes_of_a_tool_that_did_not_turn_are_turned_with_their_image(kind, orientation, tmp_path):
    image, exif = stored(shown(), orientation)
    bright = np.argwhere(np.asarray(image)[..., 0] > 128)
    (top, left), (bottom, right) = bright.min(0), bright.max(0) + 1
    box = [int(value) for value in (left, top, right, bottom)]
    files = {".jpg": lambda file: image.save(file, exif=exif, quality=95)} | {
        f".{number}.png": lambda file: image.save(file, exif=exif) for number in range(3)
    }
    splits = source(kind, tmp_path / "d", files, size=image.size, box=box)
    check_boxes(*inputs(splits), kind)
    assert any("of the pixels as stored" in note for note in splits.notes)


def check_boxes(pixels, targets, kind):
    """Every bright pixel lies in the box, and every box is bright."""
    expected = np.zeros((HIGH, WIDE), bool)
    left, top, right, bottom = BOX
    expected[top:bottom, left:right] = True
    for each in pixels:
        assert ((each.mean(0) > 0.5) != expected).mean() < 0.01
    if kind != "images":
        for rows in targets:
            np.testing.assert_allclose(rows[rows[:, 0] >= 0][:, 1:], [BOX], atol=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_boxes_are_where_pillow_puts_their_pixels(orientation):
    image, exif = stored(shown(), 1)
    exif[0x0112] = orientation
    image.getexif().update(exif)
    turned = np.asarray(ImageOps.exif_transpose(image))[..., 0] > 128
    (top, left), (bottom, right) = np.argwhere(turned).min(0), np.argwhere(turned).max(0) + 1
    boxes = turned_boxes(np.array([[3, *BOX]], np.float32), image.size, orientation)
    np.testing.assert_array_equal(boxes, [[3, left, top, right, bottom]])


def test_a_tiff_is_turned_once_and_its_head_says_how_it_is_shown(tmp_path):
    image, exif = stored(shown(), 6)
    image.save(tmp_path / "x.tif", exif=exif)
    assert read_header(tmp_path / "x.tif").shown == (WIDE, HIGH)
    with Image.open(tmp_path / "x.tif") as opened:
        assert upright(opened, 3).size == (WIDE, HIGH)


@pytest.mark.parametrize("kind", SOURCES)
def test_damaged_files_are_named_and_never_read_as_grey(kind, tmp_path):
    def cut(file):
        shown().save(file, quality=95) if file.suffix == ".jpg" else shown().save(file)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])

    def whole(file):
        shown().save(file)

    files = {".0.png": cut, ".jpg": cut, ".1.png": lambda file: file.write_bytes(b"<html>"), ".2.png": lambda f: f.touch()}
    files |= {".3.png": whole, ".4.png": whole}
    with pytest.raises(UserError) as caught:
        inputs(source(kind, tmp_path / "d", files))
    assert all("remove or replace it" in fault for fault in caught.value.faults)
    assert any("cannot be" in fault for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.x", "Git LFS"),
        (b"abc", "no image"),
    ],
)
def test_what_is_no_image_is_named_for_what_it_is(content, words, tmp_path):
    (tmp_path / "x.jpg").write_bytes(content)
    assert words in read_header(tmp_path / "x.jpg")


def test_a_mean_above_white_is_refused(tmp_path):
    with pytest.raises(UserError, match="for means up to 255 say scale = 255"):
        images(path=tmp_path, size=8, mean=[123.7, 116.3, 103.5], deviation=[58.4, 57.1, 57.4])


def test_pixels_without_a_known_white_are_an_error_and_no_guess(tmp_path):
    Image.fromarray(np.random.default_rng(0).random((8, 8)).astype(np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((8, 8), 2**20, np.int32)).save(tmp_path / "i.tif")
    for name, words in (("f.tif", "floating-point"), ("i.tif", "32 bits")):
        with Image.open(tmp_path / name) as image, pytest.raises(ValueError, match=words):
            upright(image, 3)


@pytest.mark.parametrize(("kind", "task"), [("images", Classification()), ("coco", Detection(strides=[8]))])
def test_all_damaged_images_of_all_splits_are_named_at_once_before_a_run(kind, task, tmp_path):
    def cut(file):
        shown().save(file)
        file.write_bytes(file.read_bytes()[:-60])

    files = {f".{number}.png": cut if number % 2 else (lambda file: shown().save(file)) for number in range(10)}
    splits = source(kind, tmp_path / "d", files, validation=3, test=3)
    with pytest.raises(UserError) as caught:
        task.check(splits)
    damaged = [fault.split(" cannot")[0] for fault in caught.value.faults if "cannot be decoded" in fault]
    assert sorted(Path(name).name for name in damaged) == [f"{number}.png" for number in (1, 3, 5, 7, 9)]


@pytest.mark.parametrize("kind", SOURCES)
def test_an_animation_is_its_first_frame_and_that_is_told(kind, tmp_path):
    def animated(file):
        shown(240).save(file, save_all=True, append_images=[shown(60), shown(90)], duration=50)

    files = {".gif": animated, ".webp": animated, ".tif": animated, ".png": lambda file: shown().save(file)}
    splits = source(kind, tmp_path / "d", files)
    check_boxes(*inputs(splits), kind)
    assert "3 images have several frames or pages; the first of each is taken" in splits.notes


@pytest.mark.parametrize("kind", ["images", "yolo"])
def test_files_of_unknown_kinds_are_counted_and_named(kind, tmp_path):
    def write(file):
        shown().save(file)

    files = {".png": write, ".bmp": write, ".tif": write}
    files |= {f".{n}.heic": lambda file: file.write_bytes(b"x") for n in range(2)} | {".db": lambda file: file.touch()}
    splits = source(kind, tmp_path / "d", files)
    (note,) = [note for note in splits.notes if "no images of a known kind" in note]
    assert note.startswith("3 files in") and "2 .heic" in note and "1 .db" in note
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 3


def test_polygons_of_yolo_give_the_boxes_around_them(tmp_path):
    def write(file):
        shown().save(file)

    splits_folder = tmp_path / "d"
    with pytest.raises(UserError):
        source("yolo", splits_folder, {".0.png": write, ".1.png": write, ".2.png": write}, classes=[])
    left, top, right, bottom = BOX
    polygon = [left, top + 1, left + 3, top, right, top + 2, right - 1, bottom, left + 1, bottom - 1]
    shares = [value / (WIDE if place % 2 == 0 else HIGH) for place, value in enumerate(polygon)]
    for file in (splits_folder / "labels/train").iterdir():
        file.write_text("0 " + " ".join(map(str, shares)))
    options = {**STILL, "zoom": 0, "move": 0, "colour": 0}
    splits = yolo(path=splits_folder, size=[HIGH, WIDE], classes=["a"], validation=1, test=1, calibration=1, **options)
    check_boxes(*inputs(splits), "yolo")
    assert "3 polygons were read as the boxes around them" in splits.notes


@pytest.mark.parametrize(("size", "shape"), [(32, (32, 32)), ([24, 40], (24, 40)), ([40, 24], (40, 24))])
def test_images_of_other_than_square_size(size, shape, tmp_path):
    gradient = np.linspace(0, 255, 120).astype(np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(np.tile(gradient, (90, 1))).save(tmp_path / name / f"{number}.png")
    plain = {**STILL, "validation": 1, "test": 1, "calibration": 1}
    splits = images(path=tmp_path, size=size, short_side=min(shape), augment="none", **plain)
    pixels = splits.train.load(np.arange(2)).inputs
    assert pixels.shape[2:] == shape
    assert splits.preprocessing["size"] == list(shape)
    # what covers the input is resized in proportion: the gradient across has the slope that it has there
    factor = max(shape[0] / 90, shape[1] / 120)
    slope = np.diff(pixels[0, 0, 5]).mean() * 255
    assert slope == pytest.approx(255 / 120 / factor, rel=0.03)
    crops = images(path=tmp_path, size=size, least_area=0.5, **plain).train.load(np.arange(4), np.random.default_rng(0))
    assert crops.inputs.shape[2:] == shape


@pytest.mark.parametrize("form", ["train/{}", "train\\{}", "images\\train\\{}", "{}"])
def test_names_of_coco_may_hold_their_folder(form, tmp_path):
    def write(file):
        shown().save(file)

    folder = tmp_path / "d"
    source("coco", folder, {".0.png": write, ".1.png": write, ".2.png": write})
    file = folder / "annotations/instances_train.json"
    table = json.loads(file.read_text())
    for image in table["images"]:
        image["file_name"] = form.format(image["file_name"])
    file.write_text(json.dumps(table))
    options = {**STILL, "zoom": 0, "move": 0, "colour": 0}
    splits = coco(path=folder, size=[HIGH, WIDE], validation=1, test=1, calibration=1, **options)
    check_boxes(*inputs(splits), "coco")
