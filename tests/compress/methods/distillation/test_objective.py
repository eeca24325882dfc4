import pytest
import torch

from compress.losses.base import TrainingStep
from compress.methods.distillation.loss_weights import GradientShare
from compress.methods.distillation.objective import Objective, parse_losses
from compress.tasks.classification import Classification
from profiles.errors import UserError
from tests.conftest import Counted, small_model


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


def test_a_loss_has_the_same_parts_whatever_was_drawn_before(example):
    states = []
    for seed in (1, 2):
        student, teacher = small_model(1), small_model(2, width=1.0)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(Objective(parse_losses(["cwd"]), Classification(), student, teacher, example).parts.state_dict())
        assert torch.equal(before, torch.get_rng_state())
    assert states[0] and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_layers_of_the_recipe_are_compared_instead_of_those_found(example):
    student, teacher = small_model(1), small_model(2, width=1.0)
    chosen = {"use": "attention", "layers": [["layer2", "layer2"]]}
    _, _, terms = call([chosen], student, teacher, example)
    _, _, found = call(["attention"], student, teacher, example)
    assert 0 < float(terms["attention"]) < float(found["attention"])
    with pytest.raises(UserError, match="the student has no layer lager2 that gives maps or tokens; it has conv1"):
        call([{"use": "attention", "layers": [["lager2", "layer2"]]}], student, teacher, example)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"use": "kd", "layers": [["a", "b"]]}, "it compares no layers"),
        ({"use": "attention", "layers": ["a"]}, "layers is a list of pairs"),
        ({"use": "kd", "weight": {"use": "gradient_shear"}}, "did you mean 'gradient_share'"),
        ({"use": "kd", "weight": {"use": "scheduled", "stop": 1}}, "unknown option 'stop'"),
        ({"use": "kd", "weight": {"use": "gradient_share", "share": 2.0}}, "share between 0 and 1"),
    ],
)
def test_faults_of_layers_and_weights(entry, words):
    with pytest.raises(ValueError, match=words):
        parse_losses([entry])


def test_two_losses_may_compare_different_layers(example):
    """Each gets its own of what is tapped once."""
    student, teacher = small_model(1).eval(), small_model(2, width=1.0)
    alone = [call([s], student, teacher, example)[2] for s in ("attention", {"use": "sp", "layers": [["layer3", "layer3"]]})]
    both = call(["attention", {"use": "sp", "layers": [["layer3", "layer3"]]}], student, teacher, example)[2]
    assert {**alone[0], **alone[1]} == {k: pytest.approx(float(v)) for k, v in both.items()}


def test_a_scheduled_weight_goes_from_start_to_end(example):
    student, teacher = small_model(1).eval(), small_model(2)
    spec = {"use": "kd", "weight": {"use": "scheduled", "start": 1.0, "end": 3.0, "begins": 0.2, "ends": 0.6}}
    with Objective(parse_losses([spec]), Classification(), student, teacher, example) as objective:
        ratios = []
        for progress in (0.0, 0.2, 0.4, 0.6, 1.0):
            total, terms = objective(student, example, torch.tensor([0, 1]), None, TrainingStep(progress=progress))
            ratios.append(float(total.detach()) / float(terms["kd"]))
    assert ratios == pytest.approx([1, 1, 2, 3, 3], rel=1e-5)


def test_a_loss_without_weight_is_not_computed_nor_the_teacher_asked(example):
    student, teacher = small_model(1).eval(), Counted(small_model(2))
    late = {"use": "kd", "weight": {"use": "scheduled", "begins": 0.5, "ends": 0.6}}
    with Objective(parse_losses(["task", late]), Classification(), student, teacher, example) as objective:
        asked = teacher.calls
        for progress, terms in ((0.0, {"task"}), (0.5, {"task"}), (0.55, {"task", "kd"}), (1.0, {"task", "kd"})):
            moment = TrainingStep(progress=progress)
            assert objective.needs_teacher_at(moment) == ("kd" in terms)
            assert set(objective(student, example, torch.tensor([0, 1]), None, moment)[1]) == terms
    assert teacher.calls == asked + 2


def test_a_loss_without_weight_costs_no_pass_of_the_student(example):
    student, teacher = Counted(small_model(1).eval()), small_model(2)
    late = {"use": "mdcs", "weight": {"use": "scheduled", "begins": 0.5, "ends": 0.6}}
    passes = []
    with Objective(parse_losses(["task", late]), Classification(), student, teacher, example) as objective:
        for progress in (0.0, 1.0):
            before = student.calls
            objective(student, example, torch.tensor([0, 1]), None, TrainingStep(progress=progress))
            passes.append(student.calls - before)
    assert passes == [1, 2], "mdcs reads the samples once more, without augmentation"


