"""Shards of WebDataset, mutated: read, or one line for each fault, in bounded time and memory."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from compress.data.webdataset import webdataset
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes

COUNT = 24


def head(name, size, kind=tarfile.REGTYPE):
    about = tarfile.TarInfo(name)
    about.size, about.type = size, kind
    return about.tobuf(tarfile.GNU_FORMAT)


def shard(labels=range(COUNT)):
    file, picture = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8), (9, 8, 7)).save(picture, "png")
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, label in enumerate(labels):
            for suffix, content in (("png", picture.getvalue()), ("cls", str(label % 3 if label < 99 else label).encode())):
                about = tarfile.TarInfo(f"{number}.{suffix}")
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return file.getvalue()


def reader(folder):
    folder.mkdir(exist_ok=True)

    def read(content):
        (folder / "train-0.tar").write_bytes(content)
        splits = webdataset(path=folder, size=8, validation=0.3, test=0.3, calibration=4)
        for part in (splits.train, splits.validation, splits.test):
            part.load(np.arange(len(part)))

    return read


def test_shards(tmp_path):
    read, rnd, whole = reader(tmp_path / "data"), generator("shards"), shard()
    assert check(read, whole) == ()
    for _ in range(inputs(60)):
        cut = rnd.randrange(0, len(whole), 512)
        check(read, whole[:cut] + mutated_bytes(whole[cut : cut + 512], rnd) + whole[cut + 512 :])


WRONG = {
    "a class of two thousand million": shard([*range(COUNT - 1), 2**31 - 2]),
    "long names upon long names": head("././@LongLink", 1, tarfile.GNUTYPE_LONGNAME) * 4000 + b"a" * 512,
    "long names of long names": (head("././@LongLink", 1, tarfile.GNUTYPE_LONGNAME) + b"a".ljust(512, b"\0")) * 4000,
    "a head of 2^60 bytes": head("x", 2**60, tarfile.XHDTYPE) + b"a" * 512,
    "a picture of 2^60 bytes": head("0.png", 2**60) + b"a" * 512,
    "nothing": b"",
    "NUL alone": b"\0" * 10240,
}


@pytest.mark.parametrize("name", WRONG)
def test_shards_that_hang_or_fail_a_reader(name, tmp_path):
    assert check(reader(tmp_path / "data"), WRONG[name])
