"""Folders of pictures, written here with Pillow in every format that is read."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from compress.data.base import Splits
from compress.data.images import images
from compress.data.transforms import Normalise
from compress.tasks.classification import Classification
from profiles.errors import UserError

PLAIN = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0), "scale": 255.0}
"""Inputs that are the bytes themselves."""


def picture(seed=0, width=40, height=30):
    """Smooth, so that JPEG and resizing change little: a gradient across, one down, and a level of its own."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 20 * seed % 250)], axis=-1).astype(np.uint8))


def save(where, image=None, **options):
    where.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(where, **options)
    return where


@pytest.fixture(autouse=True)
def steps(tmp_path, monkeypatch):
    folder = tmp_path / "steps"
    folder.mkdir()
    monkeypatch.setenv("COMPRESS_STEPS", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten pictures in four formats, a hidden file and a note among them."""
    root = tmp_path / "pictures"
    for index in range(20):
        suffix = ("jpg", "png", "WEBP", "bmp")[index % 4]
        save(
            root / ("cat" if index % 2 else "ant") / f"{index:02d}.{suffix}",
            picture(index),
            **({"lossless": True} if suffix == "WEBP" else {}),
        )
    (root / "ant" / ".hidden.png").write_bytes(b"")
    (root / "ant" / "readme.txt").write_text("not a picture")
    (root / ".cache").mkdir()
    return root


def read(path, **options) -> Splits:
    return images(path=str(path), **{"size": 24, "short_side": 24, "calibration": 4, **options})


def parts(splits):
    return splits.train, splits.validation, splits.test


def one(tmp_path, file, **options):
    """The input that the only picture of a folder's test split becomes."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "one" / part / name).mkdir(parents=True, exist_ok=True)
            for copy in range(3):
                shutil.copy(file, tmp_path / "one" / part / name / f"{copy}{file.suffix}")
    return read(tmp_path / "one", **{**PLAIN, **options}).test.load(np.array([0])).inputs[0]


def test_one_folder_is_split_by_seed(folder):
    splits = read(folder, validation=0.2, test=5)
    assert [len(part) for part in parts(splits)] == [11, 4, 5]
    assert splits.classes == ("ant", "cat")
    assert len(splits.calibration) == 4
    assert sorted(np.concatenate([part.labels for part in parts(splits)]).tolist()) == [0] * 10 + [1] * 10
    assert splits.fingerprint() == read(folder, validation=0.2, test=5).fingerprint()
    assert splits.fingerprint() != read(folder, validation=0.2, test=5, seed=1).fingerprint()
    Classification().check(splits)


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_folders_of_parts_are_the_splits(tmp_path, validation):
    for part, count in {"train": 5, validation: 3, "test": 2}.items():
        for index in range(count):
            for label, name in enumerate(("a", "b")):
                save(tmp_path / "data" / part / name / f"{index}.png", picture(label))
    splits = read(tmp_path / "data")
    assert [part.labels.tolist() for part in parts(splits)] == [[0] * n + [1] * n for n in (5, 3, 2)]
    assert splits.test.load(np.array([3])).targets.tolist() == [1]


def test_without_test_the_official_validation_is_the_test(tmp_path):
    for part, count in {"train": 10, "val": 3}.items():
        for index in range(count):
            for name in "ab":
                save(tmp_path / "data" / part / name / f"{index}.png")
    assert [len(part) for part in parts(read(tmp_path / "data", validation=4))] == [16, 4, 6]


def test_pictures_without_labels(tmp_path):
    for index in range(10):
        save(tmp_path / "data" / "any" / f"{index}.png")
        save(tmp_path / "data" / f"{index}.jpg")
    splits = read(tmp_path / "data", labels="none")
    assert sum(len(part) for part in parts(splits)) == 20
    assert all((part.labels == -1).all() for part in parts(splits))
    assert splits.classes == ()


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_formats_without_loss_come_through_as_they_are(tmp_path, suffix):
    held = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    file = save(tmp_path / f"x.{suffix}", Image.fromarray(held), **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(one(tmp_path, file), held.transpose(2, 0, 1))
    np.testing.assert_array_equal(one(tmp_path, file, order="bgr"), held.transpose(2, 0, 1)[::-1])
    grey = one(tmp_path, file, mean=(0.0,), deviation=(1.0,))
    np.testing.assert_allclose(grey[0], held @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize(
    ("mode", "level"),
    [("L", 90), ("1", 255), ("P", 90), ("LA", 90), ("RGBA", 90), ("CMYK", 90), ("I;16", 90)],
)
def test_every_mode_becomes_rgb(tmp_path, mode, level):
    if mode == "I;16":
        image = Image.fromarray(np.full((24, 24), 90 * 256 + 17, np.uint16))
    elif mode == "P":
        image = Image.new("RGB", (24, 24), (90, 90, 90)).quantize(4)
    elif mode == "1":
        image = Image.new("1", (24, 24), 1)
    else:
        image = Image.new("RGB", (24, 24), (90, 90, 90)).convert(mode)
    file = save(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"), image)
    with Image.open(file) as saved:
        assert saved.mode == mode
    found = one(tmp_path, file)
    assert found.shape == (3, 24, 24)
    np.testing.assert_allclose(found, level, atol=3 if mode == "CMYK" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_held_any_way_shows_the_same(tmp_path, orientation):
    """The picture is stored turned, with the tag that says how; what each number means is EXIF's own table."""
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = picture(5, 400, 300)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / "x.jpg", upright if stored is None else upright.transpose(stored), exif=exif, quality=95)
    expected = one(tmp_path, save(tmp_path / "upright.png", upright))
    np.testing.assert_allclose(one(tmp_path, file), expected, atol=4)


@pytest.mark.parametrize("size", [(1600, 1200), (431, 977)])
def test_a_large_jpeg_decoded_small_is_as_good_as_the_whole(tmp_path, size):
    large = picture(3, *size)
    png, jpeg = save(tmp_path / "x.png", large), save(tmp_path / "x.jpg", large, quality=95)
    for options in ({}, {"short_side": 40}):
        np.testing.assert_allclose(one(tmp_path, jpeg, **options), one(tmp_path, png, **options), atol=4)


def test_the_centre_of_a_wide_picture(tmp_path):
    """White only in the middle square of 60x20: all of what is left is white."""
    held = np.zeros((20, 60, 3), np.uint8)
    held[:, 20:40] = 255
    found = one(tmp_path, save(tmp_path / "x.png", Image.fromarray(held)), size=20, short_side=20)
    assert (found == 255).all()


@pytest.mark.parametrize(("name", "kind"), [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)])
def test_the_whole_picture_is_squeezed_by_the_interpolation_that_is_asked_for(tmp_path, name, kind):
    wide = picture(4, 60, 20)
    found = one(tmp_path, save(tmp_path / "x.png", wide), size=16, crop="none", interpolation=name)
    np.testing.assert_array_equal(found, np.moveaxis(np.asarray(wide.resize((16, 16), kind)), 2, 0))


def test_augmenting_depends_on_its_generator_alone(folder):
    for options in ({"augment": "crop"}, {"augment": "shift", "shift": 3}, {"augment": "none"}):
        samples = read(folder, **options).train
        every = np.arange(len(samples))
        first, again, other = (samples.load(every, np.random.default_rng(s)).inputs for s in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        assert first.dtype == np.float32
        assert first.flags.c_contiguous
        assert first.shape == (len(samples), 3, 24, 24)
        np.testing.assert_array_equal(samples.load(every).inputs, samples.load(every).inputs)


def test_a_sample_is_augmented_the_same_in_any_picture_size(folder):
    """Draws are taken before a picture is opened: replacing the first one changes no other."""
    samples = read(folder, validation=2, test=2).train
    every = np.arange(len(samples))
    before = samples.load(every, np.random.default_rng(0)).inputs
    first = folder / samples._shelf._names[samples._indices[0]]
    picture(9, 333, 77).save(first)
    after = samples.load(every, np.random.default_rng(0)).inputs
    np.testing.assert_array_equal(before[1:], after[1:])
    assert (before[0] != after[0]).any()


def test_a_random_crop_shows_a_part_of_the_picture(tmp_path):
    """Left to right the first channel rises from 0 to 200; a crop of a quarter cannot span it."""
    for index in range(3):
        save(tmp_path / "data" / "a" / f"{index}.png", picture(0, 200, 200))
        save(tmp_path / "data" / "b" / f"{index}.png", picture(0, 200, 200))
    samples = read(tmp_path / "data", validation=1, test=1, least_area=0.25, mirror=False, **PLAIN).train
    spans = []
    for seed in range(30):
        inputs = samples.load(np.array([0]), np.random.default_rng(seed)).inputs[0, 0]
        assert (np.diff(inputs, axis=1) >= 0).all(), "it was mirrored"
        spans.append(inputs.max() - inputs.min())
    assert min(spans) < 120
    assert max(spans) > 160


def test_only_training_is_augmented_and_hashed_as_such(folder):
    one_way, other = read(folder, augment="crop"), read(folder, augment="shift", shift=2, mirror=False)
    assert one_way.train.fingerprint() != other.train.fingerprint()
    for part in ("calibration", "validation", "test"):
        assert getattr(one_way, part).fingerprint() == getattr(other, part).fingerprint()
        assert getattr(one_way, part).fingerprint() != getattr(read(folder, order="bgr"), part).fingerprint()


def test_the_fingerprint_is_of_content_wherever_and_whenever(folder, tmp_path):
    before = read(folder).fingerprint()
    shutil.copytree(folder, tmp_path / "elsewhere")
    for file in (tmp_path / "elsewhere").rglob("*.*"):
        os.utime(file, (1, 1))
    assert read(tmp_path / "elsewhere").fingerprint() == before
    picture(17).save(folder / "cat" / "01.png")
    assert read(folder).fingerprint() != before


def test_hashes_are_remembered_by_size_and_time(folder, steps):
    aged(folder)
    before = read(folder).fingerprint()
    (memory,) = (steps / "digests").iterdir()
    assert len(memory.read_text().split("[")) == 21
    file = folder / "cat" / "19.bmp"
    stamp = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert read(folder).fingerprint() == before, "read again, though size and time are the same"
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert read(folder).fingerprint() != before


def test_what_was_changed_a_moment_ago_is_not_remembered(folder, steps):
    read(folder).fingerprint()
    assert not (steps / "digests").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_memory_is_made_again(folder, steps, damage):
    aged(folder)
    before = read(folder).fingerprint()
    (memory,) = (steps / "digests").iterdir()
    whole = memory.read_text()
    memory.write_bytes(damage)
    assert read(folder).fingerprint() == before
    assert memory.read_text() == whole


def test_without_a_folder_of_steps_nothing_is_written(folder, tmp_path, monkeypatch, steps):
    before = read(folder).fingerprint()
    monkeypatch.delenv("COMPRESS_STEPS")
    monkeypatch.chdir(tmp_path)
    assert read(folder).fingerprint() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "steps"]


def aged(folder):
    for file in folder.rglob("*.*"):
        os.utime(file, (1e9, 1e9))


def test_damaged_pictures_are_named_and_the_others_are_not(folder):
    truncated = folder / "ant" / "00.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-200])
    (folder / "cat" / "01.png").write_bytes(b"this is no picture")
    png = folder / "cat" / "05.png"
    png.write_bytes(png.read_bytes()[:60] + b"\0" * 40 + png.read_bytes()[100:])
    samples = read(folder, validation=1, test=1, seed=0).train
    with pytest.raises(UserError) as caught:
        samples.load(np.arange(len(samples)))
    assert [fault.split(" cannot")[0] for fault in caught.value.faults] == [
        f"data: {folder / name}" for name in ("ant/00.jpg", "cat/01.png", "cat/05.png")
    ]
    assert "truncated" in caught.value.faults[0].lower()
    good = [row for row in range(len(samples)) if samples._indices[row] not in (0, 10, 12)]
    assert len(samples.load(np.array(good)).inputs) == len(samples) - 3


def test_many_damaged_pictures_are_named_in_part(folder):
    for file in folder.rglob("[0-9]*.*"):
        file.write_bytes(b"no")
    samples = read(folder, validation=1, test=1).train
    with pytest.raises(UserError) as caught:
        samples.load(np.arange(len(samples)))
    assert len(caught.value.faults) == 6
    assert caught.value.faults[5] == "data: 13 more of 18 pictures cannot be decoded"


def test_folders_that_are_no_good(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder; give one that holds a folder of pictures for each class"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r'holds no folders; .* say labels = "none"'):
        read(folder / "ant")
    (folder / "bee").mkdir()
    (folder / "dog").mkdir()
    (folder / "dog" / "x.psd").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read(folder)
    assert [fault.split(" holds no picture; known kinds: .jpg")[0] for fault in caught.value.faults] == [
        f"data: {folder / name}" for name in ("bee", "dog")
    ]


def test_parts_that_do_not_fit_each_other(folder, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(folder, root / "test")
    with pytest.raises(UserError, match="has test and no train"):
        read(root)
    shutil.copytree(folder, root / "train")
    save(root / "test" / "dog" / "x.png")
    with pytest.raises(UserError, match=r"test/dog is a class that .*train has not"):
        read(root)


def test_options_that_are_no_good_come_together(folder):
    with pytest.raises(UserError) as caught:
        read(folder, size=30, short_side=24, augment="flip", least_area=0, shift=-1, crop="left", interpolation="sinc")
    words = [
        "short_side is 30 (the shorter side of size) or more",
        "crop is one of centre, none; given: 'left'",
        "interpolation is one of bilinear, bicubic, nearest; given: 'sinc'",
        "augment is one of crop, shift, none",
        "least_area",
        "shift is a number",
    ]
    assert len(caught.value.faults) == len(words)
    assert all(word in fault for word, fault in zip(words, caught.value.faults, strict=True))
    with pytest.raises(UserError, match='labels is "folders" or "none"; given: \'files\''):
        read(folder, labels="files")


def test_what_was_done_to_a_picture_is_told(folder):
    assert read(folder, size=24, short_side=0).preprocessing == {
        "use": "image",
        "size": [24, 24],
        "short_side": 27,
        "crop": "centre",
        "interpolation": "bilinear, antialiased",
        **Normalise(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225)).as_json(),
    }
