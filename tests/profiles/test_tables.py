import pytest

from profiles.errors import UserError, unknown
from profiles.tables import load_object, look_up


def test_unknown_suggests_the_nearest_name():
    assert unknown("stage", "prun", ["prune", "distill"]) == (
        "unknown stage 'prun' (did you mean 'prune'?); known: distill, prune"
    )


def test_load_object_finds_what_a_reference_names():
    assert load_object("math:sqrt")(9) == 3


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("math", "write it as package.module:name"),
        ("no_such_module:x", "no module named 'no_such_module'"),
        ("math:no_such_name", "has no 'no_such_name'"),
    ],
)
def test_load_object_says_what_is_wrong(reference, words):
    with pytest.raises(UserError, match=words):
        load_object(reference)


def test_an_import_error_inside_the_users_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):
        load_object("broken_module:x")


def test_look_up_wants_a_known_name():
    with pytest.raises(UserError, match="did you mean 'kd'"):
        look_up("loss", "kdd", {"kd": "math:sqrt"})
