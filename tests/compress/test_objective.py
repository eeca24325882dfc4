import pytest
import torch

from compress.objective import Objective, parse_losses
from compress.tasks.classification import Classification
from profiles.errors import UserError
from tests.conftest import small_model


def test_a_name_or_a_table():
    plain, table = parse_losses(["task", {"use": "kd", "weight": 0.5, "temperature": 2.0}])
    assert (plain.use, plain.weight, plain.options) == ("task", 1.0, {})
    assert (table.use, table.weight, table.options) == ("kd", 0.5, {"temperature": 2.0})


def test_every_fault_at_once():
    with pytest.raises(ValueError, match="did you mean 'attention'") as caught:
        parse_losses(["atention", {"use": "kd", "weight": -1}, {"use": "kd", "temprature": 2}, 3])
    words = str(caught.value)
    assert "weight is a number of at least 0; given: -1" in words
    assert "unknown option 'temprature' (did you mean 'temperature'?)" in words
    assert "given: 3" in words


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="at least one entry"):
        parse_losses([])


def call(specs, student, teacher, example):
    with Objective(parse_losses(specs), Classification(), student, teacher, example) as objective:
        return objective, *objective(student, example, torch.tensor([0, 1]))


def test_the_weighted_sum_of_the_terms(example):
    student, teacher = small_model(1).eval(), small_model(2, width=1.0)
    _, total, terms = call(
        [{"use": "task", "weight": 0.25}, {"use": "kd", "weight": 3.0}, "attention"], student, teacher, example
    )
    assert float(total.detach()) == pytest.approx(
        0.25 * float(terms["task"]) + 3 * float(terms["kd"]) + float(terms["attention"])
    )


def test_nothing_to_learn_from_oneself(example):
    student = small_model(1).eval()
    _, total, _ = call(["kd", "attention"], student, student, example)
    assert total.item() == pytest.approx(0, abs=1e-5)


def test_only_task_reads_labels(example):
    student, teacher = small_model(1), small_model(2)
    unlabelled, *_ = call(["kd", "attention"], student, teacher, example)
    labelled, *_ = call(["task"], student, teacher, example)
    assert not unlabelled.needs_labels
    assert labelled.needs_labels


def test_hooks_are_gone_afterwards(example):
    student, teacher = small_model(1), small_model(2)
    call(["attention"], student, teacher, example)
    assert not any(m._forward_hooks for m in [*student.modules(), *teacher.modules()])


def test_a_step_that_reads_no_features_hangs_no_hooks(example):
    student, teacher = small_model(1), small_model(2)
    with Objective(parse_losses(["task", "kd"]), Classification(), student, teacher, example):
        assert not any(m._forward_hooks for m in [*student.modules(), *teacher.modules()])


def test_the_teacher_gets_no_gradient(example):
    student, teacher = small_model(1), small_model(2)
    _, total, _ = call(["kd", "attention"], student, teacher, example)
    total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None for p in student.parameters())


def test_a_loss_that_needs_a_teacher_says_so(example):
    with pytest.raises(UserError, match="there is none here"):
        Objective(parse_losses(["kd"]), Classification(), small_model(), None, example)
