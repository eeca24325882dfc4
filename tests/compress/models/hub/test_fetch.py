"""Files of a hub: redirects, resumption, lies, absence. Nothing here leaves this machine."""

import os
import pickle
import shutil

import huggingface_hub.constants as constants
import pytest
import torch
from safetensors.torch import save

from compress.models.hub import fetch, hub_names
from compress.models.hub.fetch import open_repository
from compress.models.hub.lock import lock_path, read_lock
from compress.models.hub.resolve import Resolver
from deploy.files import sha256
from profiles.errors import UserError

VIT = b'{"model_type": "vit", "architectures": ["ViTForImageClassification"], "id2label": {"0": "cat", "1": "dog"}}'
SIZE = b'"size": {"height": 32, "width": 48}, "resample": 3'
PROCESSOR = b"{" + SIZE + b', "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'


def weights(value=1.0):
    return save({"vit.layer": torch.full((64, 64), value)})


def files(value=1.0):
    return {"config.json": VIT, "preprocessor_config.json": PROCESSOR, "model.safetensors": weights(value)}


@pytest.fixture
def resolver(tmp_path):
    """Makes a resolver of ``my.toml``; ``said`` are the lines that it told."""

    def make():
        made = Resolver(recipe=tmp_path / "my.toml", say=make.said.append)
        return made

    make.said = []
    return make


def resolved(resolver, revision=""):
    made = resolver()
    found = made.model("hf:me/net", {}, revision)
    made.save()
    return found


def test_a_name_becomes_a_pinned_file_and_a_factory_that_needs_no_network(hub, resolver, tmp_path):
    commit = hub.commit("me/net", files())
    found = resolved(resolver)
    assert (found.factory, found.outputs) == ("transformers:vit", 2)
    assert found.arguments == {"head": "image", "num_labels": 2}
    assert found.facts.size == (32, 48) and found.facts.crop == "none" and found.facts.interpolation == "bicubic"
    assert found.facts.mean == (0.5, 0.5, 0.5) and found.facts.labels == (("cat",), ("dog",))
    pin = read_lock(tmp_path / "my.lock")["hf:me/net", ""]
    assert (pin.source, pin.revision) == ("me/net", commit)
    assert {file.name: file.sha256 for file in pin.files}["model.safetensors"] == sha256(found.weights)


def test_what_is_cached_is_not_asked_for_again(hub, resolver):
    hub.commit("me/net", files())
    first = resolved(resolver)
    hub.asked.clear()
    assert resolved(resolver).weights == first.weights
    assert hub.asked == [], "the lock names a commit, and its files are there"


def test_a_transfer_that_breaks_goes_on(hub, resolver, monkeypatch):
    hub.commit("me/net", files())
    hub.cut["model.safetensors"] = 1
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert resolved(resolver).weights.read_bytes() == weights()


def test_other_bytes_than_the_hub_states_are_refused(hub, resolver):
    hub.commit("me/net", files())
    hub.lies["model.safetensors"] = weights(2.0)
    with pytest.raises(UserError, match=r"has the SHA-256 .* the hub states .*delete .* and run again"):
        resolved(resolver)


def test_a_lock_holds_a_later_run_to_its_bytes(hub, resolver, tmp_path):
    hub.commit("me/net", files(1.0))
    resolved(resolver)
    hub.commit("me/net", files(2.0))
    shutil.rmtree(tmp_path / "cache")
    assert resolved(resolver).weights.read_bytes() == weights(1.0), "the commit of the lock, not the newest"
    shutil.rmtree(tmp_path / "cache")
    hub.repositories["me/net"][0]["files"] = files(3.0)  # the same commit, changed
    with pytest.raises(UserError, match=r"model.safetensors of me/net has other bytes.*delete .*my.lock"):
        resolved(resolver)
    (tmp_path / "my.lock").unlink()
    assert resolved(resolver).weights.read_bytes() == weights(2.0)


def test_another_revision_in_the_recipe_is_pinned_anew_and_told(hub, resolver):
    old = hub.commit("me/net", files(1.0))
    new = hub.commit("me/net", files(2.0))
    assert resolved(resolver).pin.revision == new
    assert resolved(resolver, old).pin.revision == old
    assert any(f"asks for revision {old} of hf:me/net, and did for none" in line for line in resolver.said)
    with pytest.raises(UserError, match=r"me/net has no revision 'v9'"):
        resolved(resolver, "v9")


