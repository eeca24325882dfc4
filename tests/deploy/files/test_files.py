"""Names from outside lie below their folder or are refused; deleting goes below a folder only."""

import errno
import os
import subprocess

import pytest
from hypothesis import given, settings

from deploy import files
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


@pytest.mark.parametrize("has_call", [True, False])
def test_a_sparse_file_gets_its_blocks_and_keeps_its_content(has_call, tmp_path, monkeypatch):
    if not has_call:
        monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "sparse"
    with path.open("w+b") as file:
        file.write(b"head")
        file.truncate(3_000_000)
        assert path.stat().st_blocks * 512 < 100_000
        files.allocate(file, 3_000_000, path)
    assert path.stat().st_blocks * 512 >= 3_000_000
    assert path.read_bytes() == b"head".ljust(3_000_000, b"\0")


@pytest.mark.parametrize("has_call", [True, False])
def test_no_room_is_an_error_with_what_is_needed(has_call, tmp_path, monkeypatch):
    """A real small disk."""
    if not has_call:
        monkeypatch.delattr(os, "posix_fallocate")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("only root can make a small disk")
    try:
        with (disk / "big").open("w+b") as file:
            file.truncate(3 << 20)
            with pytest.raises(OSError, match=r"big takes 3\.0 MiB, [01]\.\d MiB are free") as told:
                files.allocate(file, 3 << 20, disk / "big")
            assert told.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", disk], check=True)
