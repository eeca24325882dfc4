"""Every loss at two settings that are not neutral, against the sum of its definition written out.

Student and teacher differ and are not mirror images; temperatures and weights are not 1; some samples have no label; there
is more than one pair of layers where a loss adds them. A factor that is dropped or two arguments that are swapped show.
"""

import math

import numpy as np
import pytest
import torch

from compress.losses import LOSSES
from compress.losses.adversary import Meal
from compress.losses.boxes import boxes, matched_queries, sides
from compress.losses.branches import Ofa
from compress.losses.codes import Codebook
from compress.losses.confidence import collaborative, fer, mdcs, open_set, pseudo_labels
from compress.losses.controller import Tgeo
from compress.losses.decoupled import dkd, nkd, top_k_ld
from compress.losses.distances import dbr
from compress.losses.embeddings import Align, MiAlpha, Nd, mutual_information_bound
from compress.losses.features import BlockMse, Cwd, Dsi, Hcl, attention
from compress.losses.fusion import Transkd
from compress.losses.guidance import SelfGt
from compress.losses.heads import Aspects, DeitLt, Dho
from compress.losses.logits import bce_kd, bd_kd, dist, js, kd
from compress.losses.masks import Acam, _overlap, _standardised
from compress.losses.moving import PsKd, Taid
from compress.losses.objects import keypoints, masks
from compress.losses.passes import two_passes
from compress.losses.ranking import pld
from compress.losses.regression import huber, l1, l2, pooled_logits
from compress.losses.relations import Ickd, affinity, diswot, edges, rkd, self_similarity, sp
from compress.losses.task import task
from compress.losses.tokens import LnHidden, VisibleTokens, token_relations
from compress.losses.transport import sinkhorn
from tests.compress.losses.test_losses_known import EVEN, LN2, LN3, SURE, doubles, maps, near, zeroed

S = doubles([LN2, 0, 0], [0, 0, LN3])
T = doubles([0, LN2, LN3], [0, LN2, 0])
OURS, THEIRS = ((1 / 2, 1 / 4, 1 / 4), (1 / 5, 1 / 5, 3 / 5)), ((1 / 6, 1 / 3, 1 / 2), (1 / 4, 1 / 2, 1 / 4))
HALF_KNOWN = torch.tensor([2, -1])
ROOT = math.sqrt(0.5)


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def entropy(p):
    return -sum(a * math.log(a) for a in p)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


FORWARD = [kl(t, s) for s, t in zip(OURS, THEIRS, strict=True)]
REVERSE = [kl(s, t) for s, t in zip(OURS, THEIRS, strict=True)]


def of_task(folder):
    yield task(torch.tensor(2.5)), 2.5
    yield task(torch.tensor(0.3, dtype=torch.float64)), 0.3


def of_kd(folder):
    for t in (2.0, 3.0):
        yield kd(t * S, t * T, temperature=t), t * t * mean(FORWARD)


def of_bce_kd(folder):
    """Softened by 2: student (3/4, 1/2), then even, teacher (1/2, 2/3), then (1/3, 1/4); unsoftened at most 4/5, 1/5."""
    student, teacher = doubles([LN3, 0], [0, 0]), doubles([0, LN2], [-LN2, -LN3])
    one = kl((1 / 2, 1 / 2), (3 / 4, 1 / 4)) + kl((2 / 3, 1 / 3), (1 / 2, 1 / 2))
    two = kl((1 / 3, 2 / 3), (1 / 2, 1 / 2)) + kl((1 / 4, 3 / 4), (1 / 2, 1 / 2))
    for rest in (0.2, 0.5):
        weights = [rest + (1 - rest) * 4 / 5, rest + (1 - rest) / 5]
        expected = 4 * (weights[0] * one + weights[1] * two) / sum(weights)
        yield bce_kd(2 * student, 2 * teacher, temperature=2.0, rest=rest), expected


def of_js(folder):
    middle = [[(a + b) / 2 for a, b in zip(s, t, strict=True)] for s, t in zip(OURS, THEIRS, strict=True)]
    both = [kl(s, m) / 2 + kl(t, m) / 2 for s, t, m in zip(OURS, THEIRS, middle, strict=True)]
    for t in (2.0, 3.0):
        yield js(t * S, t * T, temperature=t), t * t * mean(both)


def of_bd_kd(folder):
    """The first student is less sure than its teacher (1.04 to 1.01 nats), the second surer (0.95 to 1.04)."""
    assert entropy(OURS[0]) > entropy(THEIRS[0]) and entropy(OURS[1]) < entropy(THEIRS[1])
    for t, extra in ((2.0, 0.5), (3.0, 2.0)):
        each = [FORWARD[0] + (1 + extra) * REVERSE[0], (1 + extra) * FORWARD[1] + REVERSE[1]]
        yield bd_kd(t * S, t * T, temperature=t, extra=extra), t * t * mean(each)


