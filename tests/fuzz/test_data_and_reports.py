"""Files of data sources, reports and checkpoints, mutated: read, or one line for each fault, in bounded time."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from compress.data.cifar import cifar10
from compress.data.coco import coco
from compress.data.npz import npz
from compress.data.voc import voc
from compress.data.yolo import yolo
from compress.models.foreign import load_foreign
from compress.report import record
from deploy.bundle import manifest
from deploy.packing import packed_file
from tests.compress.report.test_record import FREE, STUDENT, TEACHER, report_of
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes, mutated_table

PICTURES = 12
REPORT = report_of((TEACHER, FREE, STUDENT))


def pictures(folder, suffix="png"):
    folder.mkdir(parents=True)
    for number in range(PICTURES):
        Image.new("RGB", (16, 12), (number * 20, 0, 0)).save(folder / f"p{number}.{suffix}")


def npz_file():
    content = io.BytesIO()
    images = (np.arange(40 * 64) % 255).astype(np.uint8).reshape(40, 8, 8)
    np.savez(content, images=images, labels=np.arange(40) % 4)
    return content.getvalue()


def cifar_batch():
    return pickle.dumps({b"data": np.zeros((20, 3072), np.uint8), b"labels": [i % 10 for i in range(20)]}, 3)


def cifar_folder(folder):
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(cifar_batch())
    return folder


def read_cifar(folder, content):
    (folder / "data_batch_1").write_bytes(content)
    cifar10(path=folder, validation=10, calibration=8)


def test_npz_files(tmp_path):
    file, rnd = tmp_path / "d.npz", generator("npz")

    def read(content):
        file.write_bytes(content)
        next(iter(npz(path=file).train.batches(4)))

    assert check(read, npz_file()) == ()
    for _ in range(inputs(200)):
        check(read, mutated_bytes(npz_file(), rnd))


def npy(kind, shape, content=b""):
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def zipped(images, labels):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels)
    return content.getvalue()


IMAGES = npy("|u1", (40, 8, 8), bytes(40 * 64))
LABELS = npy("<i8", (40,), np.arange(40).astype("<i8").tobytes())
WRONG_ARRAYS = {
    "labels of a thousand million": zipped(IMAGES, npy("<i8", (40,), np.full(40, 10**9).tobytes())),
    "labels of 64 bits": zipped(IMAGES, npy("<u8", (40,), np.full(40, 2**64 - 1, "u8").tobytes())),
    "a shape of 10^12": zipped(npy("|u1", (10**12,)), LABELS),
    "a shape that overflows": zipped(npy("|u1", (2**62, 8, 8)), LABELS),
    "a negative shape": zipped(npy("|u1", (-1, 8, 8)), LABELS),
    "objects": zipped(npy("|O", (40, 8, 8), pickle.dumps([1])), LABELS),
    "a header of brackets": zipped(b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000, LABELS),
    "a zip of nothing": b"PK\x05\x06" + bytes(18),
    "no bytes": b"",
}


@pytest.mark.parametrize("content", WRONG_ARRAYS.values(), ids=list(WRONG_ARRAYS))
def test_arrays_that_once_failed_are_told(content, tmp_path):
    (tmp_path / "d.npz").write_bytes(content)
    assert check(lambda: npz(path=tmp_path / "d.npz"))


def twice(count):
    """Tuples of the tuple before, twice: 2^count elements in a few bytes."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(count))


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01"
TYPE = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR\x89U\x00tb."
PICKLES = {
    "a key of tuples within tuples": b"\x80\x02}" + twice(60) + b"K\x01s.",
    "a type named by tuples within tuples": b"\x80\x02cnumpy\ndtype\n" + twice(30) + b"\x85R.",
    "a shape of tuples within tuples": b"\x80\x02" + ARRAY + twice(60) + TYPE,
    "a key five hundred thousand deep": b"\x80\x02})" + b"\x85" * 500_000 + b"K\x01s.",
    "a list three hundred thousand deep": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "marks alone": b"\x80\x02" + b"(" * 2_100_000 + b".",
    "a shape too large": b"\x80\x02" + ARRAY + b"J\xff\xff\xff\x7f\x85" + TYPE,
    "a number of five thousand digits": b"I" + b"9" * 5000 + b"\n.",
    "labels of 70 bits": pickle.dumps({b"data": np.zeros((20, 3072), np.uint8), b"labels": [2**70] * 20}, 3),
    "a name": b"cos\nsystem\n.",
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=list(PICKLES))
def test_pickles_that_once_hung_or_killed_are_told(content, tmp_path):
    assert check(read_cifar, cifar_folder(tmp_path / "cifar"), content)


