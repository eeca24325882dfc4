import hashlib
import os
import re
import subprocess
import sys
from datetime import timedelta

import numpy as np
import pytest

from compress.pipeline import signing_keys
from deploy.bundle import bundle as bundles
from deploy.bundle import golden as goldens
from deploy.bundle import manifest
from deploy.bundle.bundle import verify, write
from deploy.engines import engine
from deploy.packing import packed_file
from profiles.device import load
from profiles.errors import UserError
from tests.conftest import ROOT
from tests.deploy.bundles import bundle as small_bundle
from tests.deploy.bundles import change


@pytest.fixture
def bundle(tmp_path):
    return small_bundle(tmp_path / "bundle")


def test_a_bundle_proves_itself(bundle):
    check = verify(bundle)
    assert check.max_abs < 1e-3
    assert check.top1_agreement == 1.0
    assert check.samples == 4


@pytest.fixture
def packed(tmp_path):
    return small_bundle(tmp_path / "packed", packed_bits=3)


def test_a_packed_bundle_proves_itself_and_holds_no_float_weights(packed, bundle):
    check = verify(packed)
    assert (check.max_abs, check.samples) == (0.0, 4)
    assert not (packed / "model.onnx").exists()
    assert (packed / "model.packed").stat().st_size < 0.8 * (bundle / "model.onnx").stat().st_size
    (decoded,) = manifest.read(packed)[0].decoded.items()
    content = packed_file.read((packed / "model.packed").read_bytes())
    assert decoded == ("model.onnx", manifest.FileEntry(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()))


def test_a_packed_file_that_is_not_the_proven_model_is_refused(packed):
    """Even where the manifest lists the other file, which it can only do unsigned."""
    content = (packed / "model.packed").read_bytes()
    other = packed_file.write(packed_file.read(content).replace(b"small", b"smaLl"), [])
    (packed / "model.packed").write_bytes(other)
    with pytest.raises(UserError, match="model.packed was altered"):
        verify(packed)
    change(packed, files=manifest.entries(packed))
    with pytest.raises(UserError, match="decodes to another model.onnx than the manifest names"):
        verify(packed)
    (packed / "model.packed").write_bytes(content[:-1])
    change(packed, files=manifest.entries(packed))
    with pytest.raises(UserError, match="cannot be decoded: .*get the bundle again"):
        verify(packed)


def test_a_packed_file_of_another_model_is_not_bundled(packed, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"other")
    plan = engine("onnxruntime").plan(load("cpu"), "fp32", "1")
    about = {"title": "t", "plan": plan, "profile": load("cpu"), "golden": {}, "report": b"{}"}
    with pytest.raises(ValueError, match="does not decode to"):
        write(tmp_path / "b", model=tmp_path / "m.onnx", packed=packed / "model.packed", **about)


def test_the_readme_of_a_packed_bundle_decodes_it_without_this_product(packed):
    """numpy alone makes the very model, with fixed and with Huffman-coded indices."""
    examples = re.findall(r"```python\n(.*?)```", (packed / "README.md").read_text(), re.DOTALL)
    assert run_alone(examples[0], packed).returncode == 0
    made = (packed / "model.onnx").read_bytes()
    assert hashlib.sha256(made).hexdigest() == manifest.read(packed)[0].decoded["model.onnx"].sha256
    assert f"SHA-256 `{hashlib.sha256(made).hexdigest()}`" in (packed / "README.md").read_text()
    done = run_alone(examples[1], packed)
    assert float(done.stdout.removeprefix("largest difference: ")) == 0.0


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_readme_of_a_bundle_works_without_this_product(bundle, runtime):
    """Its examples, as they stand, in a process that sees nothing of ours."""
    examples = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)
    (code,) = [example for example in examples if f"import {runtime}" in example]
    assert len([line for line in code.splitlines() if line]) <= 10
    done = run_alone(code, bundle)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.removeprefix("largest difference: ")) < 1e-3


def run_alone(code, folder):
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, check=False)


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


def test_the_same_content_keeps_its_version_and_its_signature(tmp_path, key):
    folder = small_bundle(tmp_path / "b", key=key, version=7)
    before = (folder / manifest.MANIFEST).read_bytes(), (folder / manifest.SIGNATURE).read_bytes()
    small_bundle(folder)
    assert manifest.read(folder)[0].version == 7
    assert ((folder / manifest.MANIFEST).read_bytes(), (folder / manifest.SIGNATURE).read_bytes()) == before


def test_another_content_gets_a_higher_version(tmp_path):
    far = 2**40
    folder = small_bundle(tmp_path / "b", version=far)
    small_bundle(folder, seed=1)
    assert manifest.read(folder)[0].version == far + 1


