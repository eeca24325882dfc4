"""Folders that are replaced whole."""

import pytest

from deploy.files.folders import replaced_folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("keep", [False, True])
def test_the_new_folder_takes_the_place_of_the_old_one(tmp_path, keep):
    folder = tmp_path / "below" / "bundle"
    for content in ("first", "second", "third"):
        with replaced_folder(folder, keep=keep) as part:
            (part / "a").write_text(content)
    assert (folder / "a").read_text() == "third"
    kept = ["bundle-kept-1", "bundle-kept-2"] if keep else []
    assert sorted(path.name for path in folder.parent.iterdir()) == ["bundle", *kept]
    if keep:
        assert [(folder.parent / f"bundle-kept-{n}/a").read_text() for n in (1, 2)] == ["first", "second"]


def test_what_goes_wrong_leaves_the_old_one_and_nothing_else(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "a").write_text("old")

    def fill():
        with replaced_folder(folder) as part:
            (part / "a").write_text("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert names(tmp_path) == ["bundle", "bundle/a"] and (folder / "a").read_text() == "old"


def test_names_that_a_user_gave_are_not_taken(tmp_path):
    """``bundle.old`` and ``bundle.part`` beside a bundle are a user's own, and so is what a link leads to."""
    for name in ("bundle.old", "bundle.part", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    (tmp_path / "bundle").symlink_to(tmp_path / "elsewhere")
    with replaced_folder(tmp_path / "bundle") as part:
        (part / "a").write_text("new")
    assert not (tmp_path / "bundle").is_symlink() and names(tmp_path / "bundle") == ["a"]
    assert all((tmp_path / name / "mine").read_text() == "mine" for name in ("bundle.old", "bundle.part", "elsewhere"))
