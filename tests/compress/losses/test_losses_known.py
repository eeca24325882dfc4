"""Each loss against an answer worked by hand, and the defects of released code that must not come back."""

import math

import pytest
import torch
from torch import nn

from compress.losses.adversary import Meal
from compress.losses.branches import Ofa
from compress.losses.codes import Codebook
from compress.losses.confidence import collaborative, fer, mdcs, open_set
from compress.losses.controller import Tgeo
from compress.losses.decoupled import dkd, nkd, top_k_ld
from compress.losses.embeddings import Align, MiAlpha, Nd, mutual_information_bound
from compress.losses.features import BlockMse, Cwd, Dsi, Hcl
from compress.losses.fusion import Transkd
from compress.losses.guidance import SelfGt, ratio_parts
from compress.losses.heads import Aspects, DeitLt, Dho
from compress.losses.logits import bd_kd, dist, js
from compress.losses.masks import Acam
from compress.losses.moving import PsKd, Taid
from compress.losses.passes import two_passes
from compress.losses.ranking import pld
from compress.losses.regression import huber, l1, l2
from compress.losses.relations import Ickd, affinity, diswot, edges, rkd, self_similarity, sp
from compress.losses.tokens import LnHidden, VisibleTokens, token_relations
from compress.losses.transport import sinkhorn
from profiles.errors import UserError

LN2, LN3 = math.log(2), math.log(3)
SURE = torch.tensor([[LN3, 0.0]], dtype=torch.float64)  # (3/4, 1/4)
EVEN = torch.zeros(1, 2, dtype=torch.float64)  # (1/2, 1/2)
FORWARD = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL(SURE || EVEN)
REVERSE = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)  # KL(EVEN || SURE)
THREE = torch.tensor([[LN2, 0.0, 0.0]], dtype=torch.float64)  # (1/2, 1/4, 1/4)
FIRST, SECOND, NONE = torch.tensor([0]), torch.tensor([1]), torch.tensor([-1])


def near(value, **tolerance):
    return pytest.approx(value, **{"rel": 1e-6, "abs": 1e-9, **tolerance})


