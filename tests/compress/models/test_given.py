"""Modules and losses given as objects: references that change with all that decides a result, and with nothing else."""

import copy
import json
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from compress.methods.distillation.loss_specs import loss_modules, parse_losses
from compress.methods.distillation.objective import Objective
from compress.methods.pruning.operations import Narrow
from compress.models import given, plan
from compress.models.plan import Plan
from compress.tasks.classification import Classification
from profiles.errors import UserError
from tests.conftest import small_model

POWER = 2.0


class Tiny(nn.Module):
    def __init__(self, hidden=4, slope=0.1):
        super().__init__()
        self.slope = slope
        self.first, self.last = nn.Linear(3, hidden), nn.Linear(hidden, 2)

    def forward(self, x):
        return self.last(nn.functional.leaky_relu(self.first(x), self.slope))


def powered(value):
    return value.abs() ** POWER


def margin(student_logits, teacher_logits, *, scale=1.0):
    return scale * powered(student_logits - teacher_logits).mean()


class Scaled(nn.Module):
    def __init__(self, scale=2.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, student_logits, teacher_logits):
        return self.scale * (student_logits - teacher_logits).abs().mean()


def tiny(**arguments):
    torch.manual_seed(0)
    return Tiny(**arguments)


def test_equal_modules_share_a_reference_and_any_difference_gives_another():
    module = tiny()
    reference = given.register_module(module)
    assert given.register_module(tiny()) == reference
    with torch.no_grad():
        module.first.weight[0, 0] += 1e-3
    assert given.register_module(module) != reference
    assert given.register_module(tiny(slope=0.2)) != reference
    assert given.register_module(nn.Sequential(tiny())) != reference


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.1, 0.2),
        ([1, 2], [2, 1]),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])),
        (np.arange(3), np.arange(3, dtype=np.int16)),
        (torch.float16, torch.bfloat16),
        (SimpleNamespace(depth=SimpleNamespace(inner=1)), SimpleNamespace(depth=SimpleNamespace(inner=2))),
        (partial(torch.clamp, max=6), partial(torch.clamp, max=4)),
        (torch.relu, torch.tanh),
    ],
)
@pytest.mark.parametrize("name", ["slope", "_hidden"])
def test_attributes_of_any_kind_are_part_of_a_reference(one, other, name):
    references = []
    for value in (one, copy.deepcopy(one), other):
        module = tiny()
        setattr(module, name, value)
        references.append(given.register_module(module))
    assert references[0] == references[1] != references[2]


def test_buffers_that_are_not_saved_and_objects_that_hold_each_other():
    references = []
    for shift in (0.0, 1.0):
        module = tiny()
        module.register_buffer("shift", torch.tensor(shift), persistent=False)
        module.owner = SimpleNamespace()
        module.owner.back = module.owner
        references.append(given.register_module(module))
    assert references[0] != references[1]


def test_what_a_class_uses_by_name_is_part_of_it(monkeypatch):
    before = given.digest_of(margin)
    assert before == given.digest_of(margin)
    monkeypatch.setitem(globals(), "POWER", 3.0)
    assert given.digest_of(margin) != before
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "powered", tiny)
    assert given.digest_of(margin) != before


Pair = namedtuple("Pair", ["low", "high"])


def paired(student_logits):
    return Pair(student_logits.min(), student_logits.max()).high


def test_what_a_loss_uses_may_have_no_source_and_what_is_installed_is_not_followed():
    assert given.digest_of(paired) == given.digest_of(paired)
    assert not any("class Module" in text for text in given.source_texts(Tiny))


def test_a_registered_module_stays_as_it_was_given():
    module = tiny()
    reference = given.register_module(module)
    before = module.first.weight.detach().clone()
    with torch.no_grad():
        module.first.weight.zero_()
    built = Plan(factory=reference).build()
    torch.testing.assert_close(built.first.weight, before, rtol=0, atol=0)
    with torch.no_grad():
        built.first.weight.zero_()
    torch.testing.assert_close(Plan(factory=reference).build().first.weight, before, rtol=0, atol=0)


def narrowed(reference):
    """The module without its second hidden unit."""
    tensors = {"first.weight": {"0": [0, 2, 3]}, "first.bias": {"0": [0, 2, 3]}, "last.weight": {"1": [0, 2, 3]}}
    operation = Narrow(tensors=tensors, attributes={"first": {"out_features": 3}, "last": {"in_features": 3}})
    return Plan(factory=reference).followed_by(operation)


