"""Data sets made here with the package itself, and read back from where ``save_to_disk`` put them."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from compress.data.huggingface import huggingface
from compress.tasks.classification import Classification
from profiles.errors import UserError
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets", reason="pip install 'edge-compress[datasets]'")


def pixels(count, seed=0, shape=(24, 24, 3)):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8))


def encoded(array, kind="PNG"):
    held = io.BytesIO()
    Image.fromarray(array).save(held, kind)
    return {"bytes": held.getvalue(), "path": None}


def pictures(datasets, arrays, labels, names=("ant", "cat")):
    features = datasets.Features(
        {"id": datasets.Value("string"), "photo": datasets.Image(), "kind": datasets.ClassLabel(names=list(names))}
    )
    columns = {"id": [str(index) for index in range(len(labels))], "photo": [encoded(a) for a in arrays], "kind": labels}
    return datasets.Dataset.from_dict(columns, features=features)


def saved(made, folder):
    made.save_to_disk(str(folder))
    return str(folder)


def read(name, **options):
    plain = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3, "scale": 255.0}
    return huggingface(name=name, **{"size": 24, "short_side": 24, "calibration": 4, **plain, **options})


def test_parts_and_columns_are_found_by_their_kind(datasets, tmp_path):
    parts = {
        part: pictures(datasets, pixels(count, seed), [index % 2 for index in range(count)])
        for seed, (part, count) in enumerate({"train": 12, "validation": 6, "test": 4}.items())
    }
    splits = read(saved(datasets.DatasetDict(parts), tmp_path / "set"))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [12, 6, 4]
    assert splits.classes == ("ant", "cat")
    Classification().check(splits)
    batch = splits.test.load(np.array([3, 0]))
    np.testing.assert_array_equal(batch.inputs, np.stack(pixels(4, 2))[[3, 0]].transpose(0, 3, 1, 2))
    assert batch.targets.tolist() == [1, 0]


def test_one_part_is_split_and_augmented(datasets, tmp_path):
    name = saved(pictures(datasets, pixels(30), [0, 1, 1] * 10), tmp_path / "set")
    splits = read(name, validation=0.2, test=4, augment="shift")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [20, 6, 4]
    every = np.arange(20)
    first, again = (splits.train.load(every, np.random.default_rng(0)).inputs for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != splits.train.load(every).inputs).any()


@pytest.mark.parametrize("shape", [(24, 24, 3), (24, 24, 1), (24, 24)])
def test_arrays_of_bytes_are_pictures(datasets, tmp_path, shape):
    kind = datasets.Array2D(shape, "uint8") if len(shape) == 2 else datasets.Array3D(shape, "uint8")
    features = datasets.Features({"x": kind, "y": datasets.Value("int32")})
    arrays = pixels(10, shape=shape)
    made = datasets.Dataset.from_dict({"x": arrays, "y": list(range(10))}, features=features)
    splits = read(saved(made, tmp_path / "set"), image="x", label="y", validation=2, test=2)
    assert splits.classes == tuple(str(number) for number in range(10))
    for image, label in zip(*vars(splits.train.load(np.arange(6))).values(), strict=True):
        np.testing.assert_array_equal(
            image, np.broadcast_to(arrays[label].reshape(24, 24, -1).transpose(2, 0, 1), (3, 24, 24))
        )


def test_the_fingerprint_is_of_content(datasets, tmp_path):
    arrays, labels = pixels(10), [0, 1] * 5
    names = [saved(pictures(datasets, arrays, labels), tmp_path / name) for name in ("one", "same")]
    arrays[3] = arrays[3] ^ 1
    names.append(saved(pictures(datasets, arrays, labels), tmp_path / "other"))
    one, same, other = (read(name, validation=2, test=2).fingerprint() for name in names)
    assert one == same != other


def test_pictures_that_are_files_beside_the_data_set_are_hashed_too(datasets, tmp_path, monkeypatch):
    """A folder of pictures is a data set to the package: its table holds paths, not pictures."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for index, array in enumerate(pixels(12)):
        file = tmp_path / "set" / "train" / ("ant", "cat")[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)
    splits = read(str(tmp_path / "set"), validation=2, test=2)
    assert splits.classes == ("ant", "cat")
    assert splits.train.load(np.arange(8)).inputs.shape == (8, 3, 24, 24)
    before = splits.fingerprint()
    assert read(str(tmp_path / "set"), validation=2, test=2).fingerprint() == before
    Image.fromarray(pixels(1, seed=5)[0]).save(tmp_path / "set" / "train" / "ant" / "4.png")
    assert read(str(tmp_path / "set"), validation=2, test=2).fingerprint() != before