def doubles(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def zeroed(module):
    """With every weight 0: what its own layers say is even."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module.double()


def test_js():
    half = 0.5 * (0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375))
    assert js(EVEN, SURE).item() == near(half + 0.5 * (0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)))
    assert js(EVEN, SURE).item() == near(js(SURE, EVEN).item())
    assert js(doubles([1e4, 0]), doubles([0, 1e4])).item() == near(LN2)


def test_bd_kd_adds_reverse_kl_for_a_student_less_sure_and_forward_kl_for_one_too_sure():
    assert bd_kd(EVEN, SURE, temperature=1.0, extra=1.0).item() == near(FORWARD + 2 * REVERSE)
    # the roles change: KL(t || s) of an even teacher is REVERSE, and it counts twice
    assert bd_kd(SURE, EVEN, temperature=1.0, extra=1.0).item() == near(2 * REVERSE + FORWARD)
    assert bd_kd(EVEN, SURE, temperature=1.0, extra=0.0).item() == near(FORWARD + REVERSE)


def test_dist_of_opposites():
    """Correlation -1 within both samples and both classes: 2 each."""
    student = doubles([LN3, 0], [0, LN3])
    assert dist(student, student.flip(1), temperature=1.0, between=1.0, within=1.0).item() == near(4)


def test_dkd():
    even = torch.zeros_like(THREE)
    first = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    assert dkd(even, THREE, FIRST, temperature=1.0).item() == near(first)
    own = 0.25 * math.log(0.75) + 0.75 * math.log(9 / 8)
    rest = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert dkd(even, THREE, SECOND, temperature=1.0).item() == near(own + 8 * rest)
    assert dkd(even, THREE, NONE).item() == 0


def test_nkd():
    assert nkd(torch.zeros_like(THREE), THREE, FIRST).item() == near(0.5 * LN3 + LN2)


def test_top_k_ld_goes_forward_on_the_first_and_back_on_the_rest():
    assert top_k_ld(EVEN, SURE, k=1).item() == near(0.75 * math.log(1.5) + 0.5 * LN2 - 0.5)
    assert top_k_ld(EVEN, SURE, k=2).item() == near(FORWARD)


def test_pld():
    """An even student: logsumexp over 3, 2 and 1 classes; the teacher's weights in the order label, then its own."""
    even = torch.zeros_like(THREE)
    assert pld(even, THREE, SECOND).item() == near(0.25 * LN3 + 0.5 * LN2)
    assert pld(even, THREE, NONE).item() == near(0.5 * LN3 + 0.25 * LN2)


def test_pld_with_all_weight_on_the_label_is_cross_entropy():
    student = torch.randn(6, 4, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    teacher = 1e3 * nn.functional.one_hot(targets, 4).double()
    assert pld(student, teacher, targets).item() == near(nn.functional.cross_entropy(student, targets).item())


def test_sinkhorn():
    """Two samples far apart and matched: nothing to move. Both classes wrong: each moves a distance of 2."""
    student = doubles([100, 0], [0, 100])
    assert sinkhorn(student, student).item() == near(0, abs=1e-6)
    assert sinkhorn(doubles([100, 0], [100, 0]), doubles([0, 100], [0, 100])).item() == near(2)


def test_sinkhorn_heeds_its_temperature():
    """The released code has a T of 2 whatever is asked (E6)."""
    student, teacher = doubles([1, 0], [0, 1]), doubles([0, 2], [3, 0])
    assert sinkhorn(student, teacher, temperature=1.0).item() != near(sinkhorn(student, teacher, temperature=2.0).item())
    assert sinkhorn(student, teacher, temperature=4.0).item() == near(sinkhorn(student / 2, teacher / 2).item())


def test_taid():
    """At t = 0.4 the mixture of 0 and 2.5 ln 3 is ln 3; the student in it has no gradient."""
    loss, student = Taid(), EVEN.clone().requires_grad_()
    found = loss(student, 2.5 * SURE, 0.0)
    assert found.item() == near(FORWARD)
    found.backward()
    torch.testing.assert_close(student.grad, doubles([-0.25, 0.25]))


def test_taid_goes_along_the_line_and_faster_where_the_loss_falls():
    loss = Taid()
    loss(EVEN, 2.5 * SURE, 0.0)
    assert float(loss.state[0]) == near(0.4 + 5e-4 * 0.5 * 0.6), "no fall yet: sigmoid(0)"
    before, last = float(loss.state[0]), float(loss.state[2])
    now = loss(0.5 * SURE, 2.5 * SURE, 0.0).item()
    mean = 0.01 * (last - now) / last
    assert float(loss.state[0]) == near(before + 5e-4 / (1 + math.exp(-mean)) * (1 - before))
    loss(EVEN, SURE, 0.5)
    assert float(loss.state[0]) == near(0.7)
    loss(EVEN, SURE, 1.0)
    assert float(loss.state[0]) == 1.0


def test_ps_kd():
    """Labels alone at first; then a = 0.8 * 0.5 of what was said: target (0.8, 0.2)."""
    loss = PsKd({"student_logits": EVEN, "samples": 4})
    assert loss(EVEN, FIRST, torch.tensor([2]), 0.9).item() == near(LN2)
    expected = -0.8 * math.log(0.75) - 0.2 * math.log(0.25)
    assert loss(SURE, FIRST, torch.tensor([2]), 0.5).item() == near(expected, rel=1e-3)
    assert loss(SURE, FIRST, torch.tensor([1]), 0.5).item() == near(-math.log(0.75)), "not seen yet"
    with pytest.raises(UserError, match="training split of known size"):
        PsKd({"student_logits": EVEN, "samples": 0})


def test_meal():
    assert Meal({"student_logits": EVEN})(EVEN, SURE).item() == near(LN2)


def test_meals_discriminator_learns_to_tell_and_the_student_to_deceive():
    torch.manual_seed(0)
    loss = Meal({"student_logits": EVEN}, discriminator=1.0).double()
    student, teacher = torch.zeros(8, 2, dtype=torch.float64).requires_grad_(), SURE.expand(8, 2)

    def told():
        judged = [loss.judge(z.softmax(1)) for z in (student, teacher)]
        return nn.functional.softplus(judged[0]).mean() + nn.functional.softplus(-judged[1]).mean()

    own = torch.autograd.grad(told(), [*loss.judge.parameters(), student])
    plain = torch.autograd.grad(Meal({"student_logits": EVEN})(student, teacher), student)[0]
    found = torch.autograd.grad(loss(student, teacher), [*loss.judge.parameters(), student])
    for mine, theirs in zip(found[:-1], own[:-1], strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(found[-1] - plain, -own[-1])


def test_fer_by_how_sure_the_teacher_is():
    """The student gives class 0 a half and the nine others 1/18. Sure: the soft label. Less: the label. Blind: nothing."""
    student = torch.zeros(3, 10, dtype=torch.float64)
    student[:, 0] = math.log(9)
    teacher = torch.zeros(3, 10, dtype=torch.float64)
    teacher[0, 0], teacher[1, 0] = 100, math.log(0.3 / (0.7 / 9))
    targets = torch.tensor([3, 1, 1])
    assert fer(student, teacher, targets, smoothing=0.0).item() == near((LN2 + math.log(18)) / 2)
    smoothed = 0.9 * math.log(18) + 0.1 * (0.1 * LN2 + 0.9 * math.log(18))
    assert fer(student, teacher, targets).item() == near((LN2 + smoothed) / 2)


def test_mdcs_learns_from_views_that_are_right():
    student = doubles([0, 0], [0, 0])
    plain = doubles([LN3, 0], [LN3, 0])
    assert mdcs(student, plain, torch.tensor([0, 1])).item() == near(FORWARD)
    assert mdcs(student, plain, torch.tensor([1, 1])).item() == 0


def test_two_passes():
    """Of one vector a sample over its classes, of a map over the places of each class."""
    assert two_passes(EVEN, SURE, temperature=1.0).item() == near(FORWARD + REVERSE)
    maps = torch.stack([EVEN[0], SURE[0]], -1)[None], torch.zeros(1, 2, 2, dtype=torch.float64)  # (1, 2 places, 2 classes)
    assert two_passes(*maps, temperature=1.0).item() == near((FORWARD + REVERSE) / 2), "the first class is even in both"
    assert two_passes(maps[0] + torch.tensor([3.0, -1.0]), maps[1], temperature=1.0).item() == near((FORWARD + REVERSE) / 2)


def test_open_set_leaves_out_what_nobody_finds_familiar():
    """Confidence 1/2 * 3/4 and 1/2 * 1/2: the second is below their mean, unless it has a label."""
    student, teacher = EVEN.expand(2, 2), torch.cat([SURE, EVEN])
    assert open_set(student, teacher, torch.tensor([-1, -1]), temperature=1.0).item() == near(FORWARD)
    assert open_set(student, teacher, torch.tensor([-1, 0]), temperature=1.0).item() == near(FORWARD / 2)


def test_collaborative_learns_where_the_teacher_is_better():
    student = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    found = collaborative(student, SURE.expand(2, 2), torch.tensor([0, 1]))
    assert found.item() == near(FORWARD)
    found.backward()
    assert student.grad[0].abs().max() > 0 and student.grad[1].abs().max() == 0


def test_collaborative_by_regions():
    """In three of a region's places the teacher is better by a little, in one worse by much: places yes, region no."""
    teacher = SURE.expand(1, 2, 2, 2).clone()
    teacher[0, 1, 1, 0] = 5.0
    targets = torch.tensor([[[0, 0], [0, 1]]])
    student = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    assert collaborative(student, teacher, targets, regions=1).item() == near(FORWARD)


def learn(loss, steps, *given):
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(*given).backward()
        optimizer.step()


def test_tgeo_learns_to_trust_the_teacher_where_it_is_right():
    """The released controller gets no gradient (E2).

    Even samples have a sure teacher that is right and wrong labels, odd ones a weak teacher that is wrong and right labels;
    what is held out has its true label.
    """
    torch.manual_seed(0)
    number = torch.arange(80)
    truth, even, held = number // 2 % 2, number % 2 == 0, number % 5 == 4
    said, sure = torch.where(even, truth, 1 - truth), torch.where(even, 4.0, 1.0)
    teacher = sure[:, None].double() * nn.functional.one_hot(said, 2)
    targets = torch.where(even & ~held, 1 - truth, truth)
    # an embedding by which a sample is near those of its class and of its kind of teacher
    kind = nn.functional.one_hot(2 * truth + even.long(), 4).double()
    student = 0.1 * torch.randn(80, 2, dtype=torch.float64)
    loss = Tgeo({"student_logits": student}, held=5).double()
    shares = []
    for steps in (0, 150):
        learn(loss, steps, student, teacher, kind, targets)
        found = loss.shares(student, teacher, targets, targets >= 0).detach()
        shares.append(float(found[even & ~held].mean() - found[~even & ~held].mean()))
    assert abs(shares[0]) < 0.2
    assert shares[1] > 0.5


def test_tgeo_mixes_by_the_controllers_share():
    loss = zeroed(Tgeo({"student_logits": EVEN}, temperature=1.0))
    assert loss(EVEN, SURE, EVEN, FIRST).item() == near(0.5 * FORWARD + 0.5 * LN2)
    assert loss(EVEN, SURE, EVEN, NONE).item() == near(FORWARD), "without a label the teacher alone"


def test_self_gt():
    example = {"student_logits": EVEN, "student_embedding": EVEN}
    loss = SelfGt(example, share=0.35)
    assert loss(EVEN, SURE, EVEN, FIRST).item() == near(0.35 * 0.25 + 0.65 * 0.0625)


def test_self_gt_finds_the_best_mixture_in_closed_form():
    h, g = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    top, bottom = ratio_parts(0.3 * h + 0.7 * g, h, g)
    assert (top / bottom).item() == near(0.3)


def test_self_gt_trusts_labels_when_the_teacher_tells_nothing_of_them():
    torch.manual_seed(0)
    loss = SelfGt({"student_logits": torch.zeros(1, 2), "student_embedding": torch.zeros(1, 4)})
    for _ in range(5):
        targets = torch.randint(0, 2, (50,))
        embedding = torch.randn(50, 4) + 2 * targets[:, None]
        loss(torch.zeros(50, 2), 3 * torch.randn(50, 2), embedding, targets)
    assert float(loss.ratio[0] / loss.ratio[1]) > 0.8


def heads_example(samples=4):
    return {"student_logits": EVEN, "student_embedding": EVEN, "samples": samples}


def test_dho():
    loss = zeroed(Dho(heads_example()))
    assert loss(EVEN, 2 * SURE, EVEN, FIRST).item() == near(0.5 * LN2 + 0.5 * 4 * FORWARD)
    assert loss(EVEN, 2 * SURE, EVEN, NONE).item() == near(0.5 * 4 * FORWARD)


def test_dho_adds_the_mean_over_labelled_samples_and_that_over_the_others():
    """Two labelled samples of KL FORWARD and 0, one unlabelled of FORWARD: 1/2 and 1 of it; T = 3, so T^2 = 9."""
    loss = zeroed(Dho(heads_example(), share=0.3, temperature=3.0))
    student, teacher = EVEN.expand(3, 2), torch.cat([3 * SURE, EVEN, 3 * SURE])
    expected = 0.3 * LN2 + 0.7 * 9 * (FORWARD / 2 + FORWARD)
    assert loss(student, teacher, student, torch.tensor([0, 1, -1])).item() == near(expected)


def test_deit_lt_weighs_samples_not_log_probabilities():
    """Labels 0, 0, 0, 1 and b = 1/2: weights 8/11 and 14/11. The released soft variant weighs log p (E8)."""
    loss = zeroed(DeitLt(heads_example(), rarity=0.5))
    student, teacher = EVEN.expand(4, 2), SURE.flip(1).expand(4, 2)
    targets = torch.tensor([0, 0, 0, 1])
    assert loss(student, teacher, student, targets, 0.0).item() == near(LN2)
    torch.testing.assert_close(loss.weights(), torch.tensor([8 / 11, 14 / 11], dtype=torch.float64))
    loss.counts.zero_()
    assert loss(student, teacher, student, targets, 0.95).item() == near(0.5 * LN2 + 0.5 * 14 / 11 * LN2)


def test_aspects(tmp_path):
    import numpy as np

    np.save(tmp_path / "a.npy", np.array([[0.5, 1.0], [np.nan, 0.0], [0, 0], [0, 0]]))
    loss = zeroed(Aspects(heads_example(), answers=str(tmp_path / "a.npy")))
    with torch.no_grad():
        loss.head.bias.copy_(torch.tensor([0.0, LN3]))
    # answers 1/2 at p = 1/2, 1 and 0 at p = 3/4; what was not asked does not count
    expected = (LN2 - math.log(0.75) - math.log(0.25)) / 3
    assert loss(EVEN.expand(2, 2), torch.tensor([0, 1])).item() == near(expected)
    with pytest.raises(UserError, match=r"has the shape \(4, 2\); the split asks for \(7, questions\)"):
        Aspects(heads_example(7), answers=str(tmp_path / "a.npy"))
    with pytest.raises(UserError, match="answers is a .npy file"):
        Aspects(heads_example(), answers=str(tmp_path / "none.npy"))


def maps(*planes):
    """One sample, a channel each plane, each plane a list of rows."""
    return torch.tensor([planes], dtype=torch.float64)


def test_ofa():
    example = {"student_logits": EVEN, "student_features": [torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 2, 2)]}
    features = [f.double() for f in example["student_features"]]
    assert zeroed(Ofa(example))(EVEN, SURE, features, FIRST).item() == near(3 * LN2)
    assert zeroed(Ofa(example, eps=2.0))(EVEN, SURE, features, FIRST).item() == near(3 * (1.75**2 - 1 + 0.0625) * LN2)


def test_sp():
    """Similarities: none of two samples against all of two samples."""
    student = torch.eye(2, dtype=torch.float64).reshape(2, 2, 1, 1)
    teacher = torch.ones(2, 3, 1, 1, dtype=torch.float64)
    assert sp([student], [teacher]).item() == near((2 - math.sqrt(2)) / 2)


def test_ickd():
    student, teacher = maps([[1, 0]], [[0, 1]]), maps([[1, 0]], [[1, 0]])
    loss = Ickd({"student_features": [student], "teacher_features": [teacher]})
    assert loss([student], [teacher]).item() == near(2 - math.sqrt(2))


def test_rkd():
    """Points 0, 1, 2 on a line against a triangle of equal sides."""
    line = doubles([0.0], [1.0], [2.0])
    triangle = doubles([0, 0], [1, 0], [0.5, math.sqrt(0.75)])
    assert rkd(line, triangle, distance=1.0, angle=0.0).item() == near(0.375 / 9)
    assert rkd(line, triangle, distance=0.0, angle=1.0).item() == near(2 * 1.25 / 27)


def test_diswot_has_both_metrics_and_takes_unequal_widths():
    """Equal heads: the relation alone. The released code has one metric, and a Gram that needs equal widths (E4)."""
    student, teacher = torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.randn(4, 5, 2, 2, dtype=torch.float64)
    logits, embedding = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    wide = torch.cat([embedding, embedding], 1)
    targets = torch.tensor([0, 1, 2, 0])
    relation = diswot([student], [teacher], logits, logits, embedding, wide, targets).item()
    assert relation == near(sp([student], [teacher]).item())
    assert diswot([student], [teacher], logits, logits.flip(0), embedding, wide, targets).item() > relation


def test_diswots_slope_is_the_gradient_of_the_last_layer():
    embedding, targets = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    logits = embedding @ weight.T
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits, targets), weight)
    wrong = logits.softmax(1) - nn.functional.one_hot(targets, 3)
    torch.testing.assert_close(wrong.T @ embedding / 5, slope)