def test_a_first_version_is_the_time(tmp_path):
    made = manifest.read(small_bundle(tmp_path / "b"))[0]
    assert abs(made.version - manifest.moment(made.created).timestamp()) <= 1


def test_signing_checks_the_files_first(tmp_path, key):
    folder = small_bundle(tmp_path / "b")
    (folder / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="plan.json was altered"):
        bundles.sign(folder, signing_keys.signer(key))
    assert not (folder / manifest.SIGNATURE).exists()


def test_signing_sets_version_and_expiry(tmp_path, key):
    folder = small_bundle(tmp_path / "b")
    made = bundles.sign(folder, signing_keys.signer(key), version=12, expires_in=timedelta(days=30))
    assert (made, made.key, made.version) == (manifest.read(folder)[0], key.id, 12)
    left = manifest.moment(made.expires or "") - manifest.moment(made.created)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30, minutes=1)


def test_a_signature_can_be_checked_by_openssl_as_the_readme_says(tmp_path, key):
    folder = small_bundle(tmp_path / "b", key=key)
    (line,) = re.findall(r"^    (openssl .*)$", (folder / "README.md").read_text(), re.MULTILINE)
    (tmp_path / "k.pem").write_text(key.pem)
    command = line.replace("KEY.pem", str(tmp_path / "k.pem")).split()
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
    (folder / manifest.MANIFEST).write_bytes((folder / manifest.MANIFEST).read_bytes().replace(b"small", b"smaLl"))
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode != 0


def deploy_command(*arguments, home):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGE_HOME": str(home)}
    command = [sys.executable, "-m", "deploy", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_command_verifies_who_signed_and_what_it_gives(tmp_path, key):
    folder, home = small_bundle(tmp_path / "b", key=key, version=3), tmp_path / "home"
    (tmp_path / "k.pem").write_text(key.pem)
    fine = deploy_command("verify", folder, "--key", tmp_path / "k.pem", home=home)
    agree = r"4 golden samples agree \(cosine 1\.0*\), none from raw samples: the bundle has no raw samples"
    words = rf"ok: small 3, signed by {key.id}; {agree}\n"
    assert fine.returncode == 0 and re.fullmatch(words, fine.stdout), fine
    stranger = deploy_command("verify", folder, home=home)
    assert (stranger.returncode, stranger.stdout.partition(" which")[0]) == (
        2,
        f"refused: bundle small 3 is signed by key {key.id},",
    )
    assert "signature not asked for" in deploy_command("verify", folder, "--unsigned", home=home).stdout
    nothing = deploy_command("serve-check", home=home)
    assert nothing.returncode == 2 and "no model is served here" in nothing.stdout


@pytest.mark.parametrize(("samples", "values", "kept"), [(16, 1_000, 16), (16, 60_000, 4), (16, 600_000, 1)])
def test_golden_samples_keep_to_a_megabyte_and_one_stays(tmp_path, samples, values, kept):
    """Noise in float32, which deflates by less than a tenth: 240 kB a sample of 60,000."""
    inputs = np.random.default_rng(0).normal(size=(samples, values)).astype(np.float32)
    content = goldens.fitting({"input": inputs, "output": np.ones((samples, 4), np.float32)})
    (tmp_path / "golden.npz").write_bytes(content)
    read = goldens.read(tmp_path / "golden.npz")
    assert (read["input"] == inputs[:kept]).all() and read["output"].shape == (kept, 4)
    assert len(content) <= 1_000_000 or kept == 1


def test_a_folder_with_files_of_others_is_kept_beside_the_new_bundle(bundle):
    """A bundle takes the place of a bundle; one with a user's file in it, or whose manifest is damaged, is kept."""
    folder = bundle
    small_bundle(folder, seed=1)
    assert manifest.unlisted(folder) == [] and not folder.with_name(f"{folder.name}-kept-1").exists()
    (folder / "notes").mkdir()
    (folder / "notes/a.txt").write_text("mine")
    assert manifest.unlisted(folder) == ["notes/a.txt"]
    small_bundle(folder, seed=2)
    assert manifest.unlisted(folder) == [] == manifest.unlisted(folder / "nowhere")
    assert (folder.with_name(f"{folder.name}-kept-1") / "notes/a.txt").read_text() == "mine"
    (folder / "manifest.json").write_text("{")
    assert {"manifest.json", "plan.json"} <= {*manifest.unlisted(folder)}
    small_bundle(folder, seed=3)
    assert (folder.with_name(f"{folder.name}-kept-2") / "manifest.json").read_text() == "{"