def of_dist(folder):
    rows = mean(1 - np.corrcoef(s, t)[0, 1] for s, t in zip(OURS, THEIRS, strict=True))
    columns = mean(1 - np.sign((a[1] - a[0]) * (b[1] - b[0])) for a, b in zip(zip(*OURS), zip(*THEIRS), strict=True))  # noqa: B905
    for t, between, within in ((2.0, 0.5, 3.0), (3.0, 2.0, 0.25)):
        found = dist(t * S, t * T, temperature=t, between=between, within=within)
        yield found, t * t * (between * rows + within * columns)


def of_dkd(folder):
    """Label 2: of student 1/4 to 3/4 and then (2/3, 1/3), of teacher 1/2 to 1/2 and then (1/3, 2/3); the other has none."""
    label, rest = kl((1 / 2, 1 / 2), (1 / 4, 3 / 4)), kl((1 / 3, 2 / 3), (2 / 3, 1 / 3))
    for t, target, others in ((2.0, 0.5, 3.0), (3.0, 2.0, 0.25)):
        found = dkd(t * S, t * T, HALF_KNOWN, temperature=t, target=target, others=others)
        yield found, t * t * (target * label + others * rest)


def of_nkd(folder):
    """Unsoftened, logits twice as large are (4, 1, 1) / 6 and (1, 4, 9) / 14; thrice (8, 1, 1) / 10 and (1, 8, 27) / 36."""
    rest = -(1 / 3 * math.log(2 / 3) + 2 / 3 * math.log(1 / 3))
    for t, others, first in ((2.0, 1.5, 9 / 14 * math.log(6)), (3.0, 0.5, 27 / 36 * math.log(10))):
        yield nkd(t * S, t * T, HALF_KNOWN, temperature=t, others=others), first + others * t * t * rest


def of_top_k_ld(folder):
    def term(p, q):
        return p * math.log(p / q) - p + q

    for t, k in ((2.0, 1), (3.0, 2)):
        total = 0.0
        for s, z in zip(OURS, THEIRS, strict=True):
            first = sorted(range(3), key=lambda c, z=z: -z[c])[:k]
            total += sum(term(z[c], s[c]) if c in first else term(s[c], z[c]) for c in range(3))
        yield top_k_ld(t * S, t * T, k=k, temperature=t), t * t * total / 2


def of_ofa(folder):
    """(t + 1)^e - 1 at the label of the first, t^e elsewhere; its one exit is even over three classes."""
    example = {"student_logits": S, "student_features": [torch.zeros(2, 2, 2, 2)]}
    features = [torch.zeros(2, 2, 2, 2, dtype=torch.float64)]
    for t, eps in ((2.0, 2.0), (3.0, 1.5)):
        target = [[p**eps for p in row] for row in THEIRS]
        target[0][2] = (1 / 2 + 1) ** eps - 1
        end = mean(-sum(a * math.log(b) for a, b in zip(row, s, strict=True)) for row, s in zip(target, OURS, strict=True))
        found = zeroed(Ofa(example, eps=eps, temperature=t))(t * S, t * T, features, HALF_KNOWN)
        yield found, end + LN3 * mean(map(sum, target))


def of_pld(folder):
    """Orders (1, 2, 0) by the label, and (1, 0, 2); the student's share of what is left: 1/4, 1/3 of it; 1/5, 1/4."""
    first, second = 1 / 3 * math.log(4) + 1 / 2 * LN3, 1 / 2 * math.log(5) + 1 / 4 * math.log(4)
    for t in (2.0, 3.0):
        yield pld(S, t * T, torch.tensor([1, -1]), temperature=t), (first + second) / 2


def of_sinkhorn(folder):
    """(3/4, 1/4) and its mirror image against (3/5, 2/5) and its own: 0.3 to one's own, 0.7 to the other."""
    student, teacher = doubles([LN3, 0], [0, LN3]), doubles([math.log(1.5), 0], [0, math.log(1.5)])
    for t, smoothing in ((3.0, 0.2), (1.5, 0.5)):
        near_by, far = math.exp(-0.3 / smoothing), math.exp(-0.7 / smoothing)
        expected = (0.3 * near_by + 0.7 * far) / (near_by + far)
        yield sinkhorn(t * student, t * teacher, temperature=t, smoothing=smoothing), expected


def of_meal(folder):
    cross = mean(f + entropy(t) for f, t in zip(FORWARD, THEIRS, strict=True))
    yield Meal({"student_logits": S})(S, T), cross
    yield zeroed(Meal({"student_logits": S}, discriminator=0.3))(S, T), cross + 0.3 * 2 * LN2


def of_taid(folder):
    """The teacher lies so that the mixture at t has the probabilities of ``THEIRS``."""
    for start in (0.2, 0.4):
        loss = Taid(start=start, end=0.9, step=0.1, momentum=0.5)
        yield loss(S, (T - (1 - start) * S) / start, 0.0), mean(FORWARD)
        yield float(loss.state[0]), start + 0.1 * (1 - start) / 2
        t = float(loss.state[0])
        # all of the loss is gone: a fall of 1, of which momentum keeps a half
        yield loss(S, S, 0.0), 0.0
        yield float(loss.state[0]), t + 0.1 * (1 - t) / (1 + math.exp(-0.5))
        loss(S, T, 0.5)
        yield float(loss.state[0]), start + (0.9 - start) / 2


