"""Names from outside lie below their folder or are refused; deleting goes below a folder only."""

import os

import pytest
from hypothesis import given, settings

from deploy.files import MOST_NAME_BYTES, MOST_PATH_BYTES, UnsafeNameError, name_fault, remove_below, safe_path
from tests.deploy.hostile import NAMES, hostile_names


@pytest.mark.parametrize("name", [*NAMES, 3, None, b"a", ["a"], "a" * (MOST_NAME_BYTES + 1), "a/" * MOST_PATH_BYTES + "a"])
def test_a_hostile_name_is_refused(name, tmp_path):
    assert name_fault(name)
    with pytest.raises(UnsafeNameError, match="is no name for a file"):
        safe_path(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["model.onnx", "a b/c-d_e.bin", "ünïcode/模型.onnx", "console.txt", "com10", "..a", "-rf", "ab:c"]
)
def test_an_ordinary_name_is_a_path_below_its_folder(name, tmp_path):
    assert name_fault(name) is None
    assert safe_path(tmp_path, name) == tmp_path / name


@given(hostile_names())
@settings(max_examples=500, deadline=None)
def test_what_is_taken_lies_below_its_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "nowhere"
    try:
        path = safe_path(folder, name)
    except UnsafeNameError:
        return
    assert os.path.normpath(path) == str(path) and path.is_relative_to(folder) and path != folder


@pytest.mark.parametrize("at", ["link", "link/below", "folder/link/below", "dangling", "dangling/below"])
def test_a_name_does_not_lead_through_a_link(at, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "folder").mkdir(parents=True)
    outside.mkdir()
    for link in (inside / "link", inside / "folder/link"):
        link.symlink_to(outside)
    (inside / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(UnsafeNameError, match="through a link"):
        safe_path(inside, at)


def test_removing_goes_below_a_folder_and_through_no_link(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours / "a/b", theirs / "kept"):
        folder.mkdir(parents=True)
    (ours / "link").symlink_to(theirs)
    (tmp_path / "linked").symlink_to(theirs)
    for folder, path in [
        (ours, theirs / "kept"),
        (ours, ours),
        (ours, ours / "../theirs"),
        (ours, ours / "link/kept"),
        (tmp_path / "linked", tmp_path / "linked/kept"),
    ]:
        assert not remove_below(folder, path)
    assert (theirs / "kept").exists()
    assert remove_below(ours, ours / "link") and remove_below(ours, ours / "a")
    assert list(ours.iterdir()) == [] and (theirs / "kept").exists()
