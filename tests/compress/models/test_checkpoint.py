"""Checkpoints as trainers, wrappers and interrupted downloads leave them."""

import argparse
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from compress.models.checkpoint import WeightsSpec, load_into
from compress.models.foreign import load_foreign, read_checkpoint
from compress.recipe.parse import parse
from deploy.files.confined import Limits
from profiles.errors import UserError
from tests.conftest import small_model


def state(seed=0):
    return small_model(seed).state_dict()


def under(prefix, table):
    return {f"{prefix}{name}": value for name, value in table.items()}


def loaded(content, tmp_path, **choice):
    """The notes, and whether the seed-0 weights of a checkpoint arrive in another model."""
    torch.save(content, tmp_path / "w.pth")
    checkpoint = read_checkpoint(WeightsSpec(file=str(tmp_path / "w.pth"), **choice))
    fresh = small_model(9)
    load_into(fresh, checkpoint.state, "w.pth")
    assert all(torch.equal(value, state()[name]) for name, value in fresh.state_dict().items())
    return checkpoint.notes


PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


def torch_bytes(tmp_path, content, **options):
    torch.save(content, tmp_path / "whole", **options)
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".ckpt", ""])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file (0 bytes)"),
        (POINTER, "a Git LFS pointer"),
        (PAGE, "a web page (HTML)"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (b'{"message": "Not Found"}', "a text file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "a HDF5 file"),
        (b"GGUF" + bytes(64), "a GGUF file"),
        (b"\x1f\x8b\x08" + bytes(64), "a gzip archive"),
        (b"\x00" * 4096, "no safetensors|neither a safetensors|damaged"),
    ],
)
def test_a_file_of_another_kind_is_named_for_what_it_is(content, words, suffix, tmp_path):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_foreign(file)
    (fault,) = caught.value.faults
    assert any(word in fault for word in words.split("|")), fault
    assert "more than tensors" not in fault and "\n" not in fault


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_that_is_cut_is_called_so(form, share, tmp_path):
    if form == "safetensors":
        content = safetensors_bytes({name: value.contiguous() for name, value in state().items()})
    else:
        content = torch_bytes(tmp_path, state(), _use_new_zipfile_serialization=form == "zip")
    file = tmp_path / "w.pth"
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="cut off") as caught:
        load_foreign(file)
    assert "more than tensors" not in str(caught.value) and "download it again" in str(caught.value)


