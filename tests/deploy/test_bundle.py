import numpy as np
import onnx
import pytest
import torch

from deploy.bundle import verify, write
from deploy.engines import engine
from deploy.export import capture, to_onnx
from profiles.device import load
from profiles.errors import UserError
from tests.conftest import small_model


@pytest.fixture
def bundle(tmp_path):
    module = small_model().eval()
    inputs = torch.randn(4, 1, 16, 16)
    onnx.save(to_onnx(capture(module, [inputs])), tmp_path / "m.onnx")
    runtime = engine("onnxruntime")
    with torch.no_grad():
        golden = {"input": inputs.numpy(), "output": module(inputs).numpy()}
    write(
        tmp_path / "bundle",
        title="small",
        model=tmp_path / "m.onnx",
        plan=runtime.plan(load("cpu"), "fp32", runtime.affinity().version),
        profile=load("cpu"),
        golden=golden,
        report=b"{}",
    )
    return tmp_path / "bundle"


def test_a_bundle_proves_itself(bundle):
    check = verify(bundle)
    assert check.max_abs < 1e-3
    assert check.top1_agreement == 1.0
    assert check.samples == 4


def test_the_readme_of_a_bundle_works_without_this_product(bundle, monkeypatch):
    monkeypatch.chdir(bundle)
    code = [line[4:] for line in (bundle / "README.md").read_text().splitlines() if line.startswith("    ")]
    scope = {}
    exec("\n".join(code), scope)
    np.testing.assert_allclose(scope["outputs"][0], scope["golden"]["output"][:1], atol=1e-3)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "plan.json"])
def test_an_altered_file_is_refused(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    with pytest.raises(UserError, match=f"{name} was altered"):
        verify(bundle)


def test_missing_and_added_files_are_all_named(bundle):
    (bundle / "README.md").unlink()
    (bundle / "extra").touch()
    with pytest.raises(UserError) as caught:
        verify(bundle)
    assert len(caught.value.faults) == 2


def test_writing_again_replaces_it_whole(bundle):
    before = sorted(p.name for p in bundle.iterdir())
    (bundle / "stale").touch()
    write(
        bundle,
        title="again",
        model=bundle / "model.onnx",
        plan=engine("onnxruntime").plan(load("cpu"), "fp32", "1"),
        profile=load("cpu"),
        golden={"input": np.zeros(1), "output": np.zeros(1)},
        report=b"{}",
    )
    assert sorted(p.name for p in bundle.iterdir()) == before
    assert not list(bundle.parent.glob("bundle.*"))