def test_cifar_batches(tmp_path):
    folder, rnd = cifar_folder(tmp_path / "cifar"), generator("cifar")
    assert check(read_cifar, folder, cifar_batch()) == ()
    for _ in range(inputs(150)):
        check(read_cifar, folder, mutated_bytes(cifar_batch()[:200], rnd) + cifar_batch()[200:])


def test_coco_tables(tmp_path):
    pictures(tmp_path / "train")
    (tmp_path / "annotations").mkdir()
    table = {
        "images": [{"id": i, "file_name": f"p{i}.png", "width": 16, "height": 12} for i in range(PICTURES)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 5, 6]} for i in range(PICTURES)],
        "categories": [{"id": 1, "name": "a"}],
    }

    def read(content):
        (tmp_path / "annotations" / "instances_train.json").write_bytes(content)
        coco(path=tmp_path, size=[16, 16])

    rnd = generator("coco")
    assert check(read, json.dumps(table).encode()) == ()
    assert check(read, b"[" * 100_000)
    assert check(read, b'{"a": "\xe9"}')
    for number in range(inputs(150)):
        content = json.dumps(mutated_table(table, rnd)).encode()
        check(read, content if number % 3 else mutated_bytes(content, rnd))


def test_voc_annotations_and_lists(tmp_path):
    pictures(tmp_path / "JPEGImages", "jpg")
    for name in ("Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>8</xmax><ymax>9</ymax></bndbox>"
    size = "<size><width>16</width><height>12</height></size>"
    xml = f"<annotation>{size}<object><name>a</name>{box}</object></annotation>".encode()
    names = b"".join(b"p%d\n" % number for number in range(PICTURES))
    for number in range(PICTURES):
        (tmp_path / "Annotations" / f"p{number}.xml").write_bytes(xml)

    def read(annotation, listed):
        (tmp_path / "Annotations" / "p0.xml").write_bytes(annotation)
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(listed)
        voc(path=tmp_path, size=[16, 16])

    rnd = generator("voc")
    assert check(read, xml, names) == ()
    for wrong in (b"nan", b"inf", b"1e400", b"9" * 5000):
        assert check(read, xml.replace(b">2<", b">" + wrong + b"<").replace(b">16<", b">" + wrong + b"<"), names)
    assert check(read, xml, b"p\xe9\n")
    for number in range(inputs(100)):
        check(read, *((mutated_bytes(xml, rnd), names) if number % 3 else (xml, mutated_bytes(names, rnd))))


def test_yolo_rows(tmp_path):
    pictures(tmp_path / "images" / "train")
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    rows = b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.05 0.05\n"

    def read(content):
        (labels / "p0.txt").write_bytes(content)
        yolo(path=tmp_path, size=[16, 16], classes=["a", "b"])

    rnd = generator("yolo")
    assert check(read, rows) == ()
    for wrong in (b"nan .5 .5 .1 .1", b"inf .5 .5 .1 .1", b"\xe9 .5 .5 .1 .1", b"\0", b"0 " * 100_000):
        assert check(read, wrong)
    for _ in range(inputs(100)):
        check(read, mutated_bytes(rows, rnd))


def test_reports(tmp_path):
    file, rnd = tmp_path / "report.json", generator("report")
    table = json.loads(json.dumps(REPORT.as_json(), default=dict))

    def read(content):
        file.write_bytes(content)
        record.read(file)

    assert check(read, json.dumps(table).encode()) == ()
    assert check(read, b"[" * 100_000) and check(read, b"\xff\xfe") and check(read, b"[1]")
    for number in range(inputs(200)):
        content = json.dumps(mutated_table(table, rnd)).encode()
        check(read, content if number % 3 else mutated_bytes(content, rnd))


def test_checkpoints_of_safetensors(tmp_path):
    file, rnd = tmp_path / "w.safetensors", generator("safetensors")
    content = save({"a.weight": torch.ones(3, 4), "b.bias": torch.zeros(2)}, {"about": '{"aliases": {}, "facts": {}}'})

    def read(given):
        file.write_bytes(given)
        load_foreign(file)

    assert check(read, content) == ()
    for _ in range(inputs(150)):
        check(read, mutated_bytes(content, rnd))


def test_manifests_and_packed_files():
    rnd = generator("manifest")
    source = json.dumps({"schema": 1, "files": {"a": {"sha256": "0" * 64, "size": 1}}}).encode()
    for _ in range(inputs(100)):
        check(manifest.parse, mutated_bytes(source, rnd), "a bundle")
        check(packed_file.read, mutated_bytes(b"ECPK" + bytes(200), rnd), allowed=(ValueError,))
