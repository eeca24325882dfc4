"""Names in recipes: what is told at the start, what fills the data's options, and runs on published weights."""

import io
import json
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from compress.execution.cache import StepCache
from compress.execution.progress import StreamProgress
from compress.models.hub.records import Found, ModelFacts, Pin, PinnedFile
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.names import _with_data, describe_teacher, options_of, resolve_names
from compress.recipe.parse import load, parse
from compress.recipe.spec import Use
from profiles.device import load as profile
from profiles.errors import UserError
from tests.compress.models.hub.conftest import hub  # noqa: F401  # a fixture
from tests.conftest import SMALL_RECIPE, randomise_batch_norms, small_model

FACTS = ModelFacts(
    size=(160, 160),
    short_side=168,
    crop="centre",
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    deviation=(0.25, 0.25, 0.25),
)


class Said(list):
    say = list.append


def recipe(tmp_path, teacher, data=None, **more):
    table = {"task": {"data": data or {"use": "images", "path": "x"}}, "teacher": teacher, **more}
    return parse(table, name="my", source=str(tmp_path / "my.toml"))


def with_teacher(asked, facts):
    pin = Pin(model="timm:net", source="timm/net", files=(PinnedFile(name="w", sha256="0" * 64, size_bytes=1),))
    return replace(asked, names={"teacher": Found(pin=pin, factory="timm:net", arguments={}, facts=facts)})


@pytest.mark.parametrize(
    ("said", "filled"),
    [
        ({}, {"size", "short_side", "crop", "interpolation", "mean", "deviation"}),
        ({"size": 80}, {"short_side", "crop", "interpolation", "mean", "deviation"}),
        ({"short_side": 90}, {"interpolation", "mean", "deviation"}),
        ({"mean": [0.1, 0.1, 0.1]}, {"size", "short_side", "crop", "interpolation"}),
        ({"scale": 255.0}, {"size", "short_side", "crop", "interpolation"}),
    ],
)
def test_what_comes_with_weights_fills_what_the_recipe_does_not_say(tmp_path, said, filled):
    asked = with_teacher(recipe(tmp_path, {"model": "timm:net", "pretrained": True}), FACTS)
    asked = replace(asked, data=Use(use="images", arguments={"path": "x", **said}))
    told = Said()
    data = _with_data(asked, told).data.arguments
    assert set(data) - {"path"} - set(said) == filled
    assert {key: data[key] for key in said} == said
    assert "which come with timm:net" in told[0]
    if "size" in said:
        assert data["short_side"] == 84, "168 / 160 of 80"
    assert any("though timm:net was trained with" in line for line in told) == bool(
        {"size", "mean", "short_side"} & set(said)
    )


def test_a_source_of_ones_own_is_told_what_the_weights_expect(tmp_path):
    asked = with_teacher(recipe(tmp_path, {"model": "timm:net", "pretrained": True}, "tests.conftest:blob_splits"), FACTS)
    told = Said()
    assert _with_data(asked, told).data == asked.data
    assert "was trained with size = 160" in told[0] and "blob_splits has to give the same" in told[0]
    assert all(not value for value in options_of(ModelFacts(), {}).values())


def test_random_weights_are_called_so(tmp_path):
    assert describe_teacher(recipe(tmp_path, {"model": "timm:resnet50", "epochs": 3})) == (
        "teacher: timm:resnet50, random weights, trained here for 3 epochs; pretrained = true takes the published weights"
    )
    assert describe_teacher(recipe(tmp_path, {"model": "a:b"})) == "teacher: a:b, random weights, trained here for 30 epochs"
    assert describe_teacher(recipe(tmp_path, {"model": "a:b", "weights": "w.pth"})).endswith("w.pth")


FAULTS = {
    "published weights belong to timm:NAME": {"model": "a:b", "pretrained": True},
    "either weights, or pretrained": {"model": "timm:a", "pretrained": True, "weights": "x"},
    "either weights, or revision": {"model": "timm:a", "revision": "v1", "weights": "x"},
    "names published weights; write pretrained = true": {"model": "hf:me/net"},
    "sha256: of the file that weights names": {"model": "timm:a", "sha256": "0" * 64},
    "sha256: String should match": {"model": "timm:a", "weights": "x", "sha256": "0" * 63},
}


@pytest.mark.parametrize("words", FAULTS)
def test_faults_of_names_are_told_when_a_recipe_is_read(tmp_path, words):
    with pytest.raises(UserError, match=words):
        recipe(tmp_path, FAULTS[words])
    if "sha256" not in words and "weights" not in FAULTS[words]:
        with pytest.raises(UserError, match=words):
            recipe(tmp_path, {"model": "c:d"}, student=FAULTS[words])