def of_ps_kd(folder):
    """Said at first: (1/2, 1/4, 1/4); then it is half trusted by 0.6. What has no label is not asked."""
    seen = torch.tensor([1, 0])
    for share, progress in ((0.6, 0.5), (0.5, 0.8)):
        loss, trust = PsKd({"student_logits": S, "samples": 3}, share=share), share * progress
        yield loss(S, HALF_KNOWN, seen, progress), math.log(4)
        target = [trust / 2, trust / 4, 1 - trust + trust / 4]
        yield loss(T, HALF_KNOWN, seen, progress), sum(a * -math.log(b) for a, b in zip(target, THEIRS[0], strict=True))


def of_fer(folder):
    """The teacher is 1/2 sure of both. Trusted: its labels. Not: smoothed labels, and its own where there is none."""
    soft = [f + entropy(t) for f, t in zip(FORWARD, THEIRS, strict=True)]
    yield fer(S, T, HALF_KNOWN, discard=0.3, distrust=0.4), mean(soft)
    hard = [0.2 / 3, 0.2 / 3, 0.8 + 0.2 / 3]
    first = sum(a * -math.log(b) for a, b in zip(hard, OURS[0], strict=True))
    yield fer(S, T, HALF_KNOWN, discard=0.3, distrust=0.7, smoothing=0.2), (first + soft[1]) / 2


def of_pooled_logits(folder):
    """Two places (1, 4) and (3, 0) have a mean of (2, 2), one has (5, 1): 3 and 1 apart. Vectors are apart by class."""
    yield pooled_logits(doubles([[[1, 4], [3, 0]]]), doubles([[[5, 1]]])), (3 + 1) / 2
    yield pooled_logits(S, T), (LN2 + LN2 + LN3 + LN2 + LN3) / 6


def of_masks(folder):
    """Cells of 2 pixels. The surest place's box holds two: the teacher's logits are ln 3 and 0, the student's 0 and ln 2.

    The next one's holds the first of them alone, of which its coefficient of 2 makes 2 ln 3, the student's of 1 nothing.
    """
    prototypes = {
        "teacher": doubles([[LN3, 0.0], [7.0, 7.0]])[None],
        "student": doubles([[0.0, LN2], [5.0, 5.0]])[None],
    }
    coefficients = {"teacher": doubles([[1.0], [2.0], [9.0]]), "student": doubles([[1.0], [1.0], [3.0]])}
    boxes, logits = doubles([[0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 4, 4]]), doubles([[LN3, 0], [0, -LN2], [-LN3, -LN3]])
    given = [coefficients["student"], prototypes["student"], coefficients["teacher"], prototypes["teacher"], boxes, logits]
    one = (kl((3 / 4, 1 / 4), (1 / 2, 1 / 2)) + kl((1 / 2, 1 / 2), (2 / 3, 1 / 3))) / 2
    two = kl((9 / 10, 1 / 10), (1 / 2, 1 / 2))
    yield masks(*given, most=1, stride=2.0), one
    weights = ((3 / 4) ** 3, (1 / 2) ** 3)
    expected = (weights[0] * one + weights[1] * two) / sum(weights)
    yield masks(*given, most=2, stride=2.0, sharpness=3.0), expected


def of_keypoints(folder):
    """A box of 4 x 5; the first point 2 off to one side and surely there, the second right and half there."""
    student = doubles([[[3, 1, 1 / 2], [4, 4, 1 / 3]], [[0, 0, 1 / 4], [8, 6, 1 / 2]]])
    teacher = doubles([[[1, 1, 3 / 4], [4, 4, 1 / 2]], [[0, 3, 1 / 4], [8, 6, 1 / 2]]])
    boxes, logits = doubles([[0, 0, 4, 5], [0, 0, 10, 1]]), doubles([[LN3], [0]])
    for spread, sharpness in ((0.1, 1.0), (0.5, 3.0)):
        first = 3 / 4 * (math.sqrt(1 + 4 / (20 * spread**2)) - 1) / (3 / 4 + 1 / 2)
        first += (kl((3 / 4, 1 / 4), (1 / 2, 1 / 2)) + kl((1 / 2, 1 / 2), (1 / 3, 2 / 3))) / 2
        second = 1 / 4 * (math.sqrt(1 + 9 / (10 * spread**2)) - 1) / (3 / 4)
        weights = ((3 / 4) ** sharpness, (1 / 2) ** sharpness)
        expected = (weights[0] * first + weights[1] * second) / sum(weights)
        yield keypoints(student, teacher, boxes, logits, spread=spread, sharpness=sharpness), expected


