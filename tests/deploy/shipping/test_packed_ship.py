"""A bundle with packed weights on a device: decoded there, proven there, refused where it decodes to anything else."""

import json

import pytest

from compress.pipeline import signing_keys
from deploy.bundle import manifest
from deploy.bundle.manifest import FileEntry
from deploy.packing import packed_file
from deploy.shipping.first_start import ready
from deploy.shipping.install import serve_check
from deploy.shipping.ship import load
from profiles.errors import UserError
from tests.deploy.bundles import bundle, change, put, served


def test_it_is_decoded_proven_and_served_and_fewer_bytes_are_sent(store, key, tmp_path):
    plain, folder = bundle(tmp_path / "a", key=key, version=4), bundle(tmp_path / "b", key=key, version=5, packed_bits=2)
    listed = [load(each).manifest.files for each in (plain, folder)]
    assert listed[1]["model.packed"].size_bytes < 0.6 * listed[0]["model.onnx"].size_bytes
    done = put(store, folder)
    assert done["proof"]["golden"]["max_abs"] == 0.0
    release = store.the_slot("small").current()
    assert sorted(p.name for p in release.bundle.iterdir() if "model" in p.name) == ["model.packed"]
    decoded = packed_file.read((folder / "model.packed").read_bytes())
    assert (release.engine / "model.onnx").read_bytes() == decoded
    assert sorted(p.name for p in release.folder.iterdir()) == ["bundle", "engine", "proof.json"], "no decoded file is left"
    (checked,) = serve_check(store, None)
    assert checked["golden"]["max_abs"] == 0.0
    assert put(store, folder)["release"] == done["release"], "its engine still fits"


def test_what_decodes_to_another_file_is_refused_though_it_is_signed(store, key, tmp_path):
    put(store, bundle(tmp_path / "a", key=key, version=5))
    folder = bundle(tmp_path / "b", version=6, packed_bits=2)
    wrong = {"model.onnx": FileEntry(size_bytes=manifest.read(folder)[0].decoded["model.onnx"].size_bytes, sha256="0" * 64)}
    change(folder, decoded=wrong)
    from deploy.bundle import bundle as bundles

    bundles.sign(folder, signing_keys.signer(key))
    with pytest.raises(UserError, match="decodes to another model.onnx than the manifest names"):
        put(store, folder)
    assert served(store) == 5


def test_a_flipped_byte_that_came_in_is_refused(store, key, tmp_path):
    folder = bundle(tmp_path / "b", key=key, version=6, packed_bits=2)
    put(store, folder)
    release = store.the_slot("small").current()
    content = bytearray((release.bundle / "model.packed").read_bytes())
    content[len(content) // 2] ^= 1
    (release.bundle / "model.packed").chmod(0o644)
    (release.bundle / "model.packed").write_bytes(content)
    with pytest.raises(UserError, match="model.packed was altered"):
        serve_check(store, None)


def test_a_container_s_first_start_decodes_it_into_its_cache(tmp_path):
    folder = bundle(tmp_path / "b", packed_bits=2)
    built, reasons = ready(folder, tmp_path / "cache")
    assert reasons == ("there is no engine yet",)
    assert (built / "model.onnx").read_bytes() == packed_file.read((folder / "model.packed").read_bytes())
    assert json.loads((built / "engine.meta.json").read_text())["model_sha256"] == (
        manifest.read(folder)[0].decoded["model.onnx"].sha256
    )
    assert not [p for p in built.iterdir() if p.is_dir()]
    assert ready(folder, tmp_path / "cache") == (built, ())