def test_affinity_of_a_student_that_tells_nothing_apart():
    assert affinity(torch.ones(3, 2, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)).item() == near(LN2)


def test_edges():
    """Two samples, each the other's neighbour: what they share, and how they differ."""
    teacher, student, embedding = doubles([LN3, 0], [0, 0]), doubles([0, 0], [0, 0]), torch.eye(2, dtype=torch.float64)
    assert edges(student, teacher, embedding, temperature=1.0, low=0.0).item() == near(FORWARD)
    assert edges(student, SURE.expand(2, 2), embedding, high=0.0).item() == near(FORWARD)


def test_codebook():
    """Codes at 0 and 4, T = 4 / ln 3: at 0 assigned (3/4, 1/4), in the middle evenly."""
    teacher = doubles([0.0], [4.0])
    temperature = 4 / LN3
    example = {"student_embedding": teacher, "teacher_embedding": teacher}
    loss = Codebook(example, size=2, temperature=temperature, memory=1.0).double()
    assert loss(doubles([2.0], [4.0]), teacher).item() == near(temperature**2 * FORWARD / 2)


def test_codebook_follows_the_teacher():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    loss = Codebook({"student_embedding": centres, "teacher_embedding": centres}, size=3, memory=0.9)
    for _ in range(60):
        points = centres.repeat(8, 1) + torch.randn(24, 2)
        loss(points, points)
    nearest = (centres[:, None] - loss.codes[None]).norm(dim=2).min(dim=1).values
    assert nearest.max() < 1.5