def of_pseudo_labels(folder):
    """Sharpened the teacher is 9/14 sure of class 2 and 4/6 of class 1, where the student has 1/4 and 1/5."""
    none = torch.tensor([-1, -1])
    yield pseudo_labels(S, 2 * T, HALF_KNOWN, confidence=0.5), math.log(5)
    yield pseudo_labels(S, 2 * T, none, confidence=0.6), (math.log(4) + math.log(5)) / 2
    yield pseudo_labels(S, 2 * T, none, confidence=0.65), math.log(5)
    yield pseudo_labels(S, 2 * T, none, confidence=0.7), 0.0
    words = torch.tensor([[-1, -2, 1]])
    both = [torch.stack([z[0], z[0], z[1]])[None] for z in (S, 2 * T)]
    yield pseudo_labels(*both, words, confidence=0.6), math.log(4)
    student, teacher = doubles([LN3, 0, 0], [0, LN2, 0]), doubles([LN3, -2 * LN3, 0], [-LN2, LN3, -2 * LN3])
    tags = doubles([-1, -1, -1], [-1, -1, -1])  # the teacher: 3/4, 1/10, 1/2; 1/3, 3/4, 1/10
    one, two = (math.log(4 / 3) + LN2) / 2, (math.log(3 / 2) + LN2) / 2
    yield pseudo_labels(student, teacher, tags, confidence=0.75), (one + two) / 2
    yield pseudo_labels(student, teacher, doubles([-1, -1, -1], [1, 0, 1]), confidence=0.8), LN2


def of_mdcs(folder):
    """The plain view says class 2, then class 1."""
    for t in (2.0, 3.0):
        yield mdcs(t * S, t * T, HALF_KNOWN, temperature=t), t * t * FORWARD[0]
        yield mdcs(t * S, t * T, torch.tensor([2, 1]), temperature=t), t * t * mean(FORWARD)


def of_open_set(folder):
    """Unsoftened the first is 4/6 * 9/14 = 0.43 sure, the second 9/11 * 4/6 = 0.55: above their mean of 0.49."""
    none = torch.tensor([-1, -1])
    yield open_set(2 * S, 2 * T, none, temperature=2.0), 4 * FORWARD[1]
    yield open_set(2 * S, 2 * T, none, temperature=2.0, strictness=0.5), 4 * mean(FORWARD)
    yield open_set(3 * S, 3 * T, torch.tensor([0, -1]), temperature=3.0, strictness=2.0), 9 * FORWARD[0]


def of_collaborative(folder):
    """At label 2 the teacher is better on the first and worse on the second, at label 1 on both."""
    for t in (2.0, 3.0):
        yield collaborative(t * S, t * T, torch.tensor([2, 2]), temperature=t), t * t * FORWARD[0]
        yield collaborative(t * S, t * T, torch.tensor([1, 1]), temperature=t), t * t * mean(FORWARD)


def of_tgeo(folder):
    """Even shares. The second of two is held out: the first alone is taught, the controller by the second's label."""
    for t, boost in ((2.0, 0.5), (3.0, 2.0)):
        loss = zeroed(Tgeo({"student_logits": S}, temperature=t, held=2, unroll=0.0, boost=boost))
        taught = 0.5 * t * t * FORWARD[0] + 0.5 * -math.log(2**-t / (1 + 2 * 2**-t))
        asked = -math.log(1 / (2 + 3**t))
        yield loss(t * S, t * T, S, torch.tensor([2, 1])), taught + boost * asked


def of_self_gt(folder):
    """Label 2 of the first: squares of (1/2, 1/4, -3/4) to it, and of (1/3, -1/12, -1/4) to the model before."""
    truth, before = (1 / 4 + 1 / 16 + 9 / 16) / 3, (1 / 9 + 1 / 144 + 1 / 16) / 3
    for share in (0.35, 0.8):
        loss = SelfGt({"student_logits": S, "student_embedding": S}, share=share)
        yield loss(S, T, S, HALF_KNOWN), share * truth + (1 - share) * before


HEADS = {"student_logits": S, "student_embedding": S, "samples": 2}


def of_deit_lt(folder):
    """The teacher decides for 2 and 1 on an even head; labels seen: one of class 2."""
    for share in (0.3, 0.8):
        loss = zeroed(DeitLt(HEADS, share=share, late=0.5, rarity=0.5))
        yield loss(S, T, S, HALF_KNOWN, 0.4), (1 - share) * math.log(4) + share * LN3
        # two of class 2: (1/2) / (3/4) = 2/3 beside 1 and 1, over their mean of 8/9
        yield loss(S, T, S, HALF_KNOWN, 0.6), (1 - share) * math.log(4) + share * LN3 * (3 / 4 + 9 / 8) / 2


def of_dho(folder):
    uniform = (1 / 3, 1 / 3, 1 / 3)
    for share, t in ((0.3, 2.0), (0.8, 3.0)):
        loss = zeroed(Dho(HEADS, share=share, temperature=t))
        hard = -math.log(2**-t / (1 + 2 * 2**-t))
        soft = kl(THEIRS[0], uniform) + kl(THEIRS[1], uniform)
        yield loss(t * S, t * T, S, HALF_KNOWN), share * hard + (1 - share) * t * t * soft


