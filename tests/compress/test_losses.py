"""Each loss: a known answer by hand, its minimum, its invariances, finite where training goes."""

import math

import pytest
import torch

from compress.losses.features import attention
from compress.losses.logits import kd
from compress.losses.task import task


def test_task_is_the_tasks_loss():
    assert task(torch.tensor(2.5)) == 2.5


def test_kd_by_hand():
    """p_T = (3/4, 1/4), p_S = (1/2, 1/2), T = 1: KL = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd(student, teacher, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)
    softened = torch.tensor([[2 * math.log(3.0), 0.0]])
    assert kd(student, softened, temperature=2.0).item() == pytest.approx(4 * expected, rel=1e-6)


def test_kd_is_zero_at_the_teacher_and_blind_to_a_constant_per_sample():
    logits = torch.randn(8, 10, dtype=torch.float32)
    assert kd(logits, logits).item() == pytest.approx(0, abs=1e-6)
    shifted = logits + torch.randn(8, 1)
    other = torch.randn(8, 10)
    assert kd(shifted, other).item() == pytest.approx(kd(logits, other).item(), rel=1e-4)


def test_kd_averages_over_samples_and_positions():
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    assert kd(student, teacher).item() == pytest.approx(kd(student.reshape(6, 5), teacher.reshape(6, 5)).item(), rel=1e-5)


def test_attention_by_hand():
    """Maps (1, 0) and (0, 1): squared distance 2 for one pair."""
    student = torch.tensor([[[[3.0, 0.0]]]])
    teacher = torch.tensor([[[[0.0, 5.0]], [[0.0, 1.0]]]])
    assert attention([student], [teacher]).item() == pytest.approx(2.0)
    assert attention([student, student], [teacher, student]).item() == pytest.approx(2.0)


def test_attention_ignores_channel_count_and_scale():
    features = torch.randn(4, 6, 5, 5)
    more = torch.cat([features, features], 1) * 3
    assert attention([features], [more]).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_gradients_are_right_and_finite_at_extreme_logits(scale):
    student = (torch.randn(4, 6) * scale).requires_grad_()
    teacher = torch.randn(4, 6) * scale
    with torch.autocast("cpu", torch.bfloat16):
        kd(student.bfloat16(), teacher.bfloat16()).backward()
    assert torch.isfinite(student.grad).all()


def test_gradients_agree_with_differences():
    double = {"dtype": torch.float64, "requires_grad": True}
    teacher = torch.randn(3, 4, dtype=torch.float64)
    student = torch.randn(3, 4, **double)
    # the losses compute in float32: compare their gradient with a float64 difference of the same formula
    kd(student, teacher).backward()
    step = torch.zeros_like(student)
    step[1, 2] = 1e-2
    with torch.no_grad():
        slope = (kd(student + step, teacher) - kd(student - step, teacher)) / 2e-2
    assert student.grad[1, 2].item() == pytest.approx(slope.item(), rel=1e-2, abs=1e-4)