def test_a_fresh_module_takes_structure_and_weights_bit_for_bit(tmp_path):
    reference = given.register_module(tiny())
    made = narrowed(reference)
    module = made.build()
    with torch.no_grad():
        module.first.bias.add_(0.25)
    plan.save(tmp_path, made, module)
    given.forget(reference)
    assert json.loads((tmp_path / plan.PLAN).read_text())["factory"].startswith("given:Tiny-")
    with pytest.raises(UserError, match="given in Python, and this process has not been given it"):
        plan.load(tmp_path)
    fresh, x = Tiny(), torch.randn(5, 3)
    kept = copy.deepcopy(fresh.state_dict())
    read, again = plan.load(tmp_path, fresh)
    assert read == made
    assert torch.equal(again(x), module(x))
    assert again.first.weight.shape == (3, 3)
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in kept.items())
    with pytest.raises(UserError, match="other names or shapes"):
        plan.load(tmp_path, Tiny(hidden=5))


def test_a_plan_that_names_its_factory_takes_no_module(tmp_path):
    named = Plan(factory="compress.models:resnet", arguments={"blocks": 1, "width": 0.5, "in_channels": 1, "classes": 4})
    plan.save(tmp_path, named, named.build())
    with pytest.raises(UserError, match="built by compress.models:resnet; leave module out"):
        plan.load(tmp_path, small_model())


def test_modules_of_ours_and_of_torch_are_given_too():
    reference = given.register_module(small_model())
    assert reference.startswith("given:ResNet-")
    assert given.register_module(nn.Linear(2, 3)).startswith("given:Linear-")


def objective(losses, student=None):
    teacher, student = small_model(1, width=1.0), student or small_model(2)
    return Objective(parse_losses(losses), Classification(), student, teacher, torch.zeros(2, 1, 16, 16))


def test_a_function_as_a_loss_is_computed_with_its_options():
    at_work = objective([margin, {"use": margin, "scale": 3.0, "weight": 0.5}])
    student, teacher = small_model(2).eval(), small_model(1, width=1.0).eval()
    x = torch.randn(4, 1, 16, 16)
    with at_work:
        total, _ = at_work(student, x, torch.zeros(4, dtype=torch.int64), {"teacher_logits": teacher(x)})
    expected = (student(x) - teacher(x)).pow(2).mean()
    torch.testing.assert_close(total, expected + 0.5 * 3.0 * expected)


def test_a_module_as_a_loss_is_trained_in_a_copy():
    loss = Scaled(2.0)
    at_work = objective([loss])
    part, *_ = at_work.parts
    assert part is not loss and torch.equal(part.scale, loss.scale)
    assert parse_losses([Scaled(2.0)]) == parse_losses([loss]) != parse_losses([Scaled(3.0)])


def test_a_class_as_a_loss_takes_its_options():
    part, *_ = objective([{"use": Weighted, "power": 3.0}]).parts
    assert part.power == 3.0
    with pytest.raises(ValueError, match="unknown option 'pover'.*did you mean 'power'"):
        parse_losses([{"use": Weighted, "pover": 3.0}])


class Weighted(nn.Module):
    def __init__(self, *, power=2.0):
        super().__init__()
        self.power = power

    def forward(self, student_logits):
        return student_logits.abs().pow(self.power).mean()


def test_the_code_of_a_given_loss_is_in_its_reference_and_in_no_module():
    (spec,) = parse_losses([margin])
    assert spec.use.startswith("given:margin-")
    assert loss_modules((spec,)) == []


def bounded(limit):
    def loss(student_logits):
        return student_logits.clamp(max=limit).mean()

    return loss


def test_captured_numbers_are_part_of_a_reference():
    (one, two) = parse_losses([bounded(1.0), bounded(2.0)])
    assert one.use != two.use
    assert parse_losses([bounded(1.0)])[0] == one


def test_two_lambdas_on_one_line_differ():
    first, second = parse_losses([lambda student_logits: student_logits.sum(), lambda student_logits: student_logits.mean()])
    assert first.use != second.use


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (eval("lambda student_logits: student_logits.sum()"), "source cannot be read"),
        (lambda prediction: prediction.sum(), "reads prediction; its positional parameters are of"),
        (bounded(torch.ones(2)), "closes over limit"),
        (torch.add, "give a function or an nn.Module"),
    ],
)
def test_a_loss_that_results_cannot_be_known_by_is_refused(loss, words):
    with pytest.raises(ValueError, match=words):
        parse_losses([loss])
