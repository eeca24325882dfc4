"""Each data source's training-time inputs against what a device makes of the same files: bit for bit, digits to rounding."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from compress.data.arrays import split_arrays
from compress.data.audio import audio
from compress.data.base import ArraySamples
from compress.data.coco_keypoints import coco_keypoints
from compress.data.digits import digits
from compress.data.images import images
from compress.data.masks import masks
from compress.data.pairs import pairs
from compress.data.text import conll, sentence_pairs, text
from compress.pipeline.whole_path import whole_path
from compress.tasks.classification import Classification
from compress.tasks.detection import Detection
from tests import figures, shapes, squares
from tests.compress.data.test_audio import tone, write

SPLIT = {"validation": 1, "test": 2, "calibration": 1}
HELD = {"held_out_validation": 1, "held_out_test": 2, "calibration": 2}
STRANGE = {"mean": [0.3, 0.4, 0.6], "deviation": [0.2, 0.25, 0.3]}


def photographs(root, count=8):
    """Odd sizes, one turned by its EXIF tag, one grey of 16 bits, one with a palette; large ones decode smaller."""
    rng = np.random.default_rng(3)
    for number in range(count):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = (37 + 61 * number, 300 - 29 * number)
        small = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        if number == 3:
            Image.fromarray(rng.integers(0, 65536, (50, 70)).astype(np.uint16)).save(folder / f"{number}.png")
        elif number == 4:
            small.quantize(16).save(folder / f"{number}.gif")
        else:
            exif = Image.Exif()
            exif[0x0112] = 6 if number % 3 == 0 else 1
            small.save(folder / f"{number}.jpg", quality=80, exif=exif)
    return root


def of_images(tmp_path, **options):
    return images(path=photographs(tmp_path), **{"size": [33, 47], "test": 6, **STRANGE, **SPLIT, **options})


def of_boxes(tmp_path, **options):
    squares.write(tmp_path / "d", (4, 2, 3))
    return squares.splits(tmp_path / "d", size=[40, 56], calibration=2, **STRANGE, **options)


def of_sound(tmp_path, **options):
    for take in range(8):
        rate = (8000, 16000, 11025, 22050)[take % 4]
        sounds = [tone(400 + 100 * take, rate=rate, seconds=0.055 * (1 + take % 3)), tone(900, rate=rate, seconds=0.06)]
        sounds = [sound[: min(len(each) for each in sounds)] for sound in sounds][: 1 + take % 2]
        write(tmp_path / ("a", "b")[take % 2] / f"{take}.wav", *sounds, rate=rate, width=2 + take % 2)
    return audio(path=tmp_path, rate=16000, seconds=0.08, test=5, validation=1, calibration=1, **options)


def tokenizer(tmp_path):
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "cat", "dog", "runs", "##s", "."]
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def of_text(tmp_path, second=None):
    rows = "text,other,label\n" + "".join(f"a cat{'s' * (n % 2)} runs {'a dog ' * n},dog,{n % 2}\n" for n in range(12))
    (tmp_path / "t.csv").write_text(rows)
    return text(train=tmp_path / "t.csv", tokenizer=tokenizer(tmp_path), length=9, second=second, **HELD)


def of_sentences(tmp_path):
    (tmp_path / "s.csv").write_text("".join(f"a cat {'a ' * n},dog runs,{n / 4}\n" for n in range(12)))
    return sentence_pairs(train=tmp_path / "s.csv", tokenizer=tokenizer(tmp_path), length=8, **HELD)


def of_words(tmp_path):
    (tmp_path / "w.txt").write_text("".join("a O\ncats B-animal\nruns O\n. O\n\n" for _ in range(12)))
    return conll(train=tmp_path / "w.txt", tokenizer=tokenizer(tmp_path), length=9, **HELD)


def of_patches(tmp_path, **options):
    photographs(tmp_path, 3)
    for file in [*tmp_path.rglob("*.gif"), *tmp_path.rglob("3.png")]:
        file.unlink()
    return pairs(path=tmp_path, size=16, degrade=True, validation=1, test=1, calibration=1, **options)


def of_bytes(tmp_path, channels=3):
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (20, channels, 9, 11), dtype=np.uint8)
    return split_arrays({"train": (drawn, np.arange(20) % 2)}, calibration=2, validation=4, test=4)


def of_tables(tmp_path):
    rng = np.random.default_rng(0)
    inputs = {"left": rng.normal(size=(20, 3)).astype(np.float32), "ids": rng.integers(0, 9, (20, 4))}
    return split_arrays({"train": (inputs, np.arange(20) % 2)}, calibration=2, validation=4, test=4)


def of_floats(tmp_path):
    drawn = np.random.default_rng(0).normal(size=(20, 2, 5)).astype(np.float32)
    return split_arrays({"train": (drawn, np.arange(20) % 2)}, calibration=2, validation=4, test=4)


SOURCES = {
    "images": of_images,
    "images, whole": lambda path: of_images(path, crop="none", interpolation="bicubic", order="bgr", scale=255.0),
    "images, a longer short side": lambda path: of_images(path, short_side=60, interpolation="nearest"),
    "grey images": lambda path: of_images(path, mean=[0.4], deviation=[0.2]),
    "digits": lambda path: digits(),
    "bytes": of_bytes,
    "grey bytes": lambda path: of_bytes(path, 1),
    "floats": of_floats,
    "tables": of_tables,
    "boxes": of_boxes,
    "boxes in a letterbox, not antialiased": lambda path: of_boxes(path, resize="letterbox", antialias=False, order="bgr"),
    "masks": lambda path: masks(path=shapes.write(path / "m", (6, 2, 4)), size=[20, 24], classes=shapes.CLASSES, **STRANGE),
    "keypoints": lambda path: coco_keypoints(path=figures.write(path / "k"), size=[64, 48], **STRANGE),
    "patches": lambda path: of_patches(path, enlarge=2, noise=5.0, **STRANGE),
    "grey patches": lambda path: of_patches(path, noise=9.0, mean=[0.2], deviation=[0.7], scale=255.0),
    "recordings": of_sound,
    "spectra": lambda path: of_sound(path, log_mel={"mels": 12, "window_ms": 16, "hop_ms": 8}),
    "texts": of_text,
    "pairs of texts": lambda path: of_text(path, second="other"),
    "sentences": of_sentences,
    "words": of_words,
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_device_makes_the_inputs_that_training_saw(source, tmp_path):
    splits = SOURCES[source](tmp_path)
    found = whole_path(splits, Classification(), splits.test, None)
    assert found.why_not == "" and len(found.raws) == min(16, len(splits.test)) > 0
    exact = {**splits.preprocessing, "tolerance": 0}
    if source != "digits":
        assert whole_path(replace(splits, preprocessing=exact), Classification(), splits.test, None).why_not == ""


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("images", {"mean": [0.3, 0.4, 0.601]}),
        ("images", {"short_side": 39}),
        ("images", {"order": "bgr"}),
        ("digits", {"mean": [0.33]}),
        ("boxes", {"interpolation": "bilinear"}),
        ("keypoints", {"padding": 0.26}),
        ("grey patches", {"scale": 254.0}),
        ("recordings", {"seconds": 0.081}),
    ],
)
def test_and_where_it_would_not_nothing_is_timed(source, changed, tmp_path):
    splits = SOURCES[source](tmp_path)
    other = replace(splits, preprocessing={**splits.preprocessing, **changed})
    assert "makes other inputs of sample" in whole_path(other, Classification(), splits.test, None).why_not


def test_a_source_of_ones_own_says_what_is_missing():
    splits = digits()
    nameless = replace(splits, preprocessing={"size": [32, 32]})
    assert "does not say which preprocessing" in whole_path(nameless, Classification(), splits.test, None).why_not
    bare = ArraySamples(splits.test.images, splits.test.labels)
    floats = replace(splits, preprocessing={"use": "array"})
    assert whole_path(floats, Classification(), bare, None).why_not == "", "an array is a raw sample too"


def test_files_are_those_of_a_bundle(tmp_path):
    splits = of_boxes(tmp_path)
    task = Detection(strides=(8, 16)).bound_to(splits)
    decoding = task.decoding([np.zeros((1, 6, 5, 7), np.float32), np.zeros((1, 6, 3, 4), np.float32)])
    found = whole_path(splits, task, splits.test, decoding)
    assert sorted(found.files) == ["decode.json", "postprocessing.json", "preprocessing.json"]
    assert found.key() != whole_path(splits, task, splits.train, decoding).key(), "other raw samples"
