"""Five hundred hostile names at each place where a data set names a file: none is read outside of its folder."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.coco_files import picture_file
from compress.data.decoding import read_names
from compress.data.huggingface import _file
from compress.data.voc import voc
from profiles.errors import UserError
from tests.deploy.hostile import many

NAMES = [name for name in many(500) if "\0" not in name]


@pytest.fixture
def root(tmp_path):
    """A data set's folder with a picture in it, and one beside it that is none of its."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for file in (tmp_path / "out.png", tmp_path / "set" / "images" / "in.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    return tmp_path / "set"


def is_below(path, folder):
    return Path(os.path.normpath(path)).is_relative_to(folder)


def outside(root):
    """Names that would lead to the picture beside the folder."""
    return (
        "../out.png",
        "../../out.png",
        str(root.parent / "out.png"),
        "..\\out.png",
        "images/../../out.png",
        "./../out.png",
    )


def test_coco_names_pictures(root):
    for name in (*NAMES, *outside(root)):
        assert is_below(root / picture_file(root, Path("images"), name), root), name
    assert picture_file(root, Path("images"), "C:/data/../in.png") == Path("images/in.png")
    assert picture_file(root, Path("images"), "/content/images/in.png") == Path("images/in.png")


def test_a_list_names_pictures(root):
    for name in (*NAMES, *outside(root)):
        (root / "train.txt").write_bytes(f"in\n{name}\n".encode(errors="replace"))
        with contextlib.suppress(UserError):
            names = read_names(root / "train.txt")
            assert all(is_below(root / "images" / f"{each}.png", root) for each in names), name
    for name in outside(root):
        (root / "train.txt").write_text(name)
        with pytest.raises(UserError, match="names files outside of the data set"):
            read_names(root / "train.txt")


def test_an_annotation_of_voc_names_its_picture(root):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    size = "<size><width>8</width><height>8</height></size>"
    for number in range(8):
        xml = f"<annotation><filename>../../out.png</filename>{size}</annotation>"
        (root / "Annotations" / f"p{number}.xml").write_text(xml)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"p{number}\n" for number in range(8)))
    with pytest.raises(UserError) as caught:
        voc(path=root, size=[8, 8], classes=["a"], calibration=1, validation=1, test=1)
    assert "out.png" not in str(caught.value)


def test_rows_of_the_hub_name_pictures(root):
    assert _file(str(root / "images/in.png"), [root]) == (root / "images/in.png").resolve()
    for name in outside(root):
        with pytest.raises(UserError, match="names a picture outside of its folder"):
            _file(os.path.join(root, name.replace("\\", "/")), [root])
    (root / "images" / "link.png").symlink_to(root.parent / "out.png")
    with pytest.raises(UserError, match="names a picture outside of its folder"):
        _file(str(root / "images" / "link.png"), [root])