def test_token_relations():
    """Products (ln 3, 0; 0, 0): the first token looks at itself for 3/4, the second at both."""
    teacher, student = doubles([[math.sqrt(LN3)], [0.0]])[None][0], torch.zeros(1, 2, 1, dtype=torch.float64)
    assert token_relations([student], [teacher]).item() == near(FORWARD / 2)
    fused = torch.tensor([[[LN3, 1.0, 0.0], [0, 0, 0]]], dtype=torch.float64)
    assert token_relations([torch.zeros_like(fused)], [fused], fused=True).item() == near(FORWARD / 2)


def test_self_similarity():
    """Two regions without likeness against two alike: a difference of 1 in two of four cosines."""
    student, teacher = maps([[1, 0]], [[0, 1]]), maps([[2, 2]])
    assert self_similarity([student], [teacher]).item() == near(0.5)


def test_cwd():
    student, teacher = maps([[0, 0]]), maps([[LN3, 0]])
    loss = Cwd({"student_features": [student], "teacher_features": [teacher]}, temperature=1.0)
    assert loss([student], [teacher]).item() == near(FORWARD)


def test_hcl():
    """A difference of 2 everywhere is 4 on both levels; one that cancels is 1 on the first, of weight 2/3."""
    teacher = maps([[0, 0], [0, 0]])
    loss = Hcl({"student_features": [teacher], "teacher_features": [teacher]})
    assert loss([teacher + 2], [teacher]).item() == near(4)
    assert loss([maps([[1, -1], [1, -1]])], [teacher]).item() == near(2 / 3)


