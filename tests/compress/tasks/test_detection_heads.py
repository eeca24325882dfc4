"""The task detection over every head: its loss, distillation without labels, the loss of a model's own library."""

import numpy as np
import pytest
import torch
from torch import fx, nn

from compress.losses.boxes import boxes, match_queries, matched_queries, sides
from compress.losses.logits import bce_kd
from compress.methods.distillation.objective import Objective, parse_losses
from compress.tasks.detection import Detection
from profiles.errors import UserError
from tests.compress.tasks.test_detection import Boxed, splits
from tests.deploy.processing.detection import test_readers as forms

BOUND = {"strides": forms.STRIDES}


class Three(Boxed):
    classes = ("a", "b", "c")


def task(**options):
    three = Boxed([[[0, 8, 8, 24, 24]]], size=forms.SIZE, classes=("a", "b", "c"))
    return Detection(**options).bound_to(splits(train=three, classes=("a", "b", "c")))


def tensors(outputs):
    return [torch.from_numpy(np.array(each)) for each in outputs]


def student_of(outputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(each + torch.randn(each.shape, generator=generator)).requires_grad_() for each in tensors(outputs)]


LABELLED = ("own", "yolo: maps", "yolo: pairs of maps", "yolo: over all strides", "yolox")


@pytest.mark.parametrize("form", LABELLED)
def test_heads_that_answer_from_places_learn_from_labels(form):
    """The right answer has less loss than half of it, in every form."""
    detection = task(head=forms.FORMS[form][0])
    real = torch.tensor([[[label, *box] for label, _, box, *_ in forms.OBJECTS]], dtype=torch.float)
    right = tensors(forms.FORMS[form][1]())
    assert detection.loss(right, real) < detection.loss(right, real[:, :1])
    student = student_of(forms.FORMS[form][1]())
    detection.loss(student, real).backward()
    assert all(torch.isfinite(each.grad).all() for each in student)


def test_heads_without_places_say_what_else_trains_them():
    with pytest.raises(UserError, match="use loss = 'model' in \\[task\\] for a model from a library, or losses of"):
        task().loss(tensors(forms.detr()), torch.full((1, 1, 5), -1.0))


DISTILLED = {
    "own": (bce_kd, boxes),
    "yolo: maps": (bce_kd, sides),
    "yolo: pairs of distances": (bce_kd, boxes),
    "yolo_anchors": (bce_kd, boxes),
    "yolox": (bce_kd, boxes),
    "detr": (matched_queries,),
    "detr: none as a class": (matched_queries,),
    "ssd": (bce_kd, boxes),
}


@pytest.mark.parametrize("form", DISTILLED)
def test_a_student_comes_near_its_teacher_without_a_label(form):
    """Outputs as parameters, from noise on the teacher's: the losses read nothing but both models' outputs."""
    head, make = forms.FORMS[form]
    detection = task(head=head)
    if head == "ssd":
        detection._facts = forms.FACTS
    teacher, student = tensors(make()), student_of(make())
    given = {f"teacher_{k}": v for k, v in {"logits": detection.logits(teacher), **detection.signals(teacher)}.items()}
    optimizer = torch.optim.Adam(student, lr=0.1)
    values = []
    for _ in range(25):
        said = {"logits": detection.logits(student), **detection.signals(student)}
        read = {**given, **{f"student_{name}": value for name, value in said.items()}}
        loss = sum(
            each(*[read[word] for word in each.__code__.co_varnames[: each.__code__.co_argcount]])
            for each in DISTILLED[form]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.6 * values[0], values


def test_queries_are_matched_whatever_their_order_and_number():
    detection = task(head="detr")
    logits, boxes_ = tensors(forms.detr())
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    read = [detection.logits([logits, boxes_]), detection.signals([logits, boxes_])["boxes"]]
    shuffled = [each[:, order] for each in read]
    assert matched_queries(shuffled[0], read[0], shuffled[1], read[1]).item() == pytest.approx(0, abs=1e-5)
    fewer = [each[:, [7, 2, 5]] for each in read]
    assert matched_queries(fewer[0], read[0], fewer[1], read[1]).item() == pytest.approx(0, abs=1e-5)
    more = matched_queries(read[0], fewer[0], read[1], fewer[1])
    assert more.item() == pytest.approx(0, abs=1e-5), "those that are left say nothing already"
    loud = read[0].clone()
    loud[:, 0] = 3.0
    assert matched_queries(loud, fewer[0], read[1], fewer[1]) > 0.1
    pairs = match_queries(shuffled[0], read[0], shuffled[1], read[1])
    assert order[pairs[0, 7]] == 7 and order[pairs[0, 2]] == 2
    assert sorted(pairs[0].tolist()) == list(range(20))


def test_a_query_of_no_number_leaves_the_others_theirs():
    logits, boxes_ = torch.zeros(1, 3, 2), torch.tensor([[[0.0, 0, 1, 1], [5, 5, 6, 6], [8, 8, 9, 9]]])
    logits[0, 1] = 3
    broken = logits.clone()
    broken[0, 0] = torch.nan
    assert match_queries(broken, logits, boxes_, boxes_)[0, 1] == 1


def test_places_that_cannot_be_compared_are_told():
    with pytest.raises(UserError, match="loss boxes: compares places one by one.*take the loss 'matched_queries'"):
        boxes(torch.zeros(1, 3, 4), torch.zeros(1, 4, 4), torch.zeros(1, 4, 2))
    with pytest.raises(UserError, match="loss sides: "):
        sides(torch.zeros(1, 3, 4, 16), torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 2))


