"""Recovery sets and records beside engines, mutated: read, or one line for each fault."""

import io
import json

import numpy as np
import pytest

from compress.methods.condensation import stored
from compress.pipeline.given import open_samples
from deploy.engines import placement, serving
from profiles.errors import UserError
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes, mutated_table
from tests.fuzz.test_own_files import contents

FACTS = {
    "format": stored.FORMAT, "use": "random", "task": "classification", "classes": ["a", "b"],
    "inputs": {"input": [1, 4, 4]},
    "teacher": "0" * 64, "tiles": 1, "labels": "soft", "normalise": None, "augmentation": {"shift": 2, "mirror": True},
}  # fmt: skip


def packed(facts):
    content = io.BytesIO()
    told = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    images, targets = np.zeros((6, 1, 4, 4), np.uint8), np.arange(6) % 2
    np.savez(content, **{"inputs.input": images}, targets=targets, soft=np.zeros((6, 2), np.float16), facts=told)
    return content.getvalue()


def test_recovery_sets(tmp_path):
    file, rnd = tmp_path / "set.npz", generator("recovery set")

    def read(content):
        file.write_bytes(content)
        found = stored.load(file)
        (found.stored, found.arrays(), found.normalise)

    assert check(read, packed(FACTS)) == ()
    for number in range(inputs(80)):
        check(read, packed(mutated_table(FACTS, rnd)) if number % 2 else mutated_bytes(packed(FACTS), rnd))


def test_sets_that_are_given(tmp_path):
    """As samples for a bundle's model, of the same preparation and classes or of others."""
    file, rnd = tmp_path / "set.npz", generator("recovery set given as samples")
    about = {"size": [4, 4], "crop": "none"}

    def read(content):
        file.write_bytes(content)
        open_samples(file, about, ["a", "b"], "--samples").samples.load(np.arange(2))

    assert check(read, packed(FACTS)) == ()
    for number in range(inputs(60)):
        check(read, packed(mutated_table(FACTS, rnd)) if number % 2 else mutated_bytes(packed(FACTS), rnd))


def test_records_of_placement(tmp_path):
    rnd = generator("placement")
    for content in contents({"CPU": {"Conv": 3}, "CoreML": {"part": 1}}, rnd, inputs(60)):
        (tmp_path / placement.FILE).write_bytes(content)
        check(lambda: placement.left_to(placement.load(tmp_path), "CPU"))


SERVING = {
    "sizes": {"name": "length", "sizes": [4, 8], "axes": {"ids": 1}, "mask": "", "fill": {}, "outputs": [0]},
    "states": [{"name": "h", "output": 1, "shape": [4], "dtype": "float32"}],
    "every": True,
}


def test_records_of_serving(tmp_path):
    rnd = generator("serving")
    for content in contents(SERVING, rnd, inputs(80)):
        (tmp_path / serving.FILE).write_bytes(content)
        check(lambda: serving.load(tmp_path).as_json(), allowed=(ValueError,))


def test_a_set_of_other_labels_or_of_bytes_of_no_normalisation_is_told(tmp_path):
    about = {"size": [4, 4], "mean": [0.5], "deviation": [0.25], "order": "grey", "scale": 1.0}
    for change, words in (({"classes": ["a"]}, "label 1, and it has 1 classes"), ({}, "how its bytes are normalised")):
        (tmp_path / "set.npz").write_bytes(packed({**FACTS, **change}))
        with pytest.raises(UserError, match=words):
            open_samples(tmp_path / "set.npz", about, [], "--samples")
