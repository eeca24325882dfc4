"""Each loss: a known answer by hand, its minimum, its invariances, finite where training goes."""

import math

import pytest
import torch

from compress.losses.boxes import boxes, giou
from compress.losses.features import attention
from compress.losses.logits import bce_kd, kd
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


def test_bce_kd_by_hand():
    """One place, one class: t = 3/4, s = 1/2; KL = 3/4 ln(3/2) + 1/4 ln(1/2), whatever the place weighs."""
    teacher, student = torch.tensor([[[math.log(3.0)]]]), torch.zeros(1, 1, 1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert bce_kd(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert bce_kd(student, 2 * teacher, temperature=2.0).item() == pytest.approx(4 * expected, rel=1e-5)


def test_bce_kd_weighs_a_place_by_how_sure_the_teacher_is():
    """Places with t = 3/4 and t = 1/4, both at KL k: the mean is k; with the second agreeing it is k w1 / (w1 + w2)."""
    teacher = torch.tensor([[[math.log(3.0)], [-math.log(3.0)]]])
    student = torch.tensor([[[0.0], [-math.log(3.0)]]])
    one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    weights = [0.2 + 0.8 * 0.75, 0.2 + 0.8 * 0.25]
    assert bce_kd(student, teacher, rest=0.2).item() == pytest.approx(one * weights[0] / sum(weights), rel=1e-5)
    assert bce_kd(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_giou_by_hand():
    """Half over each other: IoU 1/3, nothing of the hull is in neither. Apart by their own width: 0 - 1/3."""
    a = torch.tensor([0.0, 0, 2, 2])
    assert giou(a, torch.tensor([1.0, 0, 3, 2])).item() == pytest.approx(1 / 3)
    assert giou(a, torch.tensor([4.0, 0, 6, 2])).item() == pytest.approx(-1 / 3)
    assert giou(a, a).item() == pytest.approx(1)


def test_boxes_by_hand():
    """Two places: the teacher is sure of the first (p = 3/4, 1 - GIoU = 2/3), less of the second (1/4; the same box)."""
    student = torch.tensor([[[1.0, 0, 3, 2], [0, 0, 2, 2]]])
    teacher = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 2]]])
    logits = torch.tensor([[[math.log(3.0), -5], [-math.log(3.0), -5]]])
    weights = (0.75**2, 0.25**2)
    assert boxes(student, teacher, logits).item() == pytest.approx(2 / 3 * weights[0] / sum(weights), rel=1e-5)
    assert boxes(teacher, teacher, logits).item() == pytest.approx(0, abs=1e-6)


def test_losses_of_detection_have_finite_gradients_where_the_teacher_sees_nothing():
    student = torch.zeros(1, 2, 4, requires_grad=True)
    boxes(student, torch.zeros(1, 2, 4), torch.full((1, 2, 3), -1e4)).backward()
    assert torch.isfinite(student.grad).all()
    scores = torch.zeros(1, 2, 3, requires_grad=True)
    bce_kd(scores, torch.full((1, 2, 3), -1e4), rest=0.1).backward()
    assert torch.isfinite(scores.grad).all()
