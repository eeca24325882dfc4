"""The architecture as failing tests: arrows, lean imports, the wheel, the documents."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.board.install import HOST_ONLY
from tests.conftest import ROOT

PACKAGES = ("compress", "deploy", "calib", "profiles")
DEVICE_SIDE = ("deploy", "calib", "profiles")


def test_arrows_point_one_way():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("package", "most"), [("compress", 14), ("deploy", 15)])
def test_a_package_has_few_doors(package, most):
    """Folders and modules at the top, besides its face and its marks."""
    marks = ("__init__.py", "py.typed", "__pycache__")
    assert len([path for path in (ROOT / package).iterdir() if path.name not in marks]) <= most


def test_tests_lie_where_what_they_test_does():
    for package in PACKAGES:
        for folder in {path.parent for path in (ROOT / "tests" / package).rglob("test_*.py")}:
            assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), folder


ISOLATED = """
import builtins, importlib, sys
allowed = set(sys.stdlib_module_names) | {"numpy", "deploy", "calib", "profiles"}
real = builtins.__import__
def only(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.split(".")[0] in ("deploy", "calib", "profiles") and level == 0 and name.split(".")[0] not in allowed:
        raise ImportError(f"{importer} imports {name}")
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = only
for module in sys.argv[1:]:
    importlib.import_module(module)
print(sorted(m for m in ("torch", "onnx", "onnxruntime", "openvino", "executorch", "tensorrt") if m in sys.modules))
"""


PICTURES = (
    "pictures",
    "resizing",
    "figures",
    *(f"preprocessing.{name}" for name in ("image", "fitted", "figure", "patch", "pixels")),
)
"""What reads pictures, of deploy.processing: these take Pillow beside numpy, where a model of pictures is served."""


def device_modules():
    for package in DEVICE_SIDE:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = str(path.relative_to(ROOT))
            if not relative.startswith(HOST_ONLY) and not relative.endswith("__main__.py"):
                name = relative.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
                if name not in {f"deploy.processing.{own}" for own in PICTURES}:
                    yield name


def test_the_device_side_needs_numpy_alone():
    done = subprocess.run(
        [sys.executable, "-c", ISOLATED, *device_modules()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_device_side_is_python_3_10():
    """Syntax here; names newer than 3.10 in the standard library are mypy's to find (python_version)."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            ast.parse(path.read_text(), feature_version=(3, 10))
    assert 'python_version = "3.10"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
def test_the_device_side_runs_on_python_3_10_with_numpy(tmp_path):
    import shutil

    python = shutil.which("python3.10")
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("no python3.10 on this machine")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    there = tmp_path / "venv/bin/python"
    subprocess.run([there, "-m", "pip", "install", "-q", "numpy"], check=True)
    done = subprocess.run([there, "-c", ISOLATED, *device_modules()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = subprocess.run([there, "-m", "deploy", "facts"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert facts.returncode == 0, facts.stderr
    assert "pip install onnxruntime" in facts.stdout


def test_the_wheel_holds_the_four_packages_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, "."]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    for needed in (
        "compress/recipe/built_in/digits.toml",
        "compress/report/report.html.j2",
        "profiles/cpu.toml",
        "profiles/data/jetpack.toml",
        "deploy/py.typed",
    ):
        assert needed in names
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    assert "edge-compress = compress.cli.main:script" in zipfile.ZipFile(wheel).read(entry).decode()


def test_lint_and_types():
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        tool = [str(Path(sys.executable).parent / command[0]), *command[1:]]
        done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_the_documents_exist(document):
    text = document.read_text()
    from compress.cli.main import COMMANDS

    for command in re.findall(r"^\s*(?:\$ )?compress ([\w-]+)", text, re.MULTILINE):
        assert command in COMMANDS, f"{document.name}: compress {command}"
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert target in targets, f"{document.name}: make {target}"


@pytest.mark.parametrize(("beside", "converts"), [("compress", True), ("deploy", False)])
def test_no_telemetry_of_openvino(beside, converts):
    """What it would send messages with is not loaded, nor its converter in a worker; others may load them afterwards."""
    code = f"""
import sys, {beside}
from deploy.engines.openvino import import_openvino
found = import_openvino()
assert found is import_openvino() and hasattr(found, "convert_model") == {converts}
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert found.Core().available_devices
import openvino_telemetry
from openvino.tools.ovc import convert_model
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_telemetry():
    code = "import os, deploy; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    clean = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=clean, check=True)
    assert done.stdout.strip() == "1"


PICKLERS = {"pickle", "_pickle", "pickletools", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LISTED = ("import pickletools", "pickletools.genops")
"""Lists a pickle's instructions, and runs none."""
SAFE = {"np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
"""What a call that could read a pickle has to say."""


def pickling(text: str) -> list[str]:
    """Every line in a source that writes a pickle, or could run one."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names += [node.value.id]
        bad = any(name.partition(".")[0] in PICKLERS for name in names) and ast.unparse(node) not in LISTED
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            bad = called == "torch.save" or (called in SAFE and said.get(SAFE[called][0]) is not SAFE[called][1])
        if bad:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_pickle_in_the_product():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert pickling(path.read_text()) == [], path


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "from joblib import load",
        "torch.save(x, p)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "pickle.Unpickler(f).load()",
        "import pickle\nclass Own(pickle.Unpickler): pass",
        "pickletools.pickle.loads(b)",
        "from pickletools import pickle",
        "import pickletools as p",
    ],
)
def test_what_a_pickle_would_come_by_is_seen(text):
    assert pickling(text)