def of_aspects(folder):
    np.save(folder / "asked.npy", np.array([[0.25, np.nan], [1.0, 0.5]]))
    for bias, p in ((LN3, 3 / 4), (LN2, 2 / 3)):
        loss = zeroed(Aspects(HEADS, answers=str(folder / "asked.npy")))
        with torch.no_grad():
            loss.head.bias.copy_(torch.tensor([bias, 0.0]))
        expected = (-0.25 * math.log(p) - 0.75 * math.log(1 - p) - math.log(p) + LN2) / 3
        yield loss(S, torch.tensor([1, 0])), expected


def of_two_passes(folder):
    for t in (2.0, 3.0):
        yield two_passes(t * S, t * T, temperature=t), t * t * (mean(FORWARD) + mean(REVERSE))


def of_boxes(folder):
    """1 - GIoU is 2/3, and 4/3 for boxes apart by their width; the teacher is 3/4 and 2/3 sure."""
    student, teacher = doubles([1, 0, 3, 2], [4, 0, 6, 2]), doubles([0, 0, 2, 2], [0, 0, 2, 2])
    for power in (1.0, 3.0):
        weights = (0.75**power, (2 / 3) ** power)
        expected = (weights[0] * 2 / 3 + weights[1] * 4 / 3) / sum(weights)
        yield boxes(student[None], teacher[None], doubles([LN3], [LN2])[None], sharpness=power), expected


def of_sides(folder):
    """Two bins: the teacher's sides are 3/4 and 1/4, the student's 1/2 each, at every temperature; one place is 3/4 sure."""
    for t in (1.0, 2.0):
        teacher = (t * doubles([LN3, 0.0])).expand(1, 1, 4, 2)
        apart = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        found = sides(torch.zeros_like(teacher), teacher, doubles([LN3])[None], temperature=t)
        yield found, t * t * apart


def of_matched_queries(folder):
    """The student answers in the other order. Scores: the teacher 3/4 and 1/2 sure; the student 1/2 and 1/2, so a KL of
    the first.
    Boxes: the first is apart by half its width (GIoU 1/3), the second is right."""
    wanted = doubles([0, 0, 2, 2], [5, 5, 7, 7])[None]
    boxes_ = doubles([5, 5, 7, 7], [1, 0, 3, 2])[None]
    teacher, student = doubles([LN3], [0.0])[None], doubles([0.0], [0.0])[None]
    apart = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for box_weight, rest in ((2.0, 0.1), (1.0, 0.5)):
        weights = [rest + (1 - rest) * sure for sure in (0.75, 0.5)]
        expected = (weights[0] * apart + box_weight * 0.75 * (2 / 3)) / sum(weights)
        yield matched_queries(student, teacher, boxes_, wanted, box_weight=box_weight, rest=rest), expected


def of_l1(folder):
    yield l1(doubles([4.0, 1.5]), doubles([1.0, 2.0])), 3.5 / 2
    yield l1(doubles([-4.0]), doubles([1.0])), 5


def of_l2(folder):
    yield l2(doubles([4.0, 1.5]), doubles([1.0, 2.0])), 9.25 / 2
    yield l2(doubles([-4.0]), doubles([1.0])), 25


def of_huber(folder):
    yield huber(doubles([4.0, 1.5]), doubles([1.0, 2.0]), delta=2.0), (2 * (3 - 1) + 0.125) / 2
    yield huber(doubles([4.0, 1.5]), doubles([1.0, 2.0]), delta=0.25), 0.25 * (3 - 0.125 + 0.5 - 0.125) / 2


BENT = doubles([1, 0], [1, 1])
"""Products (1, 1; 1, 2): against those of a diagonal, 2 - sqrt(2) in the first row and 2 - 4 / sqrt(5) in the second."""
APART = (2 - math.sqrt(2)) + (2 - 4 / math.sqrt(5))


def of_sp(folder):
    student, teacher = BENT.reshape(2, 2, 1, 1), doubles([2, 0], [0, 1]).reshape(2, 2, 1, 1)
    yield sp([student], [teacher]), APART / 4
    # all alike against none: (1, 1) / sqrt(2) against a unit vector, twice
    ones = torch.ones(2, 3, 1, 1, dtype=torch.float64)
    yield sp([student, ones], [teacher, teacher]), APART / 4 + 2 * (2 - math.sqrt(2)) / 4


def of_ickd(folder):
    def loss(student, teacher):
        return Ickd({"student_features": student, "teacher_features": teacher})(student, teacher)

    student, teacher = torch.stack([BENT, BENT])[:, :, None], torch.stack([doubles([2, 0], [0, 1]), BENT])[:, :, None]
    yield loss([student], [teacher]), APART / (2 * 2)
    yield loss([student, student[:1]], [teacher, teacher[:1]]), APART / 4 + APART / 2


