"""Weights that differ from sample to sample: by hand, by what they learn, and inside the objective."""

import math

import pytest
import torch
from torch import nn

from compress.losses.base import PerSampleLoss
from compress.methods.distillation.loss_specs import losses, parse_losses
from compress.methods.distillation.objective import Objective
from compress.methods.distillation.sample_weights import FamiliarityWeight, LearnedWeight
from compress.tasks.classification import Classification
from profiles.tables import load_object
from tests.conftest import small_model

BY_SAMPLE = sorted(name for name, reference in losses().items() if isinstance(load_object(reference), PerSampleLoss))
EVEN = torch.zeros(1, 2, dtype=torch.float64)


def test_which_losses_give_values_by_sample():
    assert BY_SAMPLE == ["bd_kd", "dkd", "fer", "js", "kd", "nkd", "pld", "pseudo_labels"]


@pytest.mark.parametrize("name", BY_SAMPLE)
def test_a_loss_is_the_mean_of_its_values_each_of_which_is_its_samples_own(name):
    torch.manual_seed(0)
    student, teacher, targets = torch.randn(6, 4), 9 * torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, -1])
    loss = load_object(losses()[name])
    given = (student, teacher) if name in ("kd", "js", "bd_kd") else (student, teacher, targets)
    values, chosen = loss.each(*given)
    assert values.shape == chosen.shape == (6,)
    torch.testing.assert_close(loss(*given), values[chosen].mean())
    for number in torch.nonzero(chosen).flatten().tolist():
        torch.testing.assert_close(loss(*[x[number : number + 1] for x in given]), values[number])


def learned(classes=2, **options):
    return LearnedWeight({"student_logits": torch.zeros(2, classes)}, **options).double()


def test_it_starts_at_half_of_the_most_and_leaves_out_what_is_held():
    weight = learned(most=2.0, held=3, boost=0.0)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.zero_()
    values, chosen = torch.tensor([1.0, 2.0, 90.0, 3.0], dtype=torch.float64), torch.tensor([True, True, True, False])
    logits = EVEN.expand(4, 2)
    found = weight(values, chosen, logits, logits, logits, torch.tensor([0, 1, 0, 0]))
    assert found.item() == pytest.approx(1.5), "the third is held out, the fourth does not count"
    half = learned(most=1.0, held=3, boost=0.0)
    found = half(values, chosen, logits, logits, logits, torch.full((4,), -1))
    assert found.item() == pytest.approx(0.75), "without labels there is nothing to learn from"


def test_it_learns_to_follow_the_loss_where_that_helps_what_is_held_out():
    """Even samples' teacher is right, odd ones' is wrong; samples are near those of their class and kind of teacher."""
    torch.manual_seed(0)
    number = torch.arange(80)
    truth, even, held = number // 2 % 2, number % 2 == 0, number % 5 == 4
    said = torch.where(even, truth, 1 - truth)
    teacher = torch.where(even, 4.0, 1.0)[:, None].double() * nn.functional.one_hot(said, 2)
    kind = nn.functional.one_hot(2 * truth + even.long(), 4).double()
    student = (0.1 * torch.randn(80, 2, dtype=torch.float64)).requires_grad_()
    weight = learned(held=5)
    optimizer = torch.optim.Adam(weight.parameters(), lr=0.01)
    kd = load_object(losses()["kd"])
    shares = []
    for steps in (0, 150):
        for _ in range(steps):
            optimizer.zero_grad()
            weight(*kd.each(student, teacher, temperature=1.0), student, teacher, kind, truth).backward()
            optimizer.step()
        found = weight.controller(student.detach(), teacher, truth, truth >= 0).detach()
        shares.append(float(found[even & ~held].mean() - found[~even & ~held].mean()))
    assert abs(shares[0]) < 0.2
    assert shares[1] > 0.5