def test_a_test_part_without_labels_is_not_used(datasets, tmp_path):
    parts = {
        "train": pictures(datasets, pixels(20), [0, 1] * 10),
        "val": pictures(datasets, pixels(6), [0, 1] * 3),
        "test": pictures(datasets, pixels(9), [-1] * 9),
    }
    name = saved(datasets.DatasetDict(parts), tmp_path / "set")
    splits = read(name, validation=4)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [16, 4, 6]
    unlabelled = read(name, label="none")
    assert [len(part) for part in (unlabelled.train, unlabelled.validation, unlabelled.test)] == [20, 6, 9]
    assert unlabelled.classes == ()
    assert (unlabelled.train.labels == -1).all()


def test_a_damaged_picture_is_named_by_its_row(datasets, tmp_path):
    made = pictures(datasets, pixels(8), [0, 1] * 4).cast_column("photo", datasets.Image(decode=False))
    rows = made.to_list()
    rows[5]["photo"]["bytes"] = rows[5]["photo"]["bytes"][:80]
    features = pictures(datasets, pixels(1), [0]).features
    name = saved(datasets.Dataset.from_list(rows, features=features), tmp_path / "set")
    train = read(name, validation=1, test=1, seed=0).train
    with pytest.raises(UserError, match=r"set train, row 5 cannot be decoded .*; remove or replace it"):
        train.load(np.arange(len(train)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "photos"}, ["has no column 'photos'; it has id, photo, other, kind"]),
        (
            {},
            ["has 2 columns of pictures or arrays of uint8 (photo, other) among id, photo, ", "say which with image ="],
        ),
        ({"image": "id"}, ["column 'id' of", "pictures or arrays of uint8 are expected"]),
        ({"image": "photo", "label": "id"}, ["column 'id' of", "class labels or whole numbers are expected"]),
    ],
)
def test_columns_that_are_no_good(datasets, tmp_path, options, words):
    made = pictures(datasets, pixels(4), [0, 1] * 2)
    made = made.add_column("other", made.cast_column("photo", datasets.Image(decode=False))["photo"][:])
    features = datasets.Features(
        {**{k: made.features[k] for k in ("id", "photo")}, "other": datasets.Image(), "kind": made.features["kind"]}
    )
    made = made.select_columns(list(features)).cast(features)
    with pytest.raises(UserError) as caught:
        read(saved(made, tmp_path / "set"), **options)
    assert all(word in str(caught.value) for word in words)


def test_a_data_set_that_is_not_there(datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the data set 'nowhere/at-all' cannot be loaded: .*; give a name of the hub"):
        read("nowhere/at-all")
    name = saved(datasets.DatasetDict({"extra": pictures(datasets, pixels(2), [0, 1])}), tmp_path / "set")
    with pytest.raises(UserError, match="has no part 'train'; it has extra"):
        read(name)


def test_nothing_is_reported_to_anyone(datasets, tmp_path):
    import huggingface_hub

    read(saved(pictures(datasets, pixels(10), [0, 1] * 5), tmp_path / "set"))
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
    assert not datasets.config.HF_UPDATE_DOWNLOAD_COUNTS


WITHOUT = """
import sys
sys.modules["datasets"] = None
from compress.data.huggingface import huggingface
from profiles.errors import UserError
try:
    huggingface(name="x")
except UserError as error:
    print(error)
"""


def test_without_the_package_the_remedy_is_told():
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("pip install 'edge-compress[datasets]'")
