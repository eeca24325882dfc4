"""Shards: what is read, and that a sample stays in its split."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from compress.data.webdataset import webdataset
from profiles.errors import UserError

NAMES = ("train", "validation", "test")
OPTIONS = {"size": 8, "augment": "none", "mirror": False, "mean": [0.0] * 3, "deviation": [1.0] * 3, "calibration": 8}


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def samples(first, count):
    """Sample n is of value n and class n % 3."""
    pairs = ((f"{n:06}.png", png(n)) for n in range(first, first + count))
    return {**dict(pairs), **{f"{n:06}.cls": str(n % 3).encode() for n in range(first, first + count)}}


def values(split):
    batch = split.load(np.arange(len(split)))
    numbers = np.rint(batch.inputs[:, 0, 0, 0] * 255).astype(int)
    assert np.array_equal(batch.targets, numbers % 3) and batch.inputs.shape[1:] == (3, 8, 8)
    return set(numbers.tolist())


def test_a_sample_stays_in_its_split_whatever_shards_come_beside_it(tmp_path):
    shard(tmp_path / "a-000.tar", samples(0, 100))
    few = webdataset(path=tmp_path, validation=0.2, test=0.2, **OPTIONS)
    before, fingerprint = {name: values(getattr(few, name)) for name in NAMES}, few.train.fingerprint()
    shard(tmp_path / "a-001.tar", samples(100, 100))
    (tmp_path / "a-000.tar").rename(tmp_path / "z.tar")
    many = webdataset(path=tmp_path, validation=0.2, test=0.2, **OPTIONS)
    after = {name: values(getattr(many, name)) for name in NAMES}
    assert all(before[name] == {n for n in after[name] if n < 100} for name in NAMES)
    assert set.union(*after.values()) == set(range(200)) and sum(map(len, after.values())) == 200
    assert 25 <= len(after["test"]) <= 55 and values(many.calibration) < after["train"] and len(many.calibration) == 8
    assert fingerprint != many.train.fingerprint()
    assert webdataset(path=tmp_path, validation=0.2, test=0.2, **OPTIONS).train.fingerprint() == many.train.fingerprint()
    assert many.classes == ("0", "1", "2")


def test_parts_are_taken_by_the_shards_names(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        shard(tmp_path / f"{part}-000.tar", samples(10 * number, 10))
    data = webdataset(path=tmp_path, **OPTIONS)
    assert values(data.train) == set(range(10)) and values(data.validation) == set(range(10, 20))
    assert values(data.test) == set(range(20, 30))


def test_a_shard_whose_name_only_begins_alike_is_of_train(tmp_path):
    """valley-000.tar is no validation, testament-000.tar no test; valid_000.tar and testing.tar are."""
    for number, name in enumerate(("valley-000", "testament-000", "valid_000", "testing")):
        shard(tmp_path / f"{name}.tar", samples(10 * number, 10))
    data = webdataset(path=tmp_path, **OPTIONS)
    assert values(data.train) == set(range(20)) and values(data.validation) == set(range(20, 30))
    assert values(data.test) == set(range(30, 40))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.cls": b"1"}, "sample 'a' has no image; it has cls"),
        ({"a.png": b"", "a.txt": b"1"}, "sample 'a' has no .cls; it has png, txt"),
        ({"a.png": b"", "a.cls": b"one"}, "is the text of a whole number"),
        ({"a.png": b"", "a.cls": b"9" * 40}, "is the text of a whole number"),
    ],
)
def test_samples_that_will_not_do_are_told(tmp_path, members, words):
    shard(tmp_path / "a.tar", members)
    with pytest.raises(UserError) as raised:
        webdataset(path=tmp_path, **OPTIONS)
    assert words in str(raised.value)


def test_folders_and_files_that_will_not_do_are_told(tmp_path):
    with pytest.raises(UserError, match=r"holds no \.tar"):
        webdataset(path=tmp_path, **OPTIONS)
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"a\.tar: "):
        webdataset(path=tmp_path, **OPTIONS)
    shard(tmp_path / "a.tar", samples(0, 10))
    shard(tmp_path / "b.tar", samples(0, 10))
    with pytest.raises(UserError, match="'000000' is there twice"):
        webdataset(path=tmp_path, **OPTIONS)
    (tmp_path / "b.tar").unlink()
    with pytest.raises(UserError, match="validation is a share above 0"):
        webdataset(path=tmp_path, validation=5, **OPTIONS)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    with pytest.raises(UserError, match="data: "):
        webdataset(path=tmp_path, **OPTIONS).train.load(np.arange(3))
