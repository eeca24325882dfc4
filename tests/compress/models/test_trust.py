"""A plan from elsewhere calls nothing that this user has not named."""

import json
import resource
import subprocess
import sys

import pytest
import torch

import compress
from compress.models import plan as plans
from compress.models import trust
from compress.models.plan import Plan
from profiles.errors import UserError
from tests.conftest import ROOT, small_model

HOSTILE = [
    "subprocess:getoutput",
    "os:system",
    "builtins:exec",
    "compress.models.factory:load_file",
    "compress.execution.cache:StepCache",
    "evil.py:net",
    "compress.modelsx:resnet20",
    "",
]


@pytest.fixture
def folder(tmp_path):
    """A saved model of the product's own."""
    plan, made = Plan(factory="compress.models:resnet20"), tmp_path / "model"
    made.mkdir()
    plans.save(made, plan, plan.build())
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="the system knows no limit of memory")
def test_a_plan_of_a_model_larger_than_its_weights_is_told_before_it_takes_all_memory(folder):
    before = resource.getrlimit(resource.RLIMIT_AS)
    renamed(folder, "compress.models:resnet20", {"width": 1000.0})
    with pytest.raises(UserError, match="is damaged, or not of that model"):
        compress.load(folder)
    renamed(folder, "compress.models:resnet20", {})
    assert compress.load(folder)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_plan_of_more_modules_than_its_weights_have_is_told_before_they_are_built(folder):
    """21 convolutions, as many norms of 5 tensors and 2 of the head: 10,000 modules and 100 for each of the 128."""
    renamed(folder, "compress.models:resnet20", {"depth": 100_000})
    with pytest.raises(UserError, match="over 22,800 modules, its file of weights 128 tensors"):
        compress.load(folder)
    renamed(folder, "compress.models:resnet20", {})
    assert compress.load(folder)(torch.zeros(1, 3, 32, 32)).shape == (1, 10), "what counted is gone"


def renamed(folder, factory, arguments):
    data = json.loads((folder / plans.PLAN).read_text())
    (folder / plans.PLAN).write_text(json.dumps({**data, "factory": factory, "arguments": arguments}))


@pytest.mark.parametrize("factory", HOSTILE)
def test_a_factory_that_no_recipe_named_is_not_called_nor_imported(folder, factory, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    renamed(folder, factory, {"cmd": f"touch {tmp_path / 'ran'}"})
    for call in (lambda: plans.load(folder), lambda: compress.load(folder)):
        with pytest.raises(UserError, match="nothing was called") as told:
            call()
        assert factory in str(told.value) and "touch" in str(told.value)
    assert not (tmp_path / "ran").exists()


def test_own_models_libraries_and_what_a_recipe_named_are(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(trust, "_allowed", set())
    assert isinstance(compress.load(folder), torch.nn.Module)
    assert trust.is_allowed("timm:resnet18") and not trust.is_allowed("tests.conftest:small_model")
    trust.allow("tests.conftest:small_model")
    code = "from compress.models import trust; print(trust.is_allowed('tests.conftest:small_model'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True", "remembered in later processes"
    for damage in ("[", "{}", "[1]"):
        (tmp_path / "config/edge-compress/factories.json").write_text(damage)
        monkeypatch.setattr(trust, "_allowed", set())
        assert not trust.is_allowed("tests.conftest:small_model")


def test_an_explicit_word_is_enough(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    plan = Plan(factory="tests.conftest:small_model", arguments={})
    plans.save(folder, plan, small_model())
    monkeypatch.setattr(trust, "_allowed", set())
    with pytest.raises(UserError, match="trust=True"):
        compress.load(folder)
    assert isinstance(compress.load(folder, trust=True), torch.nn.Module)