def test_dsi():
    student, teacher = maps([[1, 1]], [[0, 0]]), maps([[0, 5]], [[5, 0]])
    loss = Dsi({"student_features": [student], "teacher_features": [teacher]})
    assert loss([student], [teacher]).item() == near(0.5)


def test_block_mse_is_the_mean_over_blocks():
    zero = maps([[0, 0]])
    loss = BlockMse({"student_blocks": [zero, zero], "teacher_blocks": [zero, zero]})
    assert loss([zero + 2, zero], [zero, zero]).item() == near(2)


def test_transkd():
    """Nothing fused: levels of a constant 2, and the last stage's share of 1 of its mean square."""
    student, teacher = maps([[0, 0], [0, 0]]), maps([[2, 2], [2, 2]])
    loss = zeroed(Transkd({"student_features": [student], "teacher_features": [teacher]}))
    assert loss([student], [teacher]).item() == near(8)


def test_transkd_compares_patch_embeddings_where_layers_name_them():
    """The stages agree; their embeddings are 3 apart, in the last stage's share of 1, ``embed`` = 0.5: 0.5 * 9."""
    same, far = maps([[0, 0], [0, 0]]), maps([[3, 3], [3, 3]])
    example = {"student_features": [same, same], "teacher_features": [same, far]}
    loss = zeroed(Transkd(example, embed=0.5, patch_embeddings=True))
    assert loss([same, same], [same, far]).item() == near(4.5)
    with pytest.raises(UserError, match="given: 3 pairs"):
        Transkd({name: [same] * 3 for name in example}, patch_embeddings=True)