def of_rkd(folder):
    """0, 1, 3 on a line: 1, 3, 2 over 2; a triangle of equal sides: 1, 1, 1. Cosines 1, -1, 1 against a half."""
    line, triangle = doubles([0.0], [1.0], [3.0]), doubles([0, 0], [1, 0], [0.5, math.sqrt(0.75)])
    for distance, angle in ((2.0, 3.0), (5.0, 0.5)):
        expected = distance * 4 * 0.125 / 9 + angle * 2 * (0.125 + 1 + 0.125) / 27
        yield rkd(line, triangle, distance=distance, angle=angle), expected


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def of_diswot(folder):
    student, teacher = BENT.reshape(2, 2, 1, 1), doubles([2, 0], [0, 1]).reshape(2, 2, 1, 1)
    ours, theirs = doubles([1, 0], [1, 2]), doubles([2, 1, 0], [0, 1, 1])
    for targets in ([2, 0], [1, 2]):
        grams = []
        for probabilities, embedding in ((OURS, ours), (THEIRS, theirs)):
            slope = unit((np.array(probabilities) - np.eye(3)[targets]).T @ embedding.numpy())
            grams.append(unit(slope @ slope.T))
        semantic = np.square(grams[0] - grams[1]).sum() / 9
        # of several pairs the last counts
        pairs = [teacher, student], [teacher, teacher]
        yield diswot(*pairs, S, T, ours, theirs, torch.tensor(targets)), APART / 4 + semantic


def of_affinity(folder):
    """Cosines 0, r, r with r = sqrt(1/2), against 1, 0, 0."""
    student, teacher = doubles([1, 0], [0, 1], [1, 1]), doubles([2, 0], [1, 0], [0, 3])
    for scale in (2.0, 5.0):
        p, total = math.exp(scale) / (math.exp(scale) + 1), math.log(1 + math.exp(scale * ROOT))
        each = p * total + (1 - p) * (total - scale * ROOT)
        yield affinity(student, teacher, scale=scale), (2 * each + LN2) / 3


def of_edges(folder):
    """Each the other's neighbour: the teacher of one against the student of the other; differences of their logits."""
    shared = (kl(THEIRS[1], OURS[0]) + kl(THEIRS[0], OURS[1])) / 2

    def softened(logits, t):
        powers = np.exp(np.abs((logits[0] - logits[1]).numpy()) / t)
        return powers / powers.sum()

    for t, low, high in ((2.0, 0.5, 3.0), (0.7, 2.0, 0.25)):
        apart = kl(softened(T, t), softened(S, t))
        found = edges(S, T, BENT, neighbours=1, temperature=t, low=low, high=high)
        yield found, low * shared + high * apart


def of_self_similarity(folder):
    """Cosines of two regions: 0 against 1, then 0 against sqrt(1/2)."""
    none, bent = maps([[1, 0]], [[0, 1]]), maps([[1, 1]], [[0, 1]])
    yield self_similarity([none], [bent]), 2 * 0.5 / 4
    yield self_similarity([none, none], [bent, maps([[2, 2]])], side=2), 2 * 0.5 / 4 + 2 / 4


def of_codebook(folder):
    """Codes at 0 and 4; then the first has gone half of the way to the teacher at 1."""

    def assigned(x, codes, t):
        powers = [math.exp(-abs(x - c) / t) for c in codes]
        return [p / sum(powers) for p in powers]

    begun = doubles([0.0], [4.0])
    for t in (2.0, 3.0):
        loss = Codebook({"student_embedding": begun, "teacher_embedding": begun}, size=2, temperature=t, memory=0.5).double()
        for first, codes in ((0.0, (0.0, 4.0)), (1.0, (0.5, 4.0))):
            each = [kl(assigned(z, codes, t), assigned(s, codes, t)) for s, z in ((3.0, first), (1.5, 4.0))]
            yield loss(doubles([3.0], [1.5]), doubles([first], [4.0])), near(t * t * mean(each), rel=1e-5)


def of_attention(folder):
    """Squares over channels (1, 1) against (1, 0), and (1, 0) against (0, 1): 2 - sqrt(2), and 2."""
    student = torch.cat([maps([[1, 0]], [[1, math.sqrt(2)]]), maps([[3, 0]], [[0, 0]])])
    teacher = torch.cat([maps([[2, 0]]), maps([[0, 1]])])
    yield attention([student], [teacher]), (4 - math.sqrt(2)) / 2
    yield attention([student, student[:1]], [teacher, teacher[:1]]), (4 - math.sqrt(2)) / 2 + 2 - math.sqrt(2)


def of_cwd(folder):
    """Two channels of three places."""
    student, teacher = S[None, :, None], T[None, :, None]
    for t in (2.0, 3.0):
        pairs = [t * student, t * student[:, :1]], [t * teacher, t * teacher[:, :1]]
        loss = Cwd(dict(zip(("student_features", "teacher_features"), pairs, strict=True)), temperature=t)
        yield loss(*pairs), t * t * (mean(FORWARD) + FORWARD[0])


