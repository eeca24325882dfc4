"""What ``compress init`` looks at, mutated: a guess, or one line for each fault."""

import json

import numpy as np
import pytest
from PIL import Image

from compress.pipeline.drafting.data_guess import guess_data
from compress.recipe.parse import load
from tests.fuzz.mutations import check, generator, inputs, mutated_bytes, mutated_text

COUNT = 16
BOMB = (
    b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n" % (c + 1, c + 1, *[c] * 9) for c in range(97, 107))
    + b"names: *k\n"
)
YAML = {
    "aliases within one another": BOMB,
    "lists five thousand deep": b"names: " + b"[" * 5000 + b"]" * 5000,
    "keys of two kinds": b"names: {0: a, b: c}\n",
    "a day that is none": b"names: [2001-99-99]\n",
    "a number of five thousand digits": b"names: [" + b"9" * 5000 + b"]",
    "an object of Python": b"names: [!!python/object/apply:os.system [id]]\n",
    "a list": b"[1, 2]",
    "nothing": b"",
    "Latin-1": b"names: [caf\xe9]\n",
    "itself": b"names: &a [*a]\n",
}


@pytest.fixture
def yolo(tmp_path):
    for number in range(COUNT):
        for kind in ("images", "labels"):
            (tmp_path / f"yolo/{kind}/train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (number, 0, 0)).save(tmp_path / f"yolo/images/train/{number}.jpg")
        (tmp_path / f"yolo/labels/train/{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "yolo/data.yaml").write_text("names:\n  0: cell\n")
    return tmp_path / "yolo"


def look(folder):
    guess_data(str(folder), None, None)


@pytest.mark.parametrize("name", YAML)
def test_names_that_hang_or_fail_a_reader(yolo, name):
    (yolo / "data.yaml").write_bytes(YAML[name])
    assert check(look, yolo)


def test_names_of_classes(yolo):
    rnd = generator("yaml")
    assert check(look, yolo) == ()
    for _ in range(inputs(30)):
        (yolo / "data.yaml").write_bytes(mutated_text(b"nc: 1\nnames:\n  0: cell\n  1: 'b'\n", rnd))
        check(look, yolo)


def test_masks(tmp_path):
    for number in range(COUNT):
        for kind in ("images", "masks"):
            (tmp_path / f"m/train/{kind}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (number, 0, 0)).save(tmp_path / f"m/train/images/{number}.png")
        labels = (np.arange(48 * 64) % 3).reshape(48, 64).astype(np.uint8)
        Image.fromarray(labels).save(tmp_path / f"m/train/masks/{number}.png")
    file, rnd = tmp_path / "m/train/masks/0.png", generator("init masks")
    whole = file.read_bytes()
    assert check(look, tmp_path / "m") == ()
    for _ in range(inputs(15)):
        file.write_bytes(mutated_bytes(whole, rnd))
        check(look, tmp_path / "m")


def test_a_drafted_recipe_is_read_again(tmp_path):
    """Names of a data set in a recipe are texts of TOML, whatever letters they have."""
    from compress.pipeline.drafting.text import toml

    rnd = generator("drafted")
    for _ in range(inputs(60)):
        name = "".join(rnd.choice("\"'\\\n\t\x7f\x85\u2028\u202e🙂é#=[]{}a") for _ in range(rnd.randint(1, 12)))
        data = f'{{ use = "yolo", path = "x", size = 32, classes = {toml([name])} }}'
        (tmp_path / "r.toml").write_text(f'[task]\ndata = {data}\n[teacher]\nmodel = "a:b"\n', "utf-8")
        read = load(str(tmp_path / "r.toml"))
        assert json.loads(json.dumps(read.data.arguments["classes"])) == [name]