def test_acams_masks_part_and_do_not_become_0_or_1_throughout():
    """They learn from their overlap alone. A mask that is the same everywhere says nothing of where to look."""
    torch.manual_seed(0)
    teacher, student = (torch.relu(torch.randn(8, 16, 6, 6)) for _ in range(2))
    loss = Acam({"student_features": [student], "teacher_features": [teacher]})
    learn(loss, 200, [student], [teacher])
    for masks in loss._masks(0, student, teacher):
        values = masks.detach().flatten(2)
        assert (values.std(2).mean(0) > 0.1).all()
        assert ((values.mean((0, 2)) > 0.3) & (values.mean((0, 2)) < 0.7)).all()


def test_acam():
    """Even masks: the plain mean square, once by channels and once by places; two equal masks overlap wholly."""
    student, teacher = maps([[0, 0]], [[0, 0]]), maps([[2, 2]], [[2, 2]])
    loss = zeroed(Acam({"student_features": [student], "teacher_features": [teacher]}, units=2))
    assert loss([student], [teacher]).item() == near(4 + 4 + 2)


def test_visible_tokens():
    student, teacher = doubles([[1, 0], [1, 0]]), doubles([[0, 3], [0, 3]])
    loss = VisibleTokens({"student_tokens": [student], "teacher_tokens": [teacher]})
    assert loss([student], [teacher]).item() == near(1)


