import numpy as np
import pytest

from compress.data.npz import npz
from compress.tasks.classification import Classification
from profiles.errors import UserError


def arrays(count=40, shape=(6, 5, 3), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 4


def write(folder, **held):
    np.savez(folder / "x.npz", **held)
    return str(folder / "x.npz")


def read(path, **options):
    return npz(path=path, **{"calibration": 5, **options})


def test_one_set_is_split_by_seed(tmp_path):
    images, labels = arrays()
    splits = read(write(tmp_path, images=images, labels=labels), validation=0.2, test=7)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [25, 8, 7]
    assert splits.classes == ("0", "1", "2", "3")
    Classification().check(splits)
    held = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for image, label in zip(splits.test.images, splits.test.labels, strict=True):
        assert held[image.transpose(1, 2, 0).tobytes()] == label


def test_mean_and_deviation_are_measured_on_training_images_alone(tmp_path):
    images, labels = arrays()
    path = write(tmp_path, train_images=images, train_labels=labels, test_images=0 * images, test_labels=labels)
    splits = read(path, order="bgr", scale=255)
    kept = splits.train.images / 1.0
    told = splits.preprocessing
    np.testing.assert_allclose(told["mean"], kept.mean(axis=(0, 2, 3))[::-1], atol=0.02)
    np.testing.assert_allclose(told["deviation"], kept.std(axis=(0, 2, 3))[::-1], atol=0.02)
    inputs = splits.train.load(np.arange(len(splits.train))).inputs
    np.testing.assert_allclose(inputs.mean(axis=(0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(inputs.std(axis=(0, 2, 3)), 1, atol=1e-3)
    assert (told["size"], told["order"], told["scale"]) == ([6, 5], "bgr", 255)


@pytest.mark.parametrize(
    "names",
    [
        "train_images train_labels val_images val_labels test_images test_labels",  # MedMNIST
        "images_train labels_train images_validation labels_validation images_test labels_test",
    ],
)
def test_ready_splits_are_taken_as_they_are(tmp_path, names):
    counts = (20, 8, 5)
    held = {}
    for index, count in enumerate(counts):
        images, labels = arrays(count, seed=index)
        held |= dict(zip(names.split()[2 * index :], (images, labels[:, None]), strict=False))
    splits = read(write(tmp_path, **held))
    assert tuple(len(part) for part in (splits.train, splits.validation, splits.test)) == counts
    assert splits.test.labels.tolist() == [0, 1, 2, 3, 0]


def test_arrays_by_the_names_that_keras_gives_them(tmp_path):
    images, labels = arrays(30, (28, 28))
    path = write(tmp_path, x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    splits = read(path, images="x", labels="y", shift=2)
    assert splits.train.load(np.arange(2), np.random.default_rng(0)).inputs.shape == (2, 1, 28, 28)
    assert len(splits.test) == 9
    assert splits.preprocessing["order"] == "grey"


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((6, 5, 3), "auto"),
        ((3, 6, 5), "auto"),
        ((6, 5, 1), "auto"),
        ((6, 5), "auto"),
        ((3, 3, 3), "nhwc"),
        ((3, 3, 3), "nchw"),
    ],
)
def test_channels_are_found_or_told(tmp_path, shape, layout):
    images, labels = arrays(30, shape)
    splits = read(write(tmp_path, images=images, labels=labels), layout=layout, mean=(), deviation=())
    if len(shape) == 2:
        expected = images[:, None]
    else:
        expected = images if shape[0] == 3 and layout != "nhwc" else images.transpose(0, 3, 1, 2)
    everything = np.concatenate([part.images for part in (splits.train, splits.validation, splits.test)])
    assert sorted(map(bytes, everything)) == sorted(map(bytes, np.ascontiguousarray(expected)))


def test_float_images_are_what_the_model_takes(tmp_path):
    images, labels = arrays()
    path = write(tmp_path, images=images / 7.0, labels=labels)
    loaded = read(path).train.load(np.arange(3))
    assert loaded.inputs.dtype == np.float32
    assert loaded.inputs.max() > 30
    assert read(path).preprocessing == {"use": "array", "size": [6, 5]}
    with pytest.raises(UserError, match="float images are taken as they are; leave mean, deviation, order and scale out"):
        read(path, mean=(0.5,) * 3)


def test_no_labels(tmp_path):
    splits = read(write(tmp_path, images=arrays()[0]), labels="none")
    assert splits.classes == ()
    assert set(splits.train.load(np.arange(9)).targets.tolist()) == {-1}


def test_names_of_classes(tmp_path):
    images, labels = arrays()
    path = write(tmp_path, images=images, labels=labels)
    assert read(path, classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")
    with pytest.raises(UserError, match="labels up to 3; given: 2 classes"):
        read(path, classes=["a", "b"])


IMAGES, LABELS = arrays(10)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"x": IMAGES, "labels": LABELS}, "neither 'images' nor 'train_images'; it has labels, x; say which with images ="),
        ({"images": IMAGES, "y": LABELS}, "has no 'labels'; it has images, y; .* or labels = .none."),
        ({"test_images": IMAGES, "test_labels": LABELS}, "neither 'images' nor 'train_images'"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"one whole number an image.*shape \(5,\) for 10 images"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels are one whole number an image.*given: float64"),
        ({"images": IMAGES, "labels": LABELS - 2}, "0 or more .-1: none."),
        ({"images": IMAGES[..., :2], "labels": LABELS}, r"C 1 or 3; given: \(10, 6, 5, 2\) and layout 'auto'"),
        ({"images": IMAGES[0, 0], "labels": LABELS}, "images have a shape of"),
        ({"images": IMAGES.astype(np.int64), "labels": LABELS}, "images are uint8 or float; given: int64"),
        (
            {"images": IMAGES, "labels": LABELS, "test_images": IMAGES[..., :1], "test_labels": LABELS},
            "as the mean has 3 values",
        ),
    ],
)
def test_arrays_that_are_no_good(tmp_path, held, words):
    with pytest.raises(UserError, match=words):
        read(write(tmp_path, **held))


def test_files_that_are_no_good(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read(str(tmp_path / "nowhere.npz"))
    (tmp_path / "text.npz").write_text("images")
    with pytest.raises(UserError, match="cannot be read as a .npz of plain arrays"):
        read(str(tmp_path / "text.npz"))
    whole = write(tmp_path, images=IMAGES, labels=LABELS)
    (tmp_path / "half.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be read as a .npz of plain arrays"):
        read(str(tmp_path / "half.npz"))
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(UserError, match=r"holds one array; .* np\.savez"):
        read(str(tmp_path / "one.npy"))
    with pytest.raises(UserError, match="layout is one of auto, nchw, nhwc; given: 'hwc'"):
        read(whole, layout="hwc")


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.mkdir, (self.target,)


def test_objects_in_an_array_are_not_unpickled(tmp_path):
    target = tmp_path / "made by a pickle"
    path = write(tmp_path, images=IMAGES, labels=np.array([Malicious(str(target))] * 10, object))
    with pytest.raises(UserError, match="objects, which numpy keeps as pickles that could run code"):
        read(path)
    assert not target.exists()
