"""What a repository of a hub holds, mutated: a model is found, or one line for each fault; no code is fetched or run."""

import json
import types

import pytest
import torch
from safetensors.torch import save

from compress.models.file_kinds import checkpoint_kind
from compress.models.foreign import load_foreign
from compress.models.hub import hub_names, timm_names
from compress.models.hub.records import Pin
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes
from tests.fuzz.test_own_files import contents

CONFIG = {
    "model_type": "vit", "architectures": ["ViTForImageClassification"], "id2label": {"0": "a", "1": "b"}, "num_labels": 2,
    "hidden_size": 32, "image_size": 32,
}  # fmt: skip
TIMM = {
    "architecture": "resnet18", "num_classes": 10, "label_names": ["a", "b"], "label_descriptions": {"a": "A"},
    "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5], "std": [0.5]},
}  # fmt: skip
PROCESSOR = {
    "size": {"height": 32, "width": 48}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "resample": 3,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "crop_pct": 0.9, "sampling_rate": 16000,
}  # fmt: skip


class Repository:
    """A repository whose files lie in a folder."""

    model, name, commit = "hf:me/net", "me/net", "0" * 40

    def __init__(self, folder):
        self._folder = folder
        self.files = {path.name: "" for path in folder.iterdir()}

    def fetch(self, name):
        return self._folder / name

    def first_of(self, names, what):
        return next(name for name in names if name in self.files)

    def pin(self, model, asked):
        return Pin(model=model, asked=asked, source=self.name, revision=self.commit, files=())


@pytest.fixture
def repository(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors").write_bytes(save({"a": torch.ones(2)}))
    monkeypatch.setattr(hub_names, "open_repository", lambda *_: Repository(tmp_path / "hub"))
    return tmp_path / "hub"


def find():
    found = hub_names.find("me/net", {}, "", None, lambda text: None)
    json.dumps(dict(found.arguments))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_configurations(name, repository):
    rnd = generator(f"hub {name}")
    for file, table in (("config.json", CONFIG), ("preprocessor_config.json", PROCESSOR)):
        (repository / file).write_text(json.dumps(table))
    assert check(find) == ()
    whole = CONFIG if name == "config.json" else PROCESSOR
    for content in contents(whole, rnd, inputs(120)):
        (repository / name).write_bytes(content)
        check(find)


def test_configurations_of_timm(repository, monkeypatch):
    rnd, known = (
        generator("hub timm"),
        types.SimpleNamespace(is_model=lambda name: name == "resnet18", list_models=lambda: ["resnet18"]),
    )
    monkeypatch.setattr(timm_names, "library", lambda name: known)
    monkeypatch.setattr("compress.models.factory.library", lambda name: known)
    (repository / "config.json").write_text(json.dumps(TIMM))
    assert check(find) == ()
    for content in contents(TIMM, rnd, inputs(120)):
        (repository / "config.json").write_bytes(content)
        check(find)


def test_weights_in_several_files(repository):
    (repository / "config.json").write_text(json.dumps(CONFIG))
    (repository / "model.safetensors").rename(repository / "model-00001-of-00002.safetensors")
    (repository / "model.safetensors.index.json").write_bytes(b"[" * 100_000)
    assert "are not read here; save them in one" in check(find)[0]


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "a million empty tensors": {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(200_000)},
    "a shape of a million sides": {"a": {"dtype": "F32", "shape": [1] * 1_000_000, "data_offsets": [0, 4]}},
    "a shape that overflows": {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}},
    "one place for two": {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"},
    "no place": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
    "offsets of 64 bits": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [2**64 - 4, 2**64]}},
    "a type of four bits": {"a": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}},
    "aliases": {
        "__metadata__": {"about": json.dumps({"aliases": {str(n): "a" for n in range(100_000)}, "facts": {}})},
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    },
    "nested metadata": {"__metadata__": {"about": "[" * 100_000}, "a": ONE},
    "metadata that is a list": {"__metadata__": {"about": "[1]"}, "a": ONE},
    "aliases of nothing": {"__metadata__": {"about": '{"aliases": {"b": "c"}, "facts": 5}'}, "a": ONE},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_safetensors(name, tmp_path):
    file, head = tmp_path / "w.safetensors", json.dumps(HEADERS[name]).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 4)
    check(load_foreign, file)


def test_kinds_of_files(tmp_path):
    file, rnd = tmp_path / "w.pth", generator("kinds")
    for number in range(inputs(100)):
        start = rnd.choice([b"\x80\x02", b"PK\x03\x04", b"\x00" * 8 + b"{", b"<html>", b"", b"version https://git-lfs"])
        file.write_bytes(mutated_bytes(start + rnd.randbytes(number), rnd))
        check(checkpoint_kind, file)
