"""A key changes with the code of whatever its maker reaches, and with nothing else."""

import ast
import shutil
import sys

import pytest

from compress.models.factory import load_file
from compress.pipeline import cache_keys
from compress.pipeline.cache_keys import NEUTRAL, OURS, closure, code_key
from compress.stages import STAGES
from tests.conftest import ROOT

MODULES = {name: reference.partition(":")[0] for name, reference in STAGES.items()}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The packages, to be changed; nothing is remembered of them."""
    for package in OURS:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_keys, "_MEMORY", cache_keys._Memory())
    return tmp_path


def changed(text):
    """The source with the value of its first constant that is no docstring changed; with one more where it has none."""
    tree = ast.parse(text)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documented and isinstance(node.value, int | float | str):
            node.value = f"{node.value}0" if isinstance(node.value, str) else node.value + 1
            return ast.unparse(tree)
    return text + "\nONE_MORE = 1\n"


def test_one_constant_changed_anywhere_in_what_a_stage_reaches_changes_its_key(copy):
    """One module after the other, in the first stage that reaches it: a key is one digest of all that is reached."""
    seen = set()
    for stage in MODULES.values():
        keys = [code_key(stage, top=copy)]
        for module, path in closure([stage], copy):
            if module not in seen:
                path.write_text(changed(path.read_text()))
                keys.append(code_key(stage, top=copy))
                assert keys[-1] not in keys[:-1], f"{module} in {stage}"
                seen.add(module)
    assert len(seen) > 60, "trainer, methods, exporter, calibration ..."


@pytest.mark.parametrize(
    ("file", "old", "new", "stage"),
    [
        ("compress/training/muon.py", "MOMENTUM = 0.6", "MOMENTUM = 0.5", "prune"),
        ("compress/methods/distillation/whitening.py", "EPSILON = 0.05", "EPSILON = 0.1", "distill"),
        ("profiles/quantization.py", "weight_bits: int", "weight_bits: float", "quantize"),
    ],
)
def test_what_no_list_had_is_in_the_key(copy, file, old, new, stage):
    before, path = code_key(MODULES[stage], top=copy), copy / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert code_key(MODULES[stage], top=copy) != before


def test_comments_docstrings_and_what_can_change_no_number_are_not(copy):
    before = {name: code_key(module, top=copy) for name, module in MODULES.items()}
    trainer = copy / "compress/training/trainer.py"
    trainer.write_text(trainer.read_text().replace('"""Train', '"""Always train') + "\n# a remark\n")
    (copy / "compress/execution/progress.py").write_text("OTHER = 1\n")
    (copy / "compress/cli/main.py").write_text("OTHER = 1\n")
    assert {name: code_key(module, top=copy) for name, module in MODULES.items()} == before
    for neutral in NEUTRAL:
        path = ROOT.joinpath(*neutral.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"{neutral} is no more"


def test_a_users_own_module_is_followed_within_its_folder_and_its_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text("")
    (tmp_path / "own/task.py").write_text("import numpy\nfrom own.parts import SCALE\nfrom . import more\n")
    (tmp_path / "own/parts.py").write_text("SCALE = 1\n")
    (tmp_path / "own/more.py").write_text("MORE = 1\n")
    (tmp_path / "loose_task.py").write_text("def f():\n    import loose_helper\n")
    (tmp_path / "loose_helper.py").write_text("HELP = 1\n")
    assert [name for name, _ in closure(["own.task"])] == ["own.more", "own.parts", "own.task"]
    assert [name for name, _ in closure(["loose_task"])] == ["loose_helper", "loose_task"]
    before = code_key("own.task"), code_key("loose_task")
    (tmp_path / "own/parts.py").write_text("SCALE = 2\n")
    (tmp_path / "loose_helper.py").write_text("HELP = 2\n")
    assert code_key("own.task") != before[0] and code_key("loose_task") != before[1]
    loaded = load_file(tmp_path / "loose_task.py")
    assert loaded.__name__ != "loose_task", "by its path"
    assert [name for name, _ in closure([loaded.f])] == sorted([loaded.__name__, "loose_helper"])
    sys.modules.pop("own", None)


def test_what_is_installed_is_not_followed_to_its_neighbours(tmp_path, monkeypatch):
    """Beside a module of a package index lie all others."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.syspath_prepend(str(installed))
    (installed / "loose_installed.py").write_text("import loose_neighbour\n")
    (installed / "loose_neighbour.py").write_text("HELP = 1\n")
    assert [name for name, _ in closure(["loose_installed"])] == ["loose_installed"]


def test_what_is_remembered_is_used_and_a_damaged_memory_is_read_past(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache_keys, "_MEMORY", cache_keys._Memory())
    key, file = code_key("compress.losses.task"), tmp_path / "edge-compress/code.json"
    assert file.is_file()
    read, parse = [], ast.parse
    monkeypatch.setattr(ast, "parse", lambda *given, **options: read.append(given) or parse(*given, **options))
    monkeypatch.setattr(cache_keys, "_MEMORY", cache_keys._Memory())
    assert code_key("compress.losses.task") == key and not read
    for damage in ("[", "[1, 2]", '{"a": 1}', ""):
        file.write_text(damage)
        monkeypatch.setattr(cache_keys, "_MEMORY", cache_keys._Memory())
        code_key("compress.losses.task")
    assert read
