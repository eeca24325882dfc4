"""compress init: what layouts, models and times are taken to be, and recipes that run as they are."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file
from torch import nn

from compress.models import resnet, unet
from compress.pipeline.drafting.data_guess import guess_data
from compress.pipeline.drafting.draft import Asked, draft, few_validation_samples
from compress.pipeline.drafting.model_guess import Published, guess_model, identify
from compress.pipeline.drafting.text import table, toml
from compress.pipeline.drafting.trainings import choose_batch, choose_optimisation, plan_trainings
from compress.pipeline.target import with_address
from compress.recipe.parse import load
from profiles.device import facts
from profiles.device import load as load_profile
from profiles.errors import UserError
from profiles.toml import parse_toml
from tests.compress.models.hub.conftest import hub  # noqa: F401  # a fixture
from tests.conftest import ROOT


def picture(path, size=(40, 40), level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(level).integers(0, 60, (size[1], size[0], 3)) + level
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def flowers(tmp_path):
    """Two classes told apart by brightness, 40 pixels a side."""
    for part, count in (("train", 24), ("val", 8)):
        for name, level in (("dark", 0), ("light", 180)):
            for number in range(count):
                picture(tmp_path / "flowers" / part / name / f"{number}.png", level=level + number % 3)
    return tmp_path / "flowers"


@pytest.fixture
def layouts(tmp_path):
    """A folder of each kind, by the source that reads it."""
    voc = tmp_path / "voc"
    for number in range(20):
        picture(voc / f"JPEGImages/{number}.jpg", (64, 48))
        box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>"
        (voc / "Annotations").mkdir(exist_ok=True)
        size = "<size><width>64</width><height>48</height></size>"
        text = f"<annotation>{size}<object><name>cell</name>{box}</object></annotation>"
        (voc / f"Annotations/{number}.xml").write_text(text)
    (voc / "ImageSets/Main").mkdir(parents=True)
    (voc / "ImageSets/Main/train.txt").write_text("\n".join(map(str, range(20))))
    coco, yolo, masks = tmp_path / "coco", tmp_path / "yolo", tmp_path / "masks"
    images, boxes = [], []
    for number in range(20):
        picture(coco / f"images/train/{number}.jpg", (64, 48))
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48})
        boxes.append({"image_id": number, "category_id": 1, "bbox": [5, 5, 20, 20]})
        picture(yolo / f"images/train/{number}.jpg", (64, 48))
        (yolo / "labels/train").mkdir(parents=True, exist_ok=True)
        (yolo / f"labels/train/{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        picture(masks / f"train/images/{number}.png", (64, 48))
        (masks / "train/masks").mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.arange(48 * 64) % 3).reshape(48, 64).astype(np.uint8)).save(masks / f"train/masks/{number}.png")
    (coco / "annotations").mkdir()
    table = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (coco / "annotations/instances_train.json").write_text(json.dumps(table))
    (yolo / "data.yaml").write_text("names:\n  0: cell\n")
    arrays = {"images": np.zeros((40, 8, 8, 3), np.uint8), "labels": np.arange(40) % 2}
    np.savez(tmp_path / "small.npz", **arrays)
    return {"voc": voc, "coco": coco, "yolo": yolo, "masks": masks, "npz": tmp_path / "small.npz"}


KINDS = {
    "voc": ("detection", [64, 64], 1),
    "coco": ("detection", [64, 64], 1),
    "yolo": ("detection", [64, 64], 1),
    "masks": ("segmentation", [64, 64], 3),
    "npz": ("classification", None, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_layout_is_told_by_what_lies_there(layouts, kind):
    found, (task, size, classes) = guess_data(str(layouts[kind]), None, None), KINDS[kind]
    assert (found.use, found.task, len(found.classes)) == (kind, task, classes)
    assert found.arguments.get("size") == size, "48 and 64 in multiples of 32"


def test_folders_of_classes_and_sizes(flowers):
    found = guess_data(str(flowers), None, None)
    assert (found.use, found.task, found.classes) == ("images", "classification", ("dark", "light"))
    assert found.arguments["size"] == 40, "all are of one small size, which a network was hardly trained off"
    assert guess_data(str(flowers), None, 160).arguments["size"] == 160, "the weights'"
    assert guess_data(str(flowers), 48, 160).arguments["size"] == 48, "as asked"
    (flowers / "heldout").mkdir()
    assert "heldout: no part by name" in guess_data(str(flowers), None, None).why["left out"]
    assert guess_data("tests.conftest:blob_splits", None, None).task == "classification"


def test_data_that_cannot_be_told(tmp_path, layouts):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing in it tells how it is read.*JPEGImages and Annotations"):
        guess_data(str(tmp_path / "empty"), None, None)
    with pytest.raises(UserError, match="no such folder or file; nor is it a source: .*'digits'"):
        guess_data("digit", None, None)
    with pytest.raises(UserError, match="npz has one size of its own"):
        guess_data(str(layouts["npz"]), 32, None)
    (layouts["yolo"] / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"no names of the classes; put a file classes.txt"):
        guess_data(str(layouts["yolo"]), None, None)


def test_a_checkpoint_is_recognised_by_its_tensors(tmp_path):
    for name, module in (
        ("a", resnet(blocks=5, shortcut="pad", classes=7)),
        ("b", nn.Sequential(resnet(blocks=3, classes=4, in_channels=1))),
        ("c", unet(classes=3)),
    ):
        save_file(module.state_dict(), tmp_path / f"{name}.safetensors")
    found = identify(tmp_path / "a.safetensors", 3)
    wanted = {"in_channels": 3, "classes": 7, "blocks": 5, "shortcut": "pad"}
    assert (found.model, found.arguments, found.learns) == ("compress.models:resnet", wanted, False)
    found = identify(tmp_path / "b.safetensors", 1)
    assert found.arguments == {"in_channels": 1, "classes": 4, "blocks": 3, "shortcut": "convolution"}
    assert identify(tmp_path / "c.safetensors", 3).model == "compress.models:unet"
    save_file({"own.weight": torch.zeros(3, 3)}, tmp_path / "d.safetensors")
    with pytest.raises(UserError, match=r"has its tensors \(own.weight.*say which: compress init module:callable --weights"):
        identify(tmp_path / "d.safetensors", 3)


def test_factories_are_told_the_classes_by_their_own_name():
    found = guess_model("compress.models:resnet20", "", "classification", ("a", "b"), 1)
    assert found.arguments == {"classes": 2, "in_channels": 1} and found.learns and found.scaled
    assert guess_model("", "", "detection", ("a",), 3).model == "compress.models:detector"
    with pytest.raises(UserError, match="give a model: timm:NAME"):
        guess_model("", "", "classification", ("a",), 3)
    with pytest.raises(UserError, match=r"none.onnx: no such file"):
        guess_model("none.onnx", "", "classification", ("a",), 3)
    named = Published(factory="timm:resnet18", outputs=1000)
    with pytest.raises(UserError, match=r"the data is for detection; leave the model out for compress.models:detector"):
        guess_model("timm:resnet18", "", "detection", ("a",), 3, named)


def test_time_is_shared_among_trainings():
    """Twenty minutes: 1200 s. Epochs of 10 s, 14 s with a teacher, 5.6 s of a student half as wide."""
    learned = plan_trainings(10.0, 20, "classification", learns=False, fine_tuned=False, narrowed=False)
    assert (learned.teacher, learned.student, learned.prune, learned.quantize) == (0, 0, 15, 8), "840 / 14 = 60, at most 15"
    slow = plan_trainings(300.0, 20, "classification", learns=False, fine_tuned=False, narrowed=False)
    assert (slow.prune, slow.quantize) == (2, 0), "840 / 420 and 360 / 420"
    fresh = plan_trainings(40.0, 20, "detection", learns=True, fine_tuned=False, narrowed=True)
    assert (fresh.teacher, fresh.student, fresh.quantize) == (12, 21, 4), "480 / 40, 480 / 22.4, 240 / 56"
    never = plan_trainings(1e6, 20, "detection", learns=True, fine_tuned=False, narrowed=True)
    assert (never.teacher, never.student, never.quantize) == (1, 1, 0), "a teacher that knows nothing teaches nothing"
    assert choose_batch(48, "classification", 32) == 8 and choose_batch(50_000, "classification", 32) == 128
    assert choose_batch(50_000, "classification", 224) == 32 and choose_batch(50_000, "detection", 320) == 8
    assert choose_optimisation(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "classification", 8).optimizer == "adamw"
    rates = choose_optimisation(resnet(), "classification", 32)
    assert (rates.optimizer, rates.fresh, rates.fine) == ("sgd", 0.025, 0.005), "a quarter of what 128 have"


def test_texts_of_toml_are_read_back():
    value = {"a": 'quo"te\x7f', "b": [1, 2.5, True], "c": {"use": "kd"}}
    text = table("[t]", [(key, each, "why\nso") for key, each in value.items()] + [("", None, "a word")])
    assert parse_toml(text, "x")["t"] == value and "# a word" in text and "why so" in text
    assert table("[t]", [("a", 1, "")], off=True) == "# [t]\n# a = 1"
    assert toml("ä") == '"ä"'


def written(asked, tmp_path):
    path = tmp_path / "my.toml"
    made = draft(asked, path)
    path.write_text(made.text)
    return load(str(path)), made


class Band(nn.Module):
    """Sees light where the mean is about 0.83, as of bright images whose pixels are from 0 to 1, and in no other scale."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.layer = nn.Parameter(torch.tensor(0.83)), nn.Conv2d(3, 4, 3)

    def forward(self, pixels):
        off = (pixels.mean((1, 2, 3)) - self.middle).abs()
        return torch.stack([off - 0.1, 0.1 - off], 1) + 0 * self.layer(pixels).mean()