def test_a_student_starts_from_published_weights_or_from_others(tmp_path):
    for beside in ({"inherit": True}, {"search": {"choices": {"a": [1]}}}):
        with pytest.raises(UserError, match=f"and not with {next(iter(beside))}"):
            recipe(tmp_path, {"model": "c:d"}, student={"model": "timm:a", "pretrained": True, **beside})


def builder_of(path, tmp_path, said):
    progress = StreamProgress(said)
    return ModelBuilder(load(str(path)), profile("cpu"), StepCache(tmp_path / "steps", progress), progress)


def test_an_address_is_fetched_pinned_and_loaded_as_a_file(hub, tmp_path):  # noqa: F811
    module, said = small_model(width=1.0), io.StringIO()
    hub.plain["/net.safetensors"] = save(module.state_dict())
    text = SMALL_RECIPE.format(epochs=1, budget=50.0)
    text = text.replace("[student]", f'weights = "{hub.url}/net.safetensors"\n[student]', 1)
    (tmp_path / "small.toml").write_text(text)
    teacher = builder_of(tmp_path / "small.toml", tmp_path, said).teacher()
    assert torch.equal(teacher.artifact.module.conv1.weight, module.conv1.weight)
    assert "fetching net.safetensors" in said.getvalue() and 'sha256 = "' in said.getvalue()
    hub.plain.clear()
    assert builder_of(tmp_path / "small.toml", tmp_path, said).teacher() == teacher, "the lock's bytes, without the network"
    lock = tmp_path / "small.lock"
    lock.write_text(re.sub('sha256 = "[0-9a-f]{4}', 'sha256 = "beef', lock.read_text()))
    with pytest.raises(UserError, match="wanted is beef"):
        builder_of(tmp_path / "small.toml", tmp_path, said)


@pytest.fixture
def flowers(tmp_path):
    """Two classes that are told apart by colour, named as two of ImageNet's."""
    rng = torch.Generator().manual_seed(0)
    for part, count in (("train", 24), ("val", 12)):
        for name, colour in (("n01440764", 40), ("n01443537", 200)):
            folder = tmp_path / "flowers" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(0, 40, (40, 40, 3), generator=rng) + colour
                Image.fromarray(noise.to(torch.uint8).numpy()).save(folder / f"{number}.png")
    return tmp_path / "flowers"


NAMED = """
[task]
data = {{ use = "images", path = "flowers", size = 32, validation = 8 }}
[teacher]
model = "{model}"
pretrained = true
arguments = {{ num_classes = 2 }}
epochs = 1
batch_size = 16
learning_rate = 0.01
[student]
model = "{model}"
pretrained = true
arguments = {{ num_classes = 2 }}
[budget]
accuracy_drop_points = 100
[measure]
seconds = 0.1
gate_seconds = 0.1
"""


@pytest.mark.slow
def test_a_run_on_published_weights_of_timm_and_again_without_the_hub(hub, flowers, tmp_path, compress_here, monkeypatch):  # noqa: F811
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    module = timm.create_model("test_resnet")
    randomise_batch_norms(module)
    hub.commit("timm/test_resnet.r160_in1k", {"model.safetensors": save(module.state_dict())})
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))
    (tmp_path / "my.toml").write_text(NAMED.format(model="timm:test_resnet"))
    done = compress_here("run", "my.toml")
    assert done.returncode in (0, 3), done.stderr
    assert "short_side = 34" in done.stderr and "which come with timm:test_resnet" in done.stderr
    assert "taken by name from the 1000" in done.stderr
    stated = json.loads((tmp_path / "runs/my-cpu/bundle/preprocessing.json").read_text())
    assert stated["mean"] == [0.5, 0.5, 0.5] and stated["classes"] == ["n01440764", "n01443537"]
    assert stated["weights"]["teacher"]["source"] == "timm/test_resnet.r160_in1k"
    assert (tmp_path / "my.lock").is_file()
    hub.repositories.clear()
    assert compress_here("run", "my.toml").returncode == done.returncode


def test_a_head_of_other_classes_is_trained_here(hub, flowers, tmp_path):  # noqa: F811
    timm = pytest.importorskip("timm")
    (flowers / "train/n01440764").rename(flowers / "train/rivet")
    (flowers / "val/n01440764").rename(flowers / "val/rivet")
    hub.commit("timm/test_resnet.r160_in1k", {"model.safetensors": save(timm.create_model("test_resnet").state_dict())})
    (tmp_path / "my.toml").write_text(NAMED.format(model="timm:test_resnet"))
    said = io.StringIO()
    builder = builder_of(tmp_path / "my.toml", tmp_path, said)
    teacher = builder.teacher()
    assert "random weights in fc.weight, fc.bias" in said.getvalue()
    assert "trained on from these weights, for 1 epochs" in said.getvalue()
    assert builder.trains_teacher(teacher)
    asked = parse({"task": {"data": "digits"}, "teacher": {"model": "a:b"}}, name="x", source="x.toml")
    assert resolve_names(asked, Said()) is asked, "a recipe without names is left as it is"
