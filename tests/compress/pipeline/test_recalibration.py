"""Recalibrate: a real int8 bundle whose site is twice as bright; what is refused, in one line; whose signature is given."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image

from compress.data.base import ArraySamples
from compress.execution.progress import StreamProgress
from compress.methods.condensation.stored import StoredSet, save
from compress.methods.quantization.post_training import PostTraining, apply, calibrate, quantize_model
from compress.pipeline import signing_keys
from compress.pipeline.recalibration.recalibrate import recalibrate
from deploy.bundle import bundle as bundles
from deploy.bundle import golden, manifest
from deploy.bundle.target import mismatches
from deploy.engines import engine
from deploy.onnx_graph.take_bytes import CONVOLUTION, NODES, take_bytes
from deploy.processing.preprocessing.pixels import normalise_from
from deploy.qdq.strip import strip
from profiles.device import load as load_profile
from profiles.errors import UserError
from tests.deploy.engines.small import small

FACTOR = 2.0
ABOUT = {"size": [8, 8], "mean": [0.5] * 3, "deviation": [0.25] * 3, "order": "rgb", "scale": 1.0, "crop": "none"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A key of this machine, and another's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_KEYS", str(tmp_path_factory.mktemp("keys")))
        yield signing_keys.new("default")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Labelled samples of the site, and where a module's tests write."""
    folder = tmp_path_factory.mktemp("site")
    np.savez(folder / "site.npz", images=FACTOR * images(120, seed=9), labels=np.arange(120) % 4)
    return folder


@pytest.fixture(scope="module")
def bundle(site, keys):
    """A network in int8 with ranges of samples that are half as bright, signed."""
    samples = ArraySamples(images(32, seed=3), np.full(32, -1))
    profile, runtime = load_profile("cpu"), engine("onnxruntime")
    profile = replace(profile, runtimes=tuple(r for r in profile.runtimes if r.engine == "onnxruntime"))
    plan = replace(runtime.plan(profile, "int8", runtime.affinity().version), threads=1)
    int8 = quantize_model(small(), samples, profile.runtimes[0].quantization, PostTraining()).onnx()
    onnx.save(int8, site / "int8.onnx")
    (site / "engine").mkdir()
    runtime.build(site / "int8.onnx", plan, site / "engine")
    outputs = golden.run(runtime.open(site / "engine", plan), samples.images[:16])
    bundles.write(
        site / "bundle",
        title="site",
        name="site",
        model=site / "int8.onnx",
        plan=plan,
        profile=profile,
        golden=golden.pack(samples.images[:16], outputs),
        report=b"{}",
        preprocessing={**ABOUT, "classes": ["a", "b", "c", "d"]},
        signer=signing_keys.signer(keys),
    )
    return site / "bundle"


def written(folder, model, plan, profile, inputs, about, signer=None):
    """Write a bundle of a model, with what its engine makes of ``inputs``."""
    folder.mkdir()
    (folder / "engine").mkdir()
    onnx.save(model, folder / "model.onnx")
    runtime = engine(plan.engine)
    runtime.build(folder / "model.onnx", plan, folder / "engine")
    outputs = golden.run(runtime.open(folder / "engine", plan), inputs)
    options = {"model": folder / "model.onnx", "plan": plan, "profile": profile, "report": b"{}", "signer": signer}
    about = {**ABOUT, "classes": ["a", "b", "c", "d"], **about}
    bundles.write(
        folder / "bundle", title="t", name="t", golden=golden.pack(inputs, outputs), preprocessing=about, **options
    )
    return folder / "bundle"


def of_this_device(precision):
    profile, runtime = load_profile("cpu"), engine("onnxruntime")
    profile = replace(profile, runtimes=tuple(r for r in profile.runtimes if r.engine == "onnxruntime"))
    return profile, replace(runtime.plan(profile, precision, runtime.affinity().version), threads=1)