def of_hcl(folder):
    """What cancels in each 2 x 2 counts at full size alone: 1 of 1.5, or of 1.875; what is left of it, a half of 1.5."""
    small, large = torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    board = maps([[3, -3], [3, -3]])
    loss = Hcl({"student_features": [small, large], "teacher_features": [small, large]})
    yield loss([board, large], [small, board.repeat(1, 1, 4, 4)]), 9 / 1.5 + 9 / 1.875
    stripes = board.repeat_interleave(2, 3).repeat(1, 1, 4, 2)
    yield loss([board + 1, stripes], [small, large]), (10 + 0.5 * 1) / 1.5 + (9 + 0.5 * 9) / 1.875


def of_dsi(folder):
    """The teacher at half the width is (1, 1) and (3, 0); the deepest pair alone."""
    teacher, student = maps([[2, 0, 3, 3]], [[0, 2, 0, 0]]), maps([[1, 1]], [[0, 1]])
    loss = Dsi({"student_features": [teacher, student], "teacher_features": [student, teacher]})
    yield loss([teacher, student], [student, teacher]), 1 - ROOT
    yield loss([teacher, maps([[1, -2]], [[1, 0]])], [student, teacher]), (0 + 2) / 2


def of_block_mse(folder):
    zero = maps([[0, 0]])
    loss = BlockMse({"student_blocks": [zero, zero], "teacher_blocks": [zero, zero]})
    yield loss([zero + 2, maps([[1, 3]])], [zero - 1, zero]), (9 + 5) / 2
    yield loss([zero, zero], [zero, maps([[2, 4]])]), 10 / 2


def flat(*levels):
    return [torch.full((1, 1, 2, 2), float(level), dtype=torch.float64) for level in levels]


def of_transkd(folder):
    """Nothing fused: the teacher's squares; the embeddings' differences by (1/2, 1), or (0.1, 0.1, 0.1, 1/2, 1)."""
    for embed, student, teacher, direct in (
        (0.5, flat(1, -1), flat(2, 3), 0.5 * 1 + 16),
        (2.0, flat(0, 0, 0, 0, 0), flat(1, 2, 3, 4, 5), 0.1 * (1 + 4 + 9) + 0.5 * 16 + 25),
    ):
        loss = zeroed(Transkd({"student_features": student, "teacher_features": teacher}, embed=embed))
        yield loss(student, teacher), sum(float(t.mean()) ** 2 for t in teacher) + embed * direct


def of_acam(folder):
    """Even masks: mean squares of 4, and of 1 and 9, once by channels and once by places; equal masks overlap wholly."""
    teacher, student = [maps([[2, 2]], [[2, 2]]), maps([[1, 3]], [[3, 1]])], [maps([[0, 0]], [[0, 0]])] * 2
    for diversity in (0.5, 3.0):
        example = {"student_features": student, "teacher_features": teacher}
        loss = zeroed(Acam(example, units=2, diversity=diversity))
        yield loss(student, teacher), 2 * (4 + 5) + 4 * diversity
    yield _overlap(doubles([1, 0], [1, 1])[None]), 2 * 1 / (1 + 2)
    yield _standardised(doubles([1.0, 4.0, 1.0, 4.0]), dims=(1,))[0, 1], 1.0


def of_token_relations(folder):
    """Width 4: products over 2. (3/4, 1/4) against (2/3, 1/3) from the first token, even from the second."""
    teacher, student = torch.zeros(1, 2, 4, dtype=torch.float64), torch.zeros(1, 2, 4, dtype=torch.float64)
    teacher[0, 0, 0], student[0, 0, 1] = math.sqrt(2 * LN3), math.sqrt(2 * LN2)
    expected = kl((3 / 4, 1 / 4), (2 / 3, 1 / 3)) / 2
    yield token_relations([teacher, student], [teacher, teacher]), expected
    # fused, width 2 each: queries with keys, and values with themselves, over sqrt(2)
    queries = torch.zeros(1, 2, 6, dtype=torch.float64), torch.zeros(1, 2, 6, dtype=torch.float64)
    for tokens, power in zip(queries, (LN2, LN3), strict=True):
        tokens[0, 0, 0], tokens[0, 0, 2], tokens[0, 0, 4] = math.sqrt(2) * power, 1.0, math.sqrt(math.sqrt(2) * power)
    yield token_relations([queries[0]], [queries[1]], fused=True), 2 * expected


def of_visible_tokens(folder):
    """(0.6, 0.8) against (0, 1), and a token that agrees: 0.8 of four values."""
    student, teacher = doubles([3, 4], [2, 0])[None], doubles([0, 5], [1, 0])[None]
    for depth, at in ((0.5, 1), (1.0, 2)):
        ours, theirs = [teacher] * 3, [teacher] * 3
        ours[at] = student
        loss = VisibleTokens({"student_tokens": ours, "teacher_tokens": theirs}, visible=1.0, depth=depth)
        yield loss(ours, theirs), 0.8 / 4


