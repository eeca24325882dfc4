"""Recipes and profiles with anything anywhere: a record, or one line for each fault."""

import copy

import pytest

from compress.recipe import parse as recipe
from profiles import device
from profiles.errors import UserError
from tests.fuzz.mutations import WRONG, check, generator, inputs, mutated_bytes, mutated_table, paths, toml

RECIPE = {
    "seed": 0,
    "trackers": [],
    "task": {"kind": "classification", "data": {"use": "digits"}},
    "teacher": {
        "model": "compress.models:resnet20",
        "arguments": {"in_channels": 1, "width": 0.5},
        "weights": {"file": "x.pth", "entry": "model"},
        "epochs": 1,
        "learning_rate": 0.1,
        "also": [{"model": "compress.models:resnet20", "weights": "b.pth", "share": 2.0}],
    },
    "student": {"from": "teacher", "width": 0.5, "depth": 0.5},
    "budget": {"accuracy_drop_points": 1.0, "latency_ms_p50": 1.0, "size_mib": 1.0},
    "measure": {"seconds": 1.0, "gate_seconds": 0.5},
    "calibration": {"select": "random", "samples": 16},
    "stage": [
        {
            "use": "distill",
            "epochs": 1,
            "losses": [
                "task",
                {"use": "kd", "weight": 0.9, "temperature": 4.0},
                {"use": "cwd", "layers": [["layer3", "layer3"]]},
            ],
        },
        {"use": "prune", "ratio": 0.3, "importance": "l2", "rounds": 1, "by": "macs", "epochs": 1},
        {"use": "low_rank", "keep": 0.5, "epochs": 1},
        {"use": "quantize", "epochs": 1, "ranges": "norm", "weights": "mse"},
    ],
}
SEARCHED = {
    "task": {"data": "digits"},
    "teacher": {"model": "compress.models:resnet20", "labelled": {"epochs": 1}},
    "student": {
        "model": "compress.models:resnet20",
        "arguments": {"in_channels": 1},
        "inherit": True,
        "search": {"speed_up": 4, "choices": {"width": [0.25, 0.5]}, "population": 4, "draws": 1},
    },
    "stage": [{"use": "distill", "losses": ["kd"]}, {"use": "pack", "bits": 3, "points": "learned", "bucket": 256}],
}
PROFILE = {
    "title": "Board",
    "arch": ["aarch64"],
    "threads": 4,
    "batch": 1,
    "channel_multiple": 8,
    "notes": ["a note"],
    "jetpack": ["6.0"],
    "board": {"processor": "A", "cores": 4, "memory_gib": 8, "flags": ["asimd"], "system": "Linux", "model": "Board"},
    "unit": {"cpu": {"cores": {"value": 4, "kind": "published", "source": "the vendor"}}},
    "power_mode": [{"name": "15W", "kind": "published", "source": "the vendor", "cpus": 4, "default": True}],
    "runtime": [
        {
            "engine": "onnxruntime",
            "precisions": ["fp32", {"name": "int8", "needs": ["asimd"]}],
            "quantization": ["arm-dotprod"],
            "unit": "cpu",
        }
    ],
}


def read_recipe(file):
    recipe.load(str(file)).as_json()


def read_profile(file):
    device.load(str(file)).as_json()


READERS = {"recipe": (read_recipe, RECIPE), "searched": (read_recipe, SEARCHED), "profile": (read_profile, PROFILE)}


@pytest.mark.parametrize("name", READERS)
def test_each_value_at_each_place_is_read_or_told(name, tmp_path):
    reader, table = READERS[name]
    file = tmp_path / "given.toml"
    places = [(path, value) for path in paths(table) for value in WRONG]
    for path, value in generator(name).sample(places, min(len(places), inputs(120))):
        changed = copy.deepcopy(table)
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        file.write_text(toml(changed), "utf-8")
        check(reader, file)


@pytest.mark.parametrize("name", READERS)
def test_mutated_tables_and_bytes_are_read_or_told(name, tmp_path):
    reader, table = READERS[name]
    file, rnd = tmp_path / "given.toml", generator(f"mutated {name}")
    for number in range(inputs(50)):
        content = toml(mutated_table(table, rnd)).encode() if number % 2 else mutated_bytes(toml(table).encode(), rnd)
        file.write_bytes(content)
        check(reader, file)


CORPUS = {
    "a Latin-1 comment": b"# caf\xe9\n",
    "UTF-16": "seed = 0".encode("utf-16"),
    "an open list a hundred thousand deep": b"a = " + b"[" * 100_000,
    "a list five thousand deep": b"a = " + b"[" * 5000 + b"]" * 5000,
    "a list of 60 within one another": b"a = " + b"[" * 60 + b"]" * 60,
    "tables five thousand deep": b"a = " + b"{a=" * 5000 + b"1" + b"}" * 5000,
    "a key of three thousand parts": b"[" + b".".join([b"task"] * 3000) + b"]",
    "a number of five thousand digits": b"seed = " + b"9" * 5000,
    "a number of 70 bits": b"seed = 1180591620717411303424",
    "nothing but NUL": b"\0" * 100,
    "two megabytes": b"#" * (2 << 20),
}


@pytest.mark.parametrize("reader", [read_recipe, read_profile])
@pytest.mark.parametrize("content", CORPUS.values(), ids=list(CORPUS))
def test_what_once_failed_is_told(reader, content, tmp_path):
    file = tmp_path / "given.toml"
    file.write_bytes(content)
    assert check(reader, file)


def test_a_byte_order_mark_changes_nothing(tmp_path):
    for name, (reader, table) in READERS.items():
        plain, marked = tmp_path / f"{name}.toml", tmp_path / f"{name}_marked.toml"
        plain.write_text(toml(table))
        marked.write_bytes(b"\xef\xbb\xbf" + toml(table).encode())
        assert check(reader, plain) == check(reader, marked) == ()


def test_all_tables_that_are_none_are_told_at_once(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('task = "x"\nteacher = []\nbudget = 3\nstage = {use = "prune"}\n')
    with pytest.raises(UserError) as caught:
        recipe.load(str(file))
    told = "\n".join(caught.value.faults)
    assert all(name in told for name in ("[task]", "[teacher]", "[budget]", "[[stage]]"))


def test_a_profile_with_several_wrong_numbers_tells_all(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(toml({**PROFILE, "threads": -1, "batch": 0, "channel_multiple": "8"}))
    with pytest.raises(UserError) as caught:
        device.load(str(file))
    told = "\n".join(caught.value.faults)
    assert all(f"{key} is a whole number" in told for key in ("threads", "batch", "channel_multiple"))
