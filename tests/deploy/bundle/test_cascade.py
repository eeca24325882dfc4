"""The device's side of a cascade: each way gives what its own engine gives."""

import numpy as np
import pytest

from deploy.bundle import cascade, golden
from deploy.bundle.bundle import opened
from deploy.bundle.cascade import LARGE, SMALL, load, margins
from profiles.errors import UserError
from tests.deploy.bundles import bundle


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate((SMALL, LARGE)):
        bundle(tmp_path / name, seed=number)
    return tmp_path


def test_margins_by_hand():
    assert margins(np.log(np.array([[0.6, 0.3, 0.1], [0.5, 0.5, 1e-9]]))) == pytest.approx([0.3, 0.0])
    assert margins(np.array([[1e4, 0.0]], np.float32)) == pytest.approx([1.0]), "no overflow"


@pytest.mark.parametrize(("margin", "way"), [(0.0, SMALL), (2.0, LARGE)])
def test_each_way_answers_as_its_golden_samples_say(folder, margin, way):
    cascade.write(folder, margin)
    made = load(folder)
    (inputs, (expected,)) = golden.unpack(golden.read(folder / way / "golden.npz"))
    answers = np.concatenate([made(inputs[index : index + 1]) for index in range(len(inputs))])
    assert np.allclose(answers, expected, atol=1e-5)
    assert (made.asked, made.went_on) == (len(inputs), len(inputs) if way == LARGE else 0)


def test_what_is_unsure_goes_on(folder):
    inputs, (small,) = golden.unpack(golden.read(folder / SMALL / "golden.npz"))
    middle = float(np.median(margins(small)))
    cascade.write(folder, middle)
    made = load(folder)
    for index in range(len(inputs)):
        made(inputs[index : index + 1])
    assert made.went_on == (margins(small) < middle).sum() > 0


def test_a_folder_may_be_text(folder):
    cascade.write(folder, 0.5)
    (inputs, (expected,)) = golden.unpack(golden.read(folder / SMALL / "golden.npz"))
    assert load(str(folder))(inputs[:1]).shape == expected[:1].shape
    with opened(str(folder / SMALL)) as session:
        assert session is not None


def test_what_is_no_cascade_is_refused(folder):
    with pytest.raises(UserError, match="this is no cascade"):
        load(folder)
    cascade.write(folder, 0.5)
    (folder / LARGE / "model.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match="was altered"):
        load(folder)