def gone(hub, monkeypatch):
    """The hub's address, with nobody there."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )


def test_an_absent_hub_is_one_line_and_no_hindrance_where_all_is_cached(hub, resolver, monkeypatch, tmp_path):
    hub.commit("me/net", files())
    kept = dict(vars(constants))
    gone(hub, monkeypatch)
    with pytest.raises(UserError, match=r"cannot be reached .* not in the cache; connect once, or `hf download") as told:
        resolved(resolver)
    assert len(told.value.faults) == 1
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        monkeypatch.setattr(constants, name, kept[name])
    resolved(resolver)
    gone(hub, monkeypatch)
    assert resolved(resolver).weights.read_bytes() == weights()
    (tmp_path / "my.lock").unlink()
    assert resolved(resolver).weights.read_bytes() == weights()
    assert any("cannot be reached; what is cached of me/net is taken" in line for line in resolver.said)


def test_a_slow_hub_is_told(hub, resolver, monkeypatch):
    hub.commit("me/net", files())
    hub.slow_s = 0.3
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.05)
    with pytest.raises(UserError, match=r"cannot be reached \(.*timed out"):
        resolved(resolver)


def test_names_that_are_none(hub, resolver):
    hub.commit("me/net-small", files())
    with pytest.raises(UserError, match=r"no repository 'me/net' on the hub.*the nearest are me/net-small"):
        resolved(resolver)
    with pytest.raises(UserError, match="no name of a repository"):
        resolver().model("hf:me/../../net", {}, "")


CONFIGS = {
    b"[": "config.json of me/net is damaged",
    b"[1]": "config.json of me/net is damaged",
    b"{}": "neither timm's",
    b'{"model_type": "bert", "architectures": ["BertModel"]}': "it is a BertModel",
    b'{"model_type": "x", "architectures": ["XForImageClassification"], "auto_map": {"A": "evil.Net"}}': "never run here",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_repositories_that_hold_no_model_for_here(hub, resolver, config):
    hub.commit("me/net", {**files(), "config.json": config})
    with pytest.raises(UserError, match=CONFIGS[config]):
        resolved(resolver)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_of_a_hub_is_read_as_tensors_alone(hub, resolver, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"weight": Evil()})
    hub.commit("me/net", {"config.json": VIT, "pytorch_model.bin": content})
    found = resolved(resolver)
    with pytest.raises(UserError, match="pytorch_model.bin"):
        hub_names.published(found, found.arguments)
    assert not (tmp_path / "ran").exists()


def test_safetensors_come_before_pickles_and_code_is_not_fetched(hub, resolver):
    evil = {"pytorch_model.bin": b"x", "modeling.py": b"1 / 0", "../../../up": b"x", "model.safetensors.index.json": b"{}"}
    hub.commit("me/net", {**files(), **evil})
    assert resolved(resolver).weights.name == "model.safetensors"
    assert not any(name in path for path in hub.asked for name in ("modeling.py", "up", "pytorch_model.bin", "index"))


def test_weights_in_several_files_are_told(hub, resolver):
    hub.commit("me/net", {"config.json": VIT, "model-00001-of-2.safetensors": b"", "model.safetensors.index.json": b"{}"})
    with pytest.raises(UserError, match="several files"):
        resolved(resolver)


def test_a_commit_that_is_none_is_refused(hub, tmp_path):
    hub.commit("me/net", files())
    hub.repositories["me/net"][0]["commit"] = "../../../../tmp/x"
    with pytest.raises(UserError, match="no commit"):
        open_repository("hf:me/net", "me/net", "", None, ("config.json",), print)


DAMAGE = {
    "schema = 2": "schema 2; this version reads 1",
    "schema = 1\nname = 3": "damaged",
    'schema = 1\n[[name]]\nmodel = "hf:me/net"': r"damaged \(name.0.source",
    'schema = 1\n[[name]]\nmodel = "a"\nsource = "b"\nfiles = [{name = "f", sha256 = "x", size_bytes = 1}]': "64 hex",
    "[": "not TOML",
}


@pytest.mark.parametrize("text", DAMAGE)
def test_a_damaged_lock_is_told_with_the_remedy(hub, resolver, tmp_path, text):
    lock_path(tmp_path / "my.toml").write_text(text)
    with pytest.raises(UserError, match=DAMAGE[text]):
        resolved(resolver)
    assert hub.asked == []