def images(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


def quiet():
    import io

    return StreamProgress(io.StringIO())


def test_ranges_of_the_site(bundle, site, keys):
    found = recalibrate(bundle, site / "site.npz", progress=quiet())
    before, _, _ = manifest.read(bundle)
    after, _, signature = manifest.read(site / "bundle-recalibrated")
    assert found.exit_code == 0 and found.wider > found.pairs / 2, "the site is twice as bright"
    assert found.cosine_after > found.cosine_before, "what was clipped is not any more"
    assert found.samples.calibrated == 96 and found.samples.held_out == 24 and found.accuracy is not None
    assert mismatches(after.target) == [], "the device that it was proven on takes it"
    assert after.name == before.name and after.version > before.version and after.key == keys.id and signature
    assert bundles.verify(site / "bundle-recalibrated").cosine > 0.9999, "its golden samples are the new engine's"
    lineage = json.loads((site / "bundle-recalibrated/lineage.json").read_text())
    assert lineage["made_of"]["version"] == before.version and lineage["before"] == []
    assert (bundle / "report.json").read_bytes() == (site / "bundle-recalibrated/report.json").read_bytes()
    again = recalibrate(site / "bundle-recalibrated", site / "site.npz", out=site / "again", progress=quiet())
    assert again.changed == 0, "the same samples give the same ranges"
    assert json.loads((site / "again/lineage.json").read_text())["before"][0]["made_of"]["version"] == before.version


def test_another_s_bundle_is_never_signed_here(bundle, site, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_KEYS", str(tmp_path / "mine"))
    signing_keys.new("default")
    found = recalibrate(bundle, site / "site.npz", out=tmp_path / "new", progress=quiet())
    assert found.key is None and "not on this machine" in found.notes[0] and "not signed: look at it" in str(found)


def test_pictures_are_prepared_as_the_bundle_states(bundle, tmp_path):
    for number, picture in enumerate(images(8, seed=4)):
        folder = tmp_path / "pictures" / "abcd"[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip((picture.transpose(1, 2, 0) * 0.25 + 0.5) * 255, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    found = recalibrate(bundle, tmp_path / "pictures", out=tmp_path / "new", progress=quiet())
    assert found.samples.kind == "folder" and found.samples.labelled and found.samples.calibrated == 8
    assert found.accuracy.facts["samples"] == 8 and any("serve ranges and proof" in note for note in found.notes)


def test_what_is_farther_from_the_float_graph_is_said_so(bundle, tmp_path):
    """Ranges of faint samples clip the others: without labels nothing else tells."""
    held = images(40, seed=5)
    held[np.sort(np.random.default_rng(0).permutation(40)[8:])] *= 0.05
    np.savez(tmp_path / "faint.npz", images=held)
    found = recalibrate(bundle, tmp_path / "faint.npz", out=tmp_path / "new", progress=quiet())
    assert found.cosine_after < found.cosine_before and any("farther from the float graph" in note for note in found.notes)


NORMALISE = normalise_from({**ABOUT, "order": "rgb"})


def pictures(count, seed):
    """Bytes (samples, channels, height, width), twice as bright as ``images``."""
    values = (FACTOR * images(count, seed) * 0.25 + 0.5) * 255
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("form", "floats"), [(NODES, {}), (CONVOLUTION, {"a": "is float"})])
def test_a_file_that_takes_bytes_gets_the_ranges_of_the_plain_one(form, floats, tmp_path):
    """By definition: normalisation is folded in behind the ranges, so both files have the same after the same pictures."""
    profile, plan = of_this_device("int8")
    samples = ArraySamples(images(32, seed=3), np.full(32, -1))
    recipe = profile.runtimes[0].quantization
    quantize = calibrate(small(), samples, recipe, "norm", floats)
    plain = apply(small(), quantize, samples)
    folded = take_bytes(plain, NORMALISE, form)
    first = np.ascontiguousarray(np.moveaxis(pictures(16, 6), 1, 3))
    given = {
        "plain": written(tmp_path / "p", plain, plan, profile, NORMALISE(pictures(16, 6)), {}),
        "folded": written(tmp_path / "f", folded, plan, profile, first, {"bytes": True}),
    }
    np.savez(tmp_path / "site.npz", images=pictures(60, 9), labels=np.arange(60) % 4)
    found = {name: recalibrate(each, tmp_path / "site.npz", progress=quiet()) for name, each in given.items()}
    assert found["folded"].changed == found["plain"].changed > 0 and found["folded"].exit_code == 0
    files = [onnx.load(each.with_name("bundle-recalibrated") / "model.onnx") for each in given.values()]
    grids = [sorted(strip(file).activations.values()) for file in files]
    assert grids[0] == grids[1] if form == NODES else np.allclose(grids[0], grids[1], atol=1e-4)
    new = given["folded"].with_name("bundle-recalibrated")
    assert bundles.verify(new).cosine > 0.9999
    assert json.loads((new / "preprocessing.json").read_text())["bytes"] is True
    with np.load(new / "golden.npz") as held:
        assert held["input"].dtype == np.uint8 and held["input"].shape[1:] == (8, 8, 3)
    assert found["folded"].accuracy.facts["new"] == pytest.approx(found["plain"].accuracy.facts["new"])
    np.savez(tmp_path / "floats.npz", images=images(40, 1))
    with pytest.raises(UserError, match="values that no byte becomes by its mean and deviation; give pictures"):
        recalibrate(given["folded"], tmp_path / "floats.npz", progress=quiet())


def test_float_has_no_ranges_and_is_told_what_to_do(tmp_path):
    profile, plan = of_this_device("fp32")
    float_one = written(tmp_path / "f", small(), plan, profile, images(16, 3), {})
    np.savez(tmp_path / "site.npz", images=images(8, 1))
    with pytest.raises(UserError, match="it is fp32; only int8 has ranges: give the recipe a stage of") as caught:
        recalibrate(float_one, tmp_path / "site.npz", progress=quiet())
    assert len(caught.value.faults) == 1


def test_the_set_that_a_bundle_carries_is_read_as_samples(bundle, tmp_path):
    facts = {
        "use": "random", "task": "classification", "classes": list("abcd"), "inputs": {"input": [3, 8, 8]}, "teacher": "x",
        "tiles": 1, "labels": "none", "normalise": dict(NORMALISE.as_json()), "augmentation": {"shift": 0, "mirror": False},
    }  # fmt: skip
    stored = StoredSet(inputs=pictures(40, 2), targets=np.arange(40) % 4, soft={}, facts=facts)
    save(tmp_path / "set.npz", stored)
    found = recalibrate(bundle, tmp_path / "set.npz", out=tmp_path / "new", progress=quiet())
    assert found.samples.labelled and found.samples.calibrated == 32
    other = {**facts, "classes": list("abcx"), "normalise": {**facts["normalise"], "mean": [0.25] * 3}}
    save(tmp_path / "other.npz", replace(stored, facts=other))
    with pytest.raises(UserError) as caught:
        recalibrate(bundle, tmp_path / "other.npz", out=tmp_path / "newer", progress=quiet())
    assert "of mean [0.25, 0.25, 0.25], and the model's of [0.5, 0.5, 0.5]" in caught.value.faults[0]
    assert "its classes are ['a', 'b', 'c', 'x']" in caught.value.faults[1]


def altered(bundle, tmp_path):
    import shutil

    shutil.copytree(bundle, tmp_path / "altered")
    with (tmp_path / "altered/model.onnx").open("ab") as file:
        file.write(b"x")
    return tmp_path / "altered"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("altered", "model.onnx was altered"),
        ("resigned", "its signature does not match"),
        ("onnx", "an ONNX file; give the bundle"),
        ("shape", "the samples are of shape (3, 4, 4); the model takes (3, 8, 8)"),
        ("nan", "NaN or infinity"),
        ("labels", "labels are 0 to 3"),
        ("empty", "holds no samples"),
        ("nothing", "no such folder or .npz file"),
        ("itself", "that is the bundle itself"),
        ("taken", "it is there and no bundle"),
    ],
)
def test_what_will_not_do_is_told_in_one_line(given, words, bundle, site, tmp_path):
    import shutil

    what, samples, out = bundle, site / "site.npz", tmp_path / "new"
    arrays = {"images": np.ones((8, 3, 8, 8), np.float32)}
    if given == "altered":
        what = altered(bundle, tmp_path)
    elif given == "resigned":
        what = shutil.copytree(bundle, tmp_path / "resigned")
        raw = bytearray((what / "manifest.sig").read_bytes())
        raw[0] ^= 1
        (what / "manifest.sig").write_bytes(raw)
    elif given == "onnx":
        what = site / "int8.onnx"
    elif given in ("itself", "taken"):
        out = bundle if given == "itself" else site
    else:
        arrays |= {"shape": {"images": np.ones((8, 3, 4, 4), np.float32)}}.get(given, {})
        arrays |= {"nan": {"images": np.full((8, 3, 8, 8), np.nan, np.float32)}}.get(given, {})
        arrays |= {"labels": {"labels": np.full(8, 4)}}.get(given, {})
        arrays = {} if given == "empty" else arrays
        samples = tmp_path / ("nothing" if given == "nothing" else "given.npz")
        if given != "nothing":
            np.savez(samples, **arrays)
    with pytest.raises(UserError) as caught:
        recalibrate(what, samples, out=out, progress=quiet())
    assert len(caught.value.faults) == 1 and words in caught.value.faults[0], caught.value
    assert out in (bundle, site) or not out.exists()