def test_archives_folders_and_programs_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("model/weights.bin", b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.zip", "a.zip")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "traced.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/model.safetensors").touch()
    np.save(tmp_path / "a.npy", np.zeros(3))
    for name, words in (
        ("a.zip", "a zip archive without a PyTorch checkpoint; it has model/weights.bin"),
        ("a.tar", "a tar archive"),
        ("traced.pt", "a TorchScript archive"),
        ("folder", "a folder; give a file in it: model.safetensors"),
        ("a.npy", "a numpy array"),
        ("none.pth", "no such file"),
        ("a" * 300, "no such file"),
    ):
        with pytest.raises(UserError) as caught:
            load_foreign(tmp_path / name)
        assert words in str(caught.value)


def test_only_what_holds_more_than_tensors_is_said_to(tmp_path):
    torch.save(small_model(0), tmp_path / "module.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"epoch": 1}))
    with pytest.raises(UserError, match=r"holds more than tensors \(.*ResNet\), and code in a checkpoint is never run"):
        load_foreign(tmp_path / "module.pt")
    with pytest.raises(UserError) as caught:
        load_foreign(tmp_path / "plain.pkl")
    assert "a pickle with instructions that torch.save does not write" in str(caught.value)


def test_the_content_decides_and_not_the_suffix(tmp_path):
    plain = {name: value.contiguous() for name, value in state().items()}
    (tmp_path / "w.pth").write_bytes(safetensors_bytes(plain))
    (tmp_path / "w.safetensors").write_bytes(torch_bytes(tmp_path, plain))
    for name in ("w.pth", "w.safetensors"):
        fresh = small_model(9)
        load_into(fresh, load_foreign(tmp_path / name), name)
        assert torch.equal(fresh.state_dict()["conv1.weight"], plain["conv1.weight"])


@pytest.mark.parametrize(
    ("names", "first", "others"),
    [
        (("model", "model_ema"), "model", "model_ema"),
        (("state_dict", "state_dict_ema"), "state_dict", "state_dict_ema"),
        (("ema", "model"), "model", "ema"),
        (("student", "state_dict"), "state_dict", "student"),
    ],
)
def test_other_weights_in_a_checkpoint_are_told_and_can_be_chosen(names, first, others, tmp_path):
    trainer = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "criterion": {"weight": torch.ones(3)}}
    tables = {name: state(0 if name == first else 5) for name in names}
    (note,) = loaded({**tables, **trainer}, tmp_path)
    assert f"also holds {others}" in note and f'entry = "{others}"' in note
    swapped = {name: state(0 if name == others else 5) for name in names}
    loaded({**swapped, **trainer}, tmp_path, entry=others)


def test_tables_within_tables_are_chosen_by_dots(tmp_path):
    content = {"ema": {"module": state(), "updates": 3}, "model": {"state_dict": state(5)}}
    loaded(content, tmp_path, entry="ema.module")
    loaded(content, tmp_path, entry="ema")
    with pytest.raises(UserError, match=r"unknown entry 'emma'"):
        loaded(content, tmp_path, entry="emma")


def test_the_only_table_is_taken_and_several_unusual_ones_are_asked_about(tmp_path):
    assert loaded({"generator": state(), "epoch": 3}, tmp_path) == ()
    with pytest.raises(UserError, match=r"several tables of tensors; it has first, second; choose with"):
        loaded({"first": state(), "second": state(5)}, tmp_path)


@pytest.mark.parametrize("prefix", ["module.", "net.", "model._orig_mod.", "backbone.body.", "student."])
def test_a_prefix_of_the_whole_state_is_taken_off(prefix, tmp_path):
    loaded({"state_dict": under(prefix, state())}, tmp_path)


@pytest.mark.parametrize(
    ("prefix", "extra"),
    [
        ("module.", {"n_averaged": torch.tensor(5)}),
        ("net.", {"criterion.pos_weight": torch.ones(1)}),
        ("model.", {"criterion.weight": torch.ones(10), "teacher.conv1.weight": torch.ones(3)}),
    ],
)
def test_keys_of_a_trainer_are_named_and_left_out_by_prefix(prefix, extra, tmp_path):
    content = {"state_dict": {**under(prefix, state()), **extra}, "hyper_parameters": argparse.Namespace(lr=1)}
    with pytest.raises(UserError) as caught:
        loaded(content, tmp_path)
    (fault,) = caught.value.faults
    assert all(name in fault for name in extra) and f'prefix = "{prefix}"' in fault
    (note,) = loaded(content, tmp_path, prefix=prefix)
    assert all(name in note for name in extra)


def test_two_whole_networks_in_one_table_are_never_confused(tmp_path):
    content = {**under("student.", state()), **under("teacher.", state(5))}
    with pytest.raises(UserError, match=r"not in ResNet; to leave them out say weights"):
        loaded(content, tmp_path)
    loaded(content, tmp_path, prefix="student.")
    with pytest.raises(UserError, match=r"no key begins with 'pupil.'; they begin with student., teacher\."):
        loaded(content, tmp_path, prefix="pupil.")


def test_metrics_and_settings_of_a_trainer_are_no_code(tmp_path):
    about = {"best": np.float64(93.2), "rounds": np.int64(3), "args": argparse.Namespace(lr=0.1, path="x")}
    loaded({"state_dict": OrderedDict(state()), **about}, tmp_path)


def test_half_precision_is_loaded_as_it_is(tmp_path):
    torch.save({name: value.half() for name, value in state().items()}, tmp_path / "w.pth")
    fresh = small_model(9)
    load_into(fresh, load_foreign(tmp_path / "w.pth"), "w.pth")
    torch.testing.assert_close(fresh.state_dict()["conv1.weight"], state()["conv1.weight"], atol=1e-3, rtol=1e-3)


def test_a_recipe_says_which_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_DATA", "/data")

    def teacher(weights):
        table = {"task": {"data": "digits"}, "teacher": {"model": "compress.models:resnet20", "weights": weights}}
        return parse(table, name="r", source=str(tmp_path / "r.toml")).teacher.weights

    assert teacher("w.pth") == str(tmp_path / "w.pth")
    chosen = teacher({"file": "$EDGE_DATA/w.pth", "entry": "model_ema"})
    assert chosen == WeightsSpec(file="/data/w.pth", entry="model_ema")
    with pytest.raises(UserError, match="weights"):
        teacher({"file": "w.pth", "enter": "model_ema"})
    with pytest.raises(UserError, match="weights"):
        teacher({"entry": "model_ema"})


TWICE = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
LAUGHING = b"\x80\x02}" + b")" + TWICE + b"K\x01s."
"""A table whose one key is a tuple of the tuple before, twice, 60 times over: to hash it takes 2^60 steps."""


def test_a_checkpoint_that_hangs_its_reader_is_told(tmp_path, monkeypatch):
    short = Limits(memory_bytes=2**30, cpu_s=1, wall_s=600.0)
    monkeypatch.setattr(Limits, "of_file", classmethod(lambda cls, path, **_: short))
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for name in plain.namelist():
            archive.writestr(name, LAUGHING if name.endswith("data.pkl") else plain.read(name))
    with pytest.raises(UserError, match="takes more than 1 s of processor time to be read: a file of"):
        load_foreign(tmp_path / "w.pth")


def test_a_checkpoint_that_states_more_than_it_holds_is_told(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**10)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"takes more than 1.0 GiB of memory to be read: a file of [\d,]+ bytes"):
        load_foreign(tmp_path / "w.pth")


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.ones(2, device="meta")])
def test_tensors_of_odd_kinds_are_told(tensor, tmp_path):
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="a tensor of a kind that safetensors has not|holds more than tensors"):
        load_foreign(tmp_path / "w.pth")


@pytest.mark.parametrize("about", ["[" * 5000, "[]", "1", '{"aliases": []}', '{"aliases": {"a": ["b"]}, "facts": 1}'])
def test_metadata_of_a_safetensors_file_that_is_not_ours_is_told(about, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes({"b": torch.ones(2)}, {"about": about}))
    with pytest.raises(UserError, match="damaged"):
        load_foreign(tmp_path / "w.safetensors")