def test_the_student_gets_the_gradient_of_the_weighted_loss_alone():
    torch.manual_seed(0)
    weight = learned(held=10, boost=10.0)
    student, teacher = torch.randn(9, 2, dtype=torch.float64, requires_grad=True), torch.randn(9, 2, dtype=torch.float64)
    values, chosen = load_object(losses()["kd"]).each(student, teacher)
    targets = torch.zeros(9, dtype=torch.long)
    (slope,) = torch.autograd.grad(weight(values, chosen, student, teacher, student, targets), student, retain_graph=True)
    weights = 2 * weight.controller(student.detach(), teacher, targets, targets >= 0).detach()
    (expected,) = torch.autograd.grad((weights * values).mean(), student)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)


def familiar():
    return FamiliarityWeight(
        {"student_logits": torch.zeros(2, 2), "teacher_embedding": torch.zeros(2, 2)}, temperature=1 / math.log(3)
    )


def test_familiar_by_hand():
    """Prototypes along both axes, p(c) = 1/2. On an axis p(c|x) = 3/4: log(3/2) / log 2; between the axes 0."""
    weight = familiar()
    labelled = torch.eye(2)
    values = torch.tensor([1.0, 1.0])
    every = torch.ones(2, dtype=torch.bool)
    found = weight(values, every, torch.zeros(2, 2), 5 * labelled, torch.tensor([0, 1]))
    assert found.item() == 1
    unlabelled = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    expected = math.log(1.5) / math.log(2)
    torch.testing.assert_close(weight.weights(nn.functional.normalize(unlabelled)), torch.tensor([expected, 0.0]))
    found = weight(torch.tensor([7.0, 100.0]), every, torch.zeros(2, 2), unlabelled, torch.tensor([-1, -1]))
    assert found.item() == pytest.approx(7.0), "what is of no class does not count"
    # a second label of the first class: p(c) = 2/3, 1/3, so on the second axis log(9/4) / log 3
    found = weight(torch.tensor([1.0, 7.0]), every, torch.zeros(2, 2), torch.eye(2), torch.tensor([0, -1]))
    rarer = math.log(2.25) / math.log(3)
    assert found.item() == pytest.approx((1 + 7 * rarer) / (1 + rarer)), "labels weigh 1"


def test_familiar_trusts_all_until_it_has_seen_two_classes():
    weight = familiar()
    ones = torch.ones(2, dtype=torch.bool)
    found = weight(torch.tensor([2.0, 4.0]), ones, torch.zeros(2, 2), torch.randn(2, 2), torch.tensor([0, -1]))
    assert found.item() == 3


@pytest.mark.parametrize("use", ["learned", "familiar"])
def test_in_a_training(use, data, example, quiet, tmp_path):
    """Its parts are trained and kept, and the same whatever was drawn before."""
    from compress.training.schedule import Schedule
    from compress.training.trainer import Trainer

    teacher, student = small_model(7, width=1.0), small_model()
    specs = parse_losses(["task", {"use": "kd", "weight": {"use": use}, "temperature": 2.0}])
    objectives = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        objectives.append(Objective(specs, Classification(), student, teacher, example))
    pairs = zip(*(o.parts.state_dict().values() for o in objectives), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    before = {name: value.clone() for name, value in objectives[0].parts.state_dict().items()}
    Trainer(0, quiet).fit("x", student, objectives[0], data.train, Schedule(epochs=1, batch_size=32), tmp_path)
    assert any(not torch.equal(before[name], value) for name, value in objectives[0].parts.state_dict().items())


def test_a_recipe_is_told_which_losses_can(example):
    with pytest.raises(ValueError, match="loss attention: weight learned differs from sample to sample") as caught:
        parse_losses(
            [{"use": "attention", "weight": {"use": "learned"}}, {"use": "kd", "weight": {"use": "familiar", "t": 1}}]
        )
    assert "those that can: kd, js, bd_kd, dkd, nkd, pld, fer" in str(caught.value)
    assert "unknown option 't'" in str(caught.value)
    with pytest.raises(ValueError, match="held of at least 2"):
        parse_losses([{"use": "kd", "weight": {"use": "learned", "held": 1}}])