class Says(nn.Module):
    """A detector that says what it was told, and has a loss of its own."""

    def __init__(self, outputs):
        super().__init__()
        self.said = nn.ParameterList(tensors(outputs))

    def forward(self, pixels):
        return tuple(each.expand(len(pixels), *each.shape[1:]) for each in self.said)

    def task_loss(self, outputs, targets):
        return outputs[0].square().mean() + targets.sum() * 0


def test_a_models_own_loss_is_asked_for_by_name_and_missed_where_it_is_not_there():
    module, images = Says(forms.own()), torch.zeros(2, 3, 64, 64)
    targets = torch.full((2, 1, 5), -1.0)
    with Objective(parse_losses(["task"]), task(loss="model"), module, None, images) as objective:
        value, _ = objective(module, images, targets)
    assert value.item() == pytest.approx(module.said[0].square().mean().item())
    with pytest.raises(UserError, match=r"loss = 'model': Linear has no task_loss\(outputs, targets\)"):
        task(loss="model").loss_of(nn.Linear(1, 1))


def test_a_captured_model_learns_by_the_tasks_own_loss():
    """Quantised training has a graph of the library's model, without its methods."""
    graph, detection = fx.symbolic_trace(nn.Identity()), task(loss="model")
    assert detection.loss_of(graph) == detection.loss


def test_a_loss_of_distributions_on_a_head_without_them_is_told():
    student, teacher = Says(forms.own()), Says(forms.own())
    images = torch.zeros(2, 3, 64, 64)
    with (
        Objective(parse_losses(["sides"]), task(), student, teacher, images) as objective,
        pytest.raises(
            UserError,
            match="a loss reads teacher_distributions, and the teacher's outputs have none; they give .*teacher_boxes",
        ),
    ):
        objective(student, images, torch.full((2, 1, 5), -1.0))


def test_settings_of_heads_are_told_at_once(tmp_path):
    np.save(tmp_path / "bad.npy", np.zeros((4, 3)))
    with pytest.raises(UserError) as caught:
        Detection(head="yolov8", anchors=[[[10, 0]]], priors=tmp_path / "bad.npy", threshold=2)
    words = "\n".join(caught.value.faults)
    assert "unknown head 'yolov8'" in words and "anchors are pairs of pixels" in words
    assert "priors are numbers of shape (priors, 4)" in words and "threshold is from 0 to 1" in words
    assert len(caught.value.faults) == 4


def test_a_decode_in_the_graph_that_cannot_be_told_from_raw_outputs_is_refused():
    """DETR of four classes, logits first: (n, queries, 4) twice, as corners and scores would be."""
    four = Boxed([[[0, 8, 8, 24, 24]]], size=(64, 64), classes=("a", "b", "c", "d"))
    data = splits(train=four, classes=four.classes)
    outputs = (torch.zeros(2, 20, 4), torch.zeros(2, 20, 4))
    Detection(head="detr").check_outputs(outputs, data)
    with pytest.raises(UserError, match="use decode = 'numpy'"):
        Detection(head="detr", decode="graph").check_outputs(outputs, data)