def band(classes=2):
    return Band()


def test_a_trained_model_is_pruned_and_its_normalisation_is_measured(flowers, tmp_path):
    save_file(Band().state_dict(), tmp_path / "net.safetensors")
    asked = Asked(data=str(flowers), model=f"{__file__}:band", weights=str(tmp_path / "net.safetensors"), minutes=1)
    recipe, made = written(asked, tmp_path)
    assert recipe.teacher.weights == str(tmp_path / "net.safetensors") and recipe.data.arguments["path"] == str(flowers)
    assert recipe.data.arguments["mean"] == [0.0, 0.0, 0.0] and recipe.data.arguments["deviation"] == [1.0, 1.0, 1.0]
    assert [stage.name for stage in recipe.stages] == ["prune", "quantize"]
    assert any("from 0 to 1: right in 100% of validation" in guess for guess in made.guesses)
    assert "both must be data that the weights have not seen" in made.text
    assert 'weights = "net.safetensors"' in made.text, "relative to the recipe"


def test_what_has_no_weights_is_trained_and_a_narrow_student_learns_from_it(layouts, tmp_path):
    recipe, made = written(Asked(data=str(layouts["voc"])), tmp_path)
    assert recipe.teacher.model == "compress.models:detector" and recipe.teacher.weights is None
    assert recipe.student.arguments["width"] == 0.5
    assert [stage.name for stage in recipe.stages] == ["distill", "quantize"]
    assert 'path = "voc"' in made.text, "relative to the recipe"
    recipe, _ = written(Asked(data=str(layouts["masks"])), tmp_path)
    assert recipe.teacher.model == "compress.models:unet"