def test_ln_hidden_has_a_term_that_counts():
    """Normalised to +-1, beta 2: 1/4. The released code multiplies a second term by 0 (E7)."""
    teacher = doubles([[300.0, -300], [300, -300]])
    loss = zeroed(LnHidden({"student_tokens": [teacher], "teacher_tokens": [teacher]}))
    found = loss([torch.zeros_like(teacher)], [teacher])
    assert found.item() == near(0.25, rel=1e-3)
    found.backward()
    assert loss.adapter.bias.grad.abs().max() > 0


@pytest.mark.parametrize(("student", "expected"), [((1, 0), 1.0), ((0, 2), 0.0), ((0, 1), 0.5), ((0, 4), 0.0)])
def test_nd(student, expected):
    """The class lies along (0, 1), the teacher is 2 long: direction, and length up to the teacher's."""
    teacher, student = doubles([0.0, 2.0]), doubles([float(x) for x in student])
    loss = Nd({"student_embedding": student, "teacher_embedding": teacher, "student_logits": EVEN}).double()
    assert loss(student, teacher, EVEN, FIRST).item() == near(expected)


def test_mi_alpha():
    critic = torch.diag(doubles(LN3, LN3)[0:2].reshape(-1))
    assert mutual_information_bound(torch.zeros(4, 4, dtype=torch.float64), 0.5).item() == near(0)
    # one sample has no other: 1 + f - log(e^f / 2 + 1 / 2)
    assert mutual_information_bound(doubles([LN3]), 0.5).item() == near(1 + LN3 - LN2)
    # joint: m = (3 + 1) / 2; marginal: of the one other sample, e^0 over a * 1 + (1 - a)
    assert mutual_information_bound(critic, 1.0).item() == near(1 + math.log(3 / 2) - 1)
    assert mutual_information_bound(critic, 0.5).item() == near(1 + math.log(3 / 1.5) - 1)
    assert mutual_information_bound(critic, 0.0).item() == near(1 + LN3 - 1)


