import json

import pytest
import torch

from compress.models import plan as surgery
from compress.models.plan import Plan
from profiles.errors import UserError
from tests.conftest import small_plan


def test_the_plan_is_json_and_comes_back():
    plan = small_plan()
    again = Plan.from_json(json.loads(json.dumps(plan.as_json())))
    assert again == plan


def test_another_schema_is_refused():
    with pytest.raises(UserError, match="schema 99; this version reads 1"):
        Plan.from_json({**small_plan().as_json(), "schema": 99})


@pytest.mark.parametrize(
    ("factory", "arguments", "words"),
    [
        ("compress.models:resnett", {}, "has no 'resnett'"),
        ("compress.models:resnet", {"widht": 1}, "widht"),
        ("math:sqrt", {}, "model 'math:sqrt': missing a required argument"),
        ("tests.conftest:blobs", {}, "returned an ArraySamples; it must return a torch.nn.Module"),
    ],
)
def test_a_factory_that_does_not_work_says_why(factory, arguments, words):
    with pytest.raises(UserError, match=words):
        Plan(factory=factory, arguments=arguments).build()


def test_arguments_that_a_factory_refuses_are_told_and_a_bug_is_not(tmp_path):
    """One line with the place in the user's file for what is wrong with the arguments; the traceback of all else is kept."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\ndef net(classes=10, broken=False):\n    if broken:\n        classes.no_such\n"
        "    if classes != 4:\n        raise ValueError('classes must be four')\n    return nn.Linear(1, classes)\n"
    )
    factory = f"{tmp_path / 'nets.py'}:net"
    assert Plan(factory=factory, arguments={"classes": 4}).build().out_features == 4
    with pytest.raises(UserError) as caught:
        Plan(factory=factory, arguments={"classes": 5}).build()
    (fault,) = caught.value.faults
    assert "ValueError: classes must be four (nets.py, line 7); given: {'classes': 5}; it takes (classes=10" in fault
    with pytest.raises(AttributeError):
        Plan(factory=factory, arguments={"broken": True}).build()


def test_shared_tensors_stay_shared_on_disk(tmp_path):
    from compress.models.checkpoint import load_tensors, save_tensors

    weight = torch.randn(100, 100)
    save_tensors(tmp_path / "t.safetensors", {"a": weight, "b": weight, "c": weight.clone()})
    assert (tmp_path / "t.safetensors").stat().st_size < 2.5 * weight.numel() * 4
    loaded, _ = load_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(loaded[name], weight) for name in "abc")


def test_equal_tensors_give_equal_bytes(tmp_path):
    from compress.models.checkpoint import save_tensors

    tensors = {name: torch.arange(4.0) + i for i, name in enumerate("abcdefgh")}
    for name in "xy":
        save_tensors(tmp_path / name, tensors, {"step": 3, "losses": [1.0]})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_sources_follow_the_code_of_the_users_model():
    plan = small_plan()
    assert any("class BasicBlock" in source for source in surgery.sources(plan, plan.build()))
