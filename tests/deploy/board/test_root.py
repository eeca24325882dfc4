"""A root folder is ours by its marker, or nothing in it is touched; the same rule in a shell and in Python."""

import hashlib
import os
import subprocess

import pytest

from deploy.board import root as roots
from deploy.board.address import clean_root
from deploy.board.store import FOLDERS, Store


def snapshot(folder):
    """Every entry below a folder, with its content; links as what they say."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            link = os.readlink(path) if os.path.islink(path) else None
            found[path] = link or (None if os.path.isdir(path) else open(path, "rb").read())
    return found


def by_shell(root, then=""):
    script = f"root='{root}'\n{roots.claim_script()}{then}"
    return roots.foreign_reason(subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout)


def by_python(root):
    try:
        roots.claim(root)
    except roots.ForeignRootError as error:
        return str(error)
    return None


def users_folder(path):
    """A folder of a user's whose names are ours by chance."""
    for name in ("work", "jobs", "code", "parts", "blobs", "trees"):
        (path / name).mkdir(parents=True)
        (path / name / "thesis.tex").write_text("years of work")
    return path


def old_root(path):
    """A root as earlier versions left it: no marker."""
    digest = hashlib.sha256(b"data").hexdigest()
    for folder in (
        "code/0123456789abcdef/deploy",
        f"trees/{digest}",
        "parts",
        "blobs",
        "work/" + 32 * "a",
        "jobs/" + 12 * "b",
    ):
        (path / folder).mkdir(parents=True)
    (path / "code/0123456789abcdef/deploy/__main__.py").write_text("")
    (path / "blobs" / digest).write_bytes(b"data")
    (path / "edge-compress.lock").write_text("")
    return path


CASES = {
    "a user's folder with our names": lambda path: users_folder(path),
    "work and jobs alone, empty": lambda path: [(path / name).mkdir(parents=True) for name in ("work", "jobs")],
    "one file": lambda path: [path.mkdir(), (path / "notes").write_text("n")],
    "one hidden file": lambda path: [path.mkdir(), (path / ".notes").write_text("n")],
    "another's marker": lambda path: [path.mkdir(), (path / roots.MARKER).write_text("mine\n")],
    "a folder as marker": lambda path: (path / roots.MARKER).mkdir(parents=True),
    "an old root with a file more": lambda path: (old_root(path) / "notes").write_text("n"),
    "an old root with a file more below": lambda path: (old_root(path) / "work/notes").write_text("n"),
    "a link to a folder": lambda path: path.symlink_to(users_folder(path.parent / "theirs")),
    "a link to an empty folder": lambda path: [(path.parent / "empty").mkdir(), path.symlink_to(path.parent / "empty")],
    "a dangling link": lambda path: path.symlink_to(path.parent / "gone"),
    "a file": lambda path: path.write_text("n"),
}


def linked(name, target):
    def make(path):
        roots.claim(path)
        users_folder(path.parent / "theirs")
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(path.parent / target)

    return make


for name in (*FOLDERS, "code", "venv", "put", "made", roots.MARKER):
    CASES[f"{name} is a link"] = linked(name, "theirs/jobs" if name != roots.MARKER else "theirs/jobs/thesis.tex")
    CASES[f"{name} is a dangling link"] = linked(name, "gone")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("claim", [by_shell, by_python])
def test_what_is_not_ours_is_refused_and_left_as_it_is(case, claim, tmp_path):
    root = tmp_path / "root"
    CASES[case](root)
    before = snapshot(tmp_path)
    try:
        reason = claim(root)
    except FileExistsError:
        reason = "a file is no folder"
    assert reason
    assert snapshot(tmp_path) == before
    assert by_shell(root, roots.remove_script()), "and nothing is removed"
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
@pytest.mark.parametrize("claim", [by_shell, by_python])
def test_a_new_or_an_empty_folder_becomes_ours_and_stays_it(make, claim, tmp_path):
    root = tmp_path / "below/root"
    root.parent.mkdir()
    make(root)
    assert claim(root) is None
    Store(root)
    for again in (by_shell, by_python):
        assert again(root) is None
    (root / "mine").write_text("put here later")
    assert by_shell(root, roots.remove_script()) is None
    assert [path.name for path in root.iterdir()] == ["mine"], "of ours nothing, of the user's everything"
    (root / "mine").unlink()
    assert by_python(root) is None and by_shell(root, roots.remove_script()) is None
    assert not root.exists()


def test_a_root_of_an_earlier_version_is_taken_over(tmp_path):
    root = old_root(tmp_path / "root")
    assert by_python(root), "only where a client comes by its shell"
    assert by_shell(root) is None
    assert Store(root).missing([hashlib.sha256(b"data").hexdigest()]) == {}


def test_a_phones_root_of_an_earlier_version_is_taken_over(tmp_path):
    for folder in ("put/" + 64 * "a", "made/" + 32 * "b", "part-" + 32 * "c"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    assert by_shell(tmp_path / "root") is None


def test_removing_takes_a_link_away_and_not_what_it_leads_to(tmp_path):
    root, theirs = tmp_path / "root", users_folder(tmp_path / "theirs")
    store = Store(root)
    before = snapshot(theirs)
    for folder in ("work", "jobs", "trees"):
        (root / folder / "link").symlink_to(theirs)
        (root / folder / "made").mkdir()
        (root / folder / "made/link").symlink_to(theirs)
    store.forget(root / "work/made/link/work")
    store.forget(root / "work/../../theirs/work")
    store.forget(root / "trees/made/link")
    store.sweep()
    assert list((root / "work").iterdir()) == []
    (root / "work").rmdir()
    (root / "work").symlink_to(theirs)
    store.sweep()
    store.forget(root / "work/jobs")
    assert snapshot(theirs) == before


@pytest.mark.parametrize("root", ["", "/", "//", "/a/../b", "..", "a/\n", "-rf", "."])
def test_a_path_that_is_no_root(root):
    assert clean_root(root) is None


def test_a_slash_at_the_end_does_not_hide_a_link():
    assert clean_root("/data//x/./y/") == "/data/x/y"