@pytest.mark.parametrize("alpha", [1.0, 0.9, 0.5])
def test_mi_alpha_is_a_lower_bound_of_information_that_is_known(alpha):
    """x = y, uniform over 4: log 4 nats; the critic is the best there is, log p(y | x) / p(y)."""
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(2000):
        y = torch.randint(0, 4, (8,), generator=generator)
        critic = torch.where(y[:, None] == y[None], math.log(4), -20.0).double()
        draws.append(mutual_information_bound(critic, alpha).item())
    deviation = torch.tensor(draws).std().item() / len(draws) ** 0.5
    assert sum(draws) / len(draws) <= math.log(4) + 3 * deviation
    assert mutual_information_bound(20 * torch.eye(8).double(), 1.0).item() <= math.log(8) + 1e-9


def test_mi_alpha_learns_that_two_embeddings_belong_together():
    torch.manual_seed(0)
    student = torch.randn(32, 4)
    teacher = student @ torch.randn(4, 6)
    loss = MiAlpha({"student_embedding": student, "teacher_embedding": teacher})
    learn(loss, 100, student, teacher)
    mixed = teacher[torch.randperm(32)]
    assert float(loss(student, teacher).detach()) < -1.0 < float(loss(student, mixed).detach())


def test_align(tmp_path):
    import numpy as np

    np.save(tmp_path / "texts.npy", np.eye(2))
    example = {"student_embedding": EVEN, "teacher_embedding": EVEN, "student_logits": EVEN, "samples": 4}
    loss = zeroed(Align(example, texts=str(tmp_path / "texts.npy")))
    with torch.no_grad():
        loss.adapter.bias.copy_(torch.tensor([1.0, 0]))
    teacher, at = doubles([0.0, 1.0]), torch.tensor([0])
    assert loss(EVEN, teacher, EVEN, FIRST, at).item() == near(0.5 * 1 + 0.5 * 0)
    assert loss(EVEN, teacher, EVEN, SECOND, at).item() == near(1)
    np.save(tmp_path / "images.npy", np.ones((4, 3)))
    with pytest.raises(UserError, match="both 3 wide"):
        Align(example, texts=str(tmp_path / "texts.npy"), images=str(tmp_path / "images.npy"))


def test_regression_losses_of_outputs_by_hand():
    """Differences 3, 0.5, -1 and 0: |d| 4.5, d^2 10.25; Huber at 1: 2.5 + 0.125 + 0.5, at 2: 4 + 0.125 + 0.5; of four."""
    student, teacher = doubles([4.0, 1.5], [0.0, 7.0]), doubles([1.0, 1.0], [1.0, 7.0])
    assert l1(student, teacher).item() == near(4.5 / 4)
    assert l2(student, teacher).item() == near(10.25 / 4)
    assert huber(student, teacher).item() == near(3.125 / 4)
    assert huber(student, teacher, delta=2.0).item() == near(4.625 / 4)
