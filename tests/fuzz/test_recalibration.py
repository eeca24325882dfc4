"""What a bundle to recalibrate states, and samples that are given for it, mutated: read, or one line for each fault."""

import io

import numpy as np

from compress.data.given_samples import open_given, picture_view
from compress.pipeline.check.sides import read_preprocessing
from compress.pipeline.class_vectors import _names, _rows
from compress.pipeline.derived_bundle import earlier_lineage
from compress.pipeline.recalibration.opened import _described
from profiles.device import load as load_profile
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes
from tests.fuzz.test_own_files import contents

ABOUT = {"size": [8, 8], "mean": [0.5], "deviation": [0.25], "order": "grey", "scale": 1.0, "crop": "none", "classes": ["a"]}
LINEAGE = {"schema": 1, "made_of": {"name": "x", "version": 3}, "samples": {"digest": "0"}, "before": [{"schema": 1}]}


def test_preprocessing(tmp_path):
    rnd = generator("preprocessing of a bundle to recalibrate")
    for content in contents(ABOUT, rnd, inputs(120)):
        (tmp_path / "preprocessing.json").write_bytes(content)
        check(lambda: picture_view(read_preprocessing(tmp_path), "samples"))


def test_profiles(tmp_path):
    rnd = generator("profile of a bundle to recalibrate")
    (tmp_path / "preprocessing.json").write_text("{}")
    for content in contents(load_profile("cpu").as_json(), rnd, inputs(60)):
        (tmp_path / "profile.json").write_bytes(content)
        check(lambda: _described(tmp_path, "onnxruntime", []))


def test_lineage(tmp_path):
    rnd = generator("lineage of a bundle to recalibrate")
    for content in contents(LINEAGE, rnd, inputs(60)):
        (tmp_path / "lineage.json").write_bytes(content)
        check(lambda: earlier_lineage(tmp_path))


def test_other_classes(tmp_path):
    """Vectors and names that a user gives for the classes of a bundle: taken, or a fault each."""
    rnd, stream = generator("vectors and names of classes"), io.BytesIO()
    np.save(stream, np.eye(3, 4, dtype=np.float32) + 0.25)
    vectors, names = tmp_path / "vectors.npy", tmp_path / "names.txt"
    for _ in range(inputs(80)):
        vectors.write_bytes(mutated_bytes(stream.getvalue(), rnd))
        names.write_bytes(mutated_bytes("a\nbé\nc c\n".encode(), rnd))
        faults: list[str] = []
        for reader, path in ((_rows, vectors), (_names, names)):
            assert check(reader, path, faults) == (), "faults are gathered"
        assert all(len(fault) < 500 and "\n" not in fault for fault in faults), faults


def test_given_arrays(tmp_path):
    rnd, stream = generator("given arrays"), io.BytesIO()
    np.savez(stream, images=np.zeros((6, 1, 8, 8), np.uint8), labels=np.zeros(6, np.int64))
    for _ in range(inputs(80)):
        (tmp_path / "given.npz").write_bytes(mutated_bytes(stream.getvalue(), rnd))
        check(lambda: open_given(tmp_path / "given.npz", ABOUT, ["a"], "samples").samples.load(np.arange(1)))