def test_a_file_without_source_code_has_no_stages(flowers, tmp_path):
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    weight = onnx.numpy_helper.from_array(np.float32([[-1, 1], [-1, 1], [-1, 1]]), "w")
    ends = (
        [helper.make_tensor_value_info(name, floats, shape)] for name, shape in (("x", ["n", 3, 32, 32]), ("y", ["n", 2]))
    )
    graph = helper.make_graph(nodes, "net", *ends, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(tmp_path / "net.onnx"))
    recipe, made = written(Asked(data=str(flowers), model=str(tmp_path / "net.onnx")), tmp_path)
    assert any("right in 100%" in guess for guess in made.guesses), "measured by the file itself"
    assert recipe.teacher.is_onnx and recipe.stages == () and recipe.data.arguments["size"] == 32


def test_models_that_do_not_take_or_answer_what_the_data_has(flowers, tmp_path):
    with pytest.raises(UserError, match=r"gives .*; classification of 2 classes reads \(2, 2\)"):
        draft(Asked(data=str(flowers), model="compress.models:detector"), tmp_path / "x.toml")
    with pytest.raises(UserError, match=r"does not take inputs of shape \(1, 16, 16\)"):
        draft(
            Asked(data="tests.conftest:blob_splits", model="tests.compress.pipeline.drafting.test_draft:colour"),
            tmp_path / "x.toml",
        )