def test_a_step_in_which_every_weight_is_zero_goes_back_all_the_same(example):
    student, teacher = small_model(1).eval(), small_model(2)
    ramp = {"use": "kd", "weight": {"use": "scheduled", "ends": 0.1}}
    with Objective(parse_losses([ramp]), Classification(), student, teacher, example) as objective:
        total, terms = objective(student, example, torch.tensor([0, 1]), None, TrainingStep(progress=0.0))
    total.backward()
    assert set(terms) == {"kd"}
    assert float(total.detach()) == 0


def test_gradient_share_holds_a_loss_to_its_share(example):
    """With gradients as they are, one epoch's measurement hits the share: the next epoch's is it."""
    student, teacher = small_model(1).eval(), small_model(2)
    spec = {"use": "kd", "weight": {"use": "gradient_share", "start": 1.0, "share": 0.3, "every": 1}}
    with Objective(parse_losses(["task", spec]), Classification(), student, teacher, example) as objective:
        weight = objective._terms[1].weight
        for epoch in range(3):
            objective(student, example, torch.tensor([0, 1]), None, TrainingStep(step=epoch, epoch=epoch))
    assert float(weight.seen[1] / weight.seen[2]) == pytest.approx(0.3, abs=0.02)
    assert float(weight.weight) != 1.0


def test_gradient_share_moves_at_most_tenfold():
    weight = GradientShare(start=1.0, share=0.9)
    weight.observe(1e-5)
    assert weight.at(TrainingStep(epoch=1)) == pytest.approx(10)
    weight.observe(0.905)
    assert weight.at(TrainingStep(epoch=2)) == pytest.approx(10), "within the tolerance"


class Transformer(torch.nn.Module):
    """Patches of 4x4, two blocks, a class token: tokens of shape (samples, 17, width)."""

    def __init__(self, width=12, blocks=2):
        super().__init__()
        self.patch = torch.nn.Conv2d(1, width, 4, 4)
        self.token = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = torch.nn.Sequential(
            *[torch.nn.TransformerEncoderLayer(width, 2, 16, batch_first=True, dropout=0.0) for _ in range(blocks)]
        )
        self.head = torch.nn.Linear(width, 4)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1))[:, 0])


@pytest.mark.parametrize("name", ["attention", "cwd", "dsi", "ln_hidden", "visible_tokens", "token_relations", "block_mse"])
def test_a_convolutional_student_learns_from_a_transformer(name, example):
    """Maps fold into tokens and tokens into maps; widths and sizes are adapted."""
    if name == "block_mse":
        student, teacher = Transformer(8, 2), Transformer(12, 4)
    else:
        student, teacher = small_model(1), Transformer()
    _, total, _ = call([name], student, teacher, example)
    total.backward()
    assert torch.isfinite(total)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())


def test_a_model_without_a_linear_head_has_no_embedding(example):
    dense = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1))
    with pytest.raises(UserError, match="the student has no such layer on vectors"):
        Objective(parse_losses(["rkd"]), Classification(), dense, small_model(), example)


def test_only_what_a_loss_reads_is_tapped(example):
    """Zero cost when unused: rkd hangs hooks on the heads alone, and no loss leaves a parameter in the student."""
    student, teacher = small_model(1), small_model(2)
    names = [n for n, _ in student.named_parameters()]
    with Objective(parse_losses(["rkd"]), Classification(), student, teacher, example):
        hooked = [n for n, m in student.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == ["linear"]
    objective, *_ = call(["task", "ofa", "cwd"], student, teacher, example)
    assert sum(p.numel() for p in objective.parts.parameters()) > 0
    assert [n for n, _ in student.named_parameters()] == names
    plain = Objective(parse_losses(["task", "kd"]), Classification(), student, teacher, example)
    assert not list(plain.parts.parameters()) and not list(plain.parts.buffers()) and not plain.needs_plain


def test_a_loss_that_reads_the_student_alone_taps_no_teacher(example):
    """The exits of ofa: a teacher without maps will do, and none of its layers is kept."""
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 4))
    _, total, _ = call(["ofa"], small_model(1), flat, example)
    assert torch.isfinite(total)
    teacher = small_model(2)
    with Objective(parse_losses(["ofa"]), Classification(), small_model(1), teacher, example) as objective:
        assert not any(m._forward_hooks for m in teacher.modules())
        assert set(objective.teacher_signals(example, torch.tensor([0, 1]))) == {"teacher_logits"}