def of_ln_hidden(folder):
    """The teacher is +-1, the student 1 and 0: 0 and 1 apart, of which half of beta counts off."""
    far, near_by = doubles([300.0, -300.0])[None], doubles([7.0, -300.0])[None] * 0
    for beta, depth in ((0.5, 0.0), (0.25, 1.0)):
        teacher = [near_by, near_by]
        teacher[round(depth)] = far
        loss = zeroed(LnHidden({"student_tokens": teacher, "teacher_tokens": teacher}, beta=beta, depth=depth))
        with torch.no_grad():
            loss.adapter.bias.copy_(torch.tensor([1.0, 0.0]))
        yield loss(teacher, teacher), near((1 - beta / 2) / 2, rel=1e-3)


def of_nd(folder):
    """One label: towards (0, 1), 4 of 5. Two of one class: towards (1, 1), 7 r of 5 and 1 r of 2."""
    student, teacher = doubles([3, 4], [1, 0]), doubles([0, 2], [2, 0])
    example = {"student_embedding": student, "teacher_embedding": teacher, "student_logits": S}
    yield Nd(example).double()(student, teacher, S, HALF_KNOWN), 1 / 5
    expected = ((1 - 7 * ROOT / 5) + (1 - ROOT / 2)) / 2
    yield Nd(example).double()(student, teacher, S, torch.tensor([2, 2])), expected


def of_mi_alpha(folder):
    """e^f is (3, 1; 2, 1): means over a column 5/2 and 1, over the other of it 2 and 1."""
    critic = doubles([LN3, 0], [LN2, 0])
    for a in (0.5, 0.25):
        mixed, others = (a * 5 / 2 + 1 - a, a * 1 + 1 - a), (a * 2 + 1 - a, a * 1 + 1 - a)
        joint = (math.log(3 / mixed[0]) + math.log(1 / mixed[1])) / 2
        yield mutual_information_bound(critic, a), 1 + joint - (2 / others[0] + 1 / others[1]) / 2
    student, teacher = doubles([5, 0], [3, 4]), doubles([2, 0], [0, 1])
    loss = zeroed(MiAlpha({"student_embedding": student, "teacher_embedding": teacher}, alpha=0.5, width=2))
    with torch.no_grad():
        loss.student.weight.copy_(torch.eye(2))
        loss.teacher.weight.copy_(torch.eye(2))
    yield loss(student, teacher), -float(mutual_information_bound(doubles([10, 0], [6, 8]), 0.5))


def of_dbr(folder):
    """The first sample's label is the third class; the other has none."""
    entropies = [-math.log(p[0][2]) for p in (OURS, THEIRS)]
    lengths = [math.sqrt(p[0][0] ** 2 + p[0][1] ** 2 + (1 - p[0][2]) ** 2) for p in (OURS, THEIRS)]
    for euclidean in (0.5, 3.0):
        expected = (entropies[0] - entropies[1]) ** 2 + euclidean * (lengths[0] - lengths[1]) ** 2
        yield dbr(S, T, HALF_KNOWN, euclidean=euclidean), expected


def of_align(folder):
    """The student at (3, 4): 0.6 to the images, 0.8 to the text of the first one's class; the other has no label."""
    np.save(folder / "pictures.npy", np.array([[0, 2], [5, 0]]))
    np.save(folder / "words.npy", np.array([[1, 0], [1, 0], [0, 1]]))
    for share in (0.3, 0.8):
        files = {"images": str(folder / "pictures.npy"), "texts": str(folder / "words.npy")}
        loss = zeroed(Align({**HEADS, "teacher_embedding": EVEN}, share=share, **files))
        with torch.no_grad():
            loss.adapter.bias.copy_(torch.tensor([3.0, 4.0]))
        expected = share * (0.4 + 0.2) / 2 + (1 - share) * 0.2
        yield loss(S, SURE.expand(2, 2), S, HALF_KNOWN, torch.tensor([1, 0])), expected
    np.save(folder / "words.npy", np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1]]))
    loss = zeroed(Align({**HEADS, "teacher_embedding": EVEN}, share=0.0, texts=str(folder / "words.npy")))
    with torch.no_grad():
        loss.adapter.bias.copy_(torch.tensor([0.0, 3.0, 4.0]))
    yield loss(S, SURE.expand(2, 2), S, HALF_KNOWN, torch.tensor([1, 0])), 1 - 7 / (5 * math.sqrt(2))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_definition_at_two_settings_that_are_not_neutral(name, tmp_path):
    answers = list(globals()[f"of_{name}"](tmp_path))
    assert len(answers) >= 2
    for number, (found, expected) in enumerate(answers):
        expected = near(expected, abs=1e-8) if isinstance(expected, float | int) else expected
        assert torch.as_tensor(found).item() == expected, f"setting {number}"
