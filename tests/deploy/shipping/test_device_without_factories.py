"""A device has numpy and a runtime, and nothing that makes modules: a bundle is built and served there by data alone."""

import io
import json
import os
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import final

import pytest

from deploy.board import install
from deploy.devices import device
from deploy.shipping.ship import Destination, ShipOptions, load, roll_back, ship, status
from deploy.worker.client import RemoteWorker
from tests.conftest import HANG_S
from tests.deploy.bundles import bundle
from tests.deploy.faults import _Here

PACKAGES = ("numpy", "numpy.libs", "onnxruntime")  # and what pip says of them: their versions are asked for


@final
class Bare(_Here):
    """This machine by a Python that sees the device side, numpy and onnxruntime, and no other package."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "home")
        with tarfile.open(fileobj=io.BytesIO(install.payload()[1])) as archive:
            archive.extractall(folder / "code", filter="data")
        (folder / "site").mkdir()
        libraries = Path(find_spec("numpy").origin).parent.parent
        described = [path.name for name in PACKAGES for path in libraries.glob(f"{name}-*.dist-info")]
        for name in (*PACKAGES, *described):
            if (libraries / name).exists():
                (folder / "site" / name).symlink_to(libraries / name)
        path = f"{folder / 'code'}{os.pathsep}{folder / 'site'}"
        environment = [f"PYTHONPATH={path}", f"PATH={os.environ['PATH']}", f"EDGE_HOME={folder / 'home'}", f"HOME={folder}"]
        self.python = ["env", "-i", "-C", str(folder), *environment, sys.executable, "-S", "-B"]

    def deploy_command(self) -> list[str]:
        return [*self.python, "-m", "deploy"]

    def run(self, arguments, *, stdin=b"", timeout_s=60.0):
        return self._local.run(arguments, stdin=stdin, timeout_s=max(timeout_s, HANG_S))


@pytest.fixture
def there(tmp_path):
    return Bare(tmp_path)


def test_the_device_has_none_of_what_makes_modules(there):
    for name in ("compress", "torch", "onnx", "pydantic", "click", "safetensors", "compress.models.factory"):
        done = there.run([*there.python, "-c", f"import {name}"])
        assert done.code == 1 and "ModuleNotFoundError" in done.stderr
    assert there.run([*there.python, "-c", "import numpy, onnxruntime"]).code == 0


@pytest.mark.parametrize("bits", [None, 3])
def test_it_receives_builds_serves_and_goes_back(there, bits, key, tmp_path):
    canary = tmp_path / "called"
    plan = {"factory": "subprocess:getoutput", "arguments": {"cmd": f"touch {canary}"}}
    (tmp_path / "surgery.json").write_text(json.dumps(plan))
    (tmp_path / "code.py").write_text(f"open({str(canary)!r}, 'w')\n")
    extras = {"surgery.json": tmp_path / "surgery.json", "deploy/__init__.py": tmp_path / "code.py"}
    to, way = Destination(device=there), ShipOptions(public_key=key.pem, retries=0)
    for version in (1, 2):
        given = bundle(tmp_path / str(version), seed=version, key=key, version=version, extras=extras, packed_bits=bits)
        done = ship(load(given), to, way)
        assert done.state == "shipped" and done.proof["golden"]["cosine"] > 0.9999, done
    check = there.run([*there.deploy_command(), "serve-check"])
    assert check.code == 0 and check.stdout.startswith("ok: small 2, onnxruntime fp32"), check
    assert roll_back(to, None, way)["version"] == 1
    assert [model["version"] for model in status(to, way)["models"]] == [1]
    verified = there.run([*there.deploy_command(), "verify", str(tmp_path / "2")])
    assert verified.code == 0, verified
    ready = there.run([*there.deploy_command(), "prepare", str(tmp_path / "2"), str(tmp_path / "cache")])
    assert ready.code == 0, ready
    assert not canary.exists(), "nothing that a bundle names is ever called"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always imports from the working directory")
def test_files_of_a_bundle_are_not_imported_where_one_stands_in_it(key, tmp_path, monkeypatch):
    """Shipping to this machine from within the bundle's folder, where a file of its author's could hide one of ours."""
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'called')!r}, 'w')\n")
    extras = {f"{name}/__init__.py": tmp_path / "code.py" for name in ("deploy", "numpy", "profiles", "onnxruntime")}
    monkeypatch.chdir(bundle(tmp_path / "b", key=key, extras=extras))
    there = device(f"local://{tmp_path / 'home'}")
    done = ship(load(Path()), Destination(device=there), ShipOptions(public_key=key.pem, retries=0))
    assert done.state == "shipped", done
    with RemoteWorker(there) as worker:
        assert worker.facts()["device"]["cores"] >= 1
    assert not (tmp_path / "called").exists()
