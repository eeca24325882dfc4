"""Pictures and binary batches, mutated: read, or one line for each fault, in bounded time and memory."""

import io

import numpy as np
import pytest
from PIL import Image

from compress.data.cifar import cifar10
from compress.data.decoding import reason
from compress.data.images import images
from compress.data.pairs import pairs
from compress.data.yolo import yolo
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes

COUNT = 12


def picture(kind, number):
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def folders(root):
    for number in range(COUNT):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (root / "ab"[number % 2] / f"{number}.png").write_bytes(picture("png", number))
    return root / "a" / "0.png", lambda: images(path=root, size=16, validation=2, test=2)


def boxes(root):
    for number in range(COUNT):
        for kind in ("images", "labels"):
            (root / kind / "train").mkdir(parents=True, exist_ok=True)
        (root / "images/train" / f"{number}.jpg").write_bytes(picture("jpeg", number))
        (root / "labels/train" / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return root / "images/train/0.jpg", lambda: yolo(path=root, size=[32, 32], classes=["a"])


def restored(root):
    for number in range(COUNT):
        for kind in ("inputs", "targets"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            (root / kind / f"{number}.png").write_bytes(picture("png", number))
    return root / "inputs/0.png", lambda: pairs(path=root, size=8, validation=2, test=2)


@pytest.mark.parametrize("made", [folders, boxes, restored])
@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff"])
def test_pictures(made, kind, tmp_path):
    file, source = made(tmp_path / "data")
    rnd = generator(f"pictures {made.__name__} {kind}")

    def read(content):
        file.write_bytes(content)
        splits = source()
        for part in (splits.train, splits.validation, splits.test):
            part.load(np.arange(len(part)))

    whole = picture(kind, 0)
    if kind == ("jpeg" if made is boxes else "png"):
        assert check(read, whole) == ()
    for _ in range(inputs(6)):
        content = mutated_bytes(whole[:200], rnd) + whole[200:]
        check(read, content)
        assert "\n" not in reason(OSError(f"cannot identify image file {file}\nx"), file)


def test_binary_batches(tmp_path):
    rnd = generator("cifar binary")
    row = np.concatenate([np.arange(40)[:, None] % 10, np.zeros((40, 3072))], axis=1).astype(np.uint8).tobytes()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (tmp_path / f"{name}.bin").write_bytes(row)

    def read(content):
        (tmp_path / "data_batch_1.bin").write_bytes(content)
        cifar10(path=tmp_path, validation=10, calibration=8)

    assert check(read, row) == ()
    for _ in range(inputs(40)):
        check(read, mutated_bytes(row, rnd))
