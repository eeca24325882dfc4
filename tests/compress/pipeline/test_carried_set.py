"""A bundle with its recovery set: signed, shipped, recalibrated on pictures of the device, shipped again and served."""

import json

import numpy as np
import pytest
from PIL import Image

import deploy
from compress.data.images import images
from compress.pipeline import signing_keys
from compress.pipeline.recalibration.recalibrate import recalibrate
from compress.pipeline.run import run
from compress.recipe.parse import parse
from deploy.bundle import bundle as bundles
from deploy.bundle import manifest
from deploy.devices import device
from deploy.shipping.ship import ShipOptions, load, roll_back, ship, status
from profiles.device import load as load_profile
from tests.deploy.trials import at

COLOURS = {"blue": (40, 60, 170), "red": (170, 50, 40)}
MODEL = {"model": "compress.models:resnet", "arguments": {"blocks": 1, "widths": [32, 64, 96], "classes": 2}, "epochs": 2}
LAB = {"size": 16, "mean": [0.5] * 3, "deviation": [0.25] * 3, "validation": 12, "test": 12, "calibration": 12}


def pictures(root, count, seed, brightness=1.0):
    """Noisy pictures of two colours, in a folder for each."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            noisy = brightness * (np.array(colour) + rng.normal(0, 25, (20, 24, 3)))
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.mark.slow
def test_a_carried_set_and_the_pictures_of_a_device(tmp_path, monkeypatch, quiet):
    monkeypatch.setenv("EDGE_KEYS", str(tmp_path / "keys"))
    key = signing_keys.new("default")
    recipe = {
        "task": {"data": {"use": "images", "path": str(pictures(tmp_path / "lab", 40, 1)), **LAB}},
        "teacher": MODEL,
        "stage": [{"use": "quantize", "epochs": 0}],
        "recovery": {"set": {"use": "random", "per_class": 8}, "bundle": True},
        "budget": {"accuracy_drop_points": 50.0, "size_mib": 0.35},  # which int8 alone holds: the rest has ranges to renew
        "measure": {"seconds": 0.05, "gate_seconds": 0.05},
    }
    asked = parse(recipe, name="site", source=str(tmp_path / "site.toml"))
    report = run(asked, load_profile("cpu"), device("local"), tmp_path / "out", tmp_path / "steps", quiet)
    assert report.row(report.verdict.best).precision == "int8", report
    folder, home, way = tmp_path / "out" / "bundle", tmp_path / "home", ShipOptions(public_key=key.pem)
    assert manifest.read(folder)[2] and "recovery.npz" in manifest.read(folder)[0].files
    assert ship(load(folder), at(home), way).state == "shipped"

    bright = pictures(tmp_path / "site", 30, 2, brightness=1.5)
    found = recalibrate(folder, bright, progress=quiet)
    assert found.exit_code == 0 and found.samples.labelled and found.wider > 0 and found.key == key.id, found
    new = folder.with_name("bundle-recalibrated")
    assert (new / "recovery.npz").read_bytes() == (folder / "recovery.npz").read_bytes()
    shipped = ship(load(new), at(home), way)
    assert (shipped.state, shipped.was) == ("shipped", manifest.read(folder)[0].version), shipped
    served = home / "models" / "site" / "current" / "bundle"
    assert json.loads((served / "lineage.json").read_text())["samples"]["digest"] == found.samples.digest
    told = images(path=bright, **LAB)
    with deploy.load(served) as model:
        answers = [model(told.test.raw(number).value)["label"] for number in range(12)]
    assert sum(told.classes[label] == answer for label, answer in zip(told.test.labels, answers, strict=True)) >= 11

    back = recalibrate(new, new / "recovery.npz", out=tmp_path / "back", progress=quiet)
    assert back.samples.calibrated == 16 and back.samples.labelled and back.exit_code == 0, "the set it carries, of the lab"
    assert bundles.verify(tmp_path / "back").cosine > 0.999
    assert roll_back(at(home), None, way)["version"] == manifest.read(folder)[0].version
    assert [each["version"] for each in status(at(home), way)["models"]] == [manifest.read(folder)[0].version]