def colour(classes=4):
    """A model of three channels."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


@pytest.mark.parametrize("given", ["nope.pth", "nope.safetensors", "nope.onnx"])
def test_a_checkpoint_that_is_not_there_is_no_such_file(given):
    with pytest.raises(UserError, match=rf"^{given}: no such file$"):
        guess_model(given, "", "classification", ("a", "b"), 3)


def test_a_board_is_named_with_an_address_to_fill_in():
    own, other = sorted(("x86-avx2", "jetson-orin-nano-8gb"), key=lambda name: facts().arch not in load_profile(name).arch)
    assert with_address(other) == f"{other}@ADDRESS"
    assert [with_address(name) for name in (own, "cpu", f"{other}@ssh://me@desk")] == [own, "cpu", f"{other}@ssh://me@desk"]


def test_init_asks_nothing_without_a_terminal_and_overwrites_nothing(flowers, tmp_path, compress_here):
    assert "--data is missing" in compress_here("init", "compress.models:resnet20").stderr
    done = compress_here("init", "a:b", "--data", "flowers", "--device", "cpuu")
    assert "unknown device 'cpuu'" in done.stderr
    done = compress_here("init", "compress.models:resnet20", "--data", "flowers", "--minutes", "0.1")
    assert (
        done.returncode == 0 and done.stdout == "resnet20.toml is written; next: compress run resnet20.toml --device cpu\n"
    )
    assert all(line.startswith("guess: ") for line in done.stderr.splitlines())
    before = (tmp_path / "resnet20.toml").read_text()
    done = compress_here("init", "compress.models:resnet20", "--data", "flowers", "--minutes", "9")
    assert done.returncode == 2 and "resnet20.toml is there already; --force" in done.stderr
    assert (tmp_path / "resnet20.toml").read_text() == before
    assert compress_here("init", "compress.models:resnet20", "--data", "flowers", "--force").returncode == 0


@pytest.mark.slow
def test_the_recipe_that_init_writes_runs(flowers, tmp_path):
    """The three commands of a newcomer, but for the installation."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for arguments in (
        ["init", "compress.models:resnet20", "--data", "flowers", "--minutes", "0.5"],
        ["run", "resnet20.toml"],
    ):
        command = [sys.executable, "-m", "compress", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "runs/resnet20-cpu/bundle/manifest.json").is_file()


@pytest.mark.parametrize(
    ("count", "drop", "told"),
    [(24, 1.0, "24 samples: accuracy there is off by 6.1 points or more by chance, and the budget is 1;"), (225, 1.0, "")],
)
def test_a_small_validation_split_is_warned_of(count, drop, told):
    """By hand: 30 / sqrt(24) = 6.1; 30 / sqrt(225) = 2, which is twice the budget and no more."""
    found = few_validation_samples(count, "classification", drop)
    assert bool(found) == bool(told) and told in "".join(found)
    assert not found or "give 225 and more" in found[0]


def test_a_name_of_the_hub_brings_its_size_and_classes(hub, flowers, tmp_path):  # noqa: F811
    timm = pytest.importorskip("timm")
    settings = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.2] * 3, "classifier": "fc", "first_conv": "conv1"}
    labels = ["cat", "dark", "light"]
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": settings, "label_names": labels}
    weights = save(timm.create_model("test_resnet", num_classes=3).state_dict())
    hub.commit("me/net", {"config.json": json.dumps(config).encode(), "model.safetensors": weights})
    recipe, made = written(Asked(data=str(flowers), model="hf:me/net", minutes=5), tmp_path)
    assert (
        recipe.teacher.model == "hf:me/net" and recipe.teacher.pretrained and recipe.teacher.arguments == {"num_classes": 2}
    )
    assert recipe.data.arguments["size"] == 96 and recipe.stages[0].name == "prune"
    assert any("by name, of the 3 that the weights have" in guess for guess in made.guesses)
    recipe, _ = written(Asked(data=str(flowers), model="timm:test_resnet", minutes=5, random=True), tmp_path)
    assert recipe.teacher.weights is None and not recipe.teacher.pretrained and recipe.data.arguments["size"] == 160
    with pytest.raises(UserError, match="no repository 'me/nett' on the hub.*the nearest are me/net"):
        draft(Asked(data=str(flowers), model="hf:me/nett"), tmp_path / "x.toml")
