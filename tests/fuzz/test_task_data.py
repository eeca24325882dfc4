"""Files of masks, sound and keypoints, mutated: read, or one line for each fault, in bounded time."""

import copy
import functools
import io
import json
import struct
import wave

import numpy as np
import pytest
from PIL import Image

from compress.data import recordings
from compress.data.audio import audio
from compress.data.coco import coco
from compress.data.coco_keypoints import coco_keypoints
from compress.data.coco_masks import coco_masks
from compress.data.masks import masks
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes, mutated_table

SIDE = 16


def wav_file():
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.arange(800, dtype="<i2").tobytes())
    return content.getvalue()


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


@pytest.fixture
def heard(tmp_path, monkeypatch):
    """A reader of one recording of six, by Python itself."""
    monkeypatch.setattr(recordings, "_has_soundfile", lambda: False)
    for number in range(6):
        (tmp_path / str(number % 2)).mkdir(exist_ok=True)
        (tmp_path / str(number % 2) / f"{number}.wav").write_bytes(wav_file())

    def read(content):
        (tmp_path / "0" / "0.wav").write_bytes(content)
        splits = audio(path=tmp_path, rate=8000, seconds=0.1, validation=1, test=1)
        for part in (splits.train, splits.validation, splits.test):
            part.load(np.arange(len(part)))

    return read


def test_sound_files(heard):
    rnd = generator("wav")
    assert check(heard, wav_file()) == ()
    for _ in range(inputs(25)):
        check(heard, mutated_bytes(wav_file()[:60], rnd) + wav_file()[60:])


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<HHIIHH", 1, 1, 0, 0, 2, 16),
        struct.pack("<HHIIHH", 1, 0, 8000, 16000, 2, 16),
        struct.pack("<HHIIHH", 1, 1, 2**31 - 1, 0, 2, 16),
        struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 0),
        struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32),
    ],
    ids=["no rate", "no channels", "a rate of two thousand million", "no bits", "floats"],
)
def test_heads_of_sound_that_cannot_be(heard, head):
    assert check(heard, wav_file()[:20] + head + wav_file()[36:])


def test_a_sound_that_says_it_is_longer_than_it_is(heard):
    content = wav_file()
    assert check(heard, content[:40] + struct.pack("<I", 2**31) + content[44:])
    assert any("it breaks off after 0 of 800 samples" in fault for fault in check(heard, content[:44]))


def test_masks(tmp_path):
    labels = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 2
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number in range(6):
            (tmp_path / kind / f"{number}.png").write_bytes(png(labels))

    def read(content):
        (tmp_path / "masks" / "0.png").write_bytes(content)
        splits = masks(path=tmp_path, size=SIDE, classes=["a", "b"], validation=1, test=1)
        for part in (splits.train, splits.validation, splits.test):
            part.load(np.arange(len(part)))

    rnd = generator("masks")
    assert check(read, png(labels)) == ()
    for _ in range(inputs(30)):
        check(read, mutated_bytes(png(labels), rnd))


def annotated(folder, start, entry):
    """A folder of six pictures with an annotation each, and the table of it."""
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    table = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person", "keypoints": ["a", "b"]}]}
    for number in range(6):
        (folder / "images" / "train" / f"{number}.png").write_bytes(png(np.zeros((SIDE, SIDE, 3), np.uint8)))
        table["images"].append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        table["annotations"].append({"image_id": number, "category_id": 1, "bbox": [2, 2, 9, 9], **copy.deepcopy(entry)})
    return folder / "annotations" / f"{start}train.json", table


def behind_boxes(objects):
    """The source coco with masks or keypoints behind its boxes."""
    return functools.update_wrapper(functools.partial(coco, objects=objects), coco)


@pytest.mark.parametrize(
    ("source", "start", "entry"),
    [
        (coco_keypoints, "person_keypoints_", {"keypoints": [3, 4, 2, 8, 9, 1]}),
        (coco_masks, "instances_", {"segmentation": [[2, 2, 9, 2, 9, 9]]}),
        (coco_masks, "instances_", {"segmentation": {"counts": [40, 16, 200], "size": [SIDE, SIDE]}}),
        (behind_boxes("keypoints"), "person_keypoints_", {"keypoints": [3, 4, 2, 8, 9, 1]}),
        (behind_boxes("masks"), "instances_", {"segmentation": [[2, 2, 9, 2, 9, 9]]}),
        (behind_boxes("masks"), "instances_", {"segmentation": {"counts": [40, 16, 200], "size": [SIDE, SIDE]}}),
    ],
    ids=["keypoints", "polygons", "run lengths", "keypoints of boxes", "polygons of boxes", "run lengths of boxes"],
)
def test_annotations(tmp_path, source, start, entry):
    file, table = annotated(tmp_path / "data", start, entry)
    rnd = generator(source.__name__)

    def read(content):
        file.write_text(json.dumps(content))
        splits = source(path=tmp_path / "data", size=SIDE, validation=1, test=1)
        for part in (splits.train, splits.validation, splits.test):
            part.load(np.arange(len(part)))

    assert check(read, table) == ()
    for _ in range(inputs(50)):
        check(read, mutated_table(table, rnd))
