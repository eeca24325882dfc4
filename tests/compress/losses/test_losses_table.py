"""What holds of every loss in the table; a new line is tested by being there."""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn

from compress.losses import LOSSES
from compress.methods.distillation.loss_specs import loss_inputs, loss_options
from profiles.tables import load_object

SAMPLES, CLASSES, PLACES = 12, 5, 3
MAPS = {"student": [(4, 4), (6, 2)], "teacher": [(6, 4), (8, 2)]}

ZERO = {
    *(
        "kd",
        "bce_kd",
        "js",
        "dist",
        "bd_kd",
        "dkd",
        "dbr",
        "top_k_ld",
        "taid",
        "boxes",
        "sides",
        "masks",
        "keypoints",
        "matched_queries",
        "mdcs",
        "collaborative",
        "open_set",
        "two_passes",
    ),
    *("sp", "ickd", "rkd", "diswot", "codebook", "token_relations", "self_similarity"),
    *("attention", "cwd", "hcl", "dsi", "block_mse", "visible_tokens"),
    *("l1", "l2", "huber", "pooled_logits"),
}
"""Nothing to learn for a student that is its teacher."""

LEAST = {"meal": "the teacher's entropy", "affinity": "the affinities' entropy"}

ELSEWHERE = {
    "task": "labels",
    "nkd": "its first term pulls the label's class to 1",
    "pld": "the label is first whatever the teacher says",
    "ofa": "the exits are not the teacher",
    "sinkhorn": "moving samples that lie close costs something",
    "ps_kd": "reads no teacher",
    "tgeo": "mixed with labels",
    "self_gt": "mixed with labels",
    "pseudo_labels": "the decided class is pulled to 1",
    "fer": "labels where the teacher is not sure",
    "deit_lt": "a head of its own",
    "dho": "a head of its own",
    "aspects": "a head of its own",
    "edges": "neighbours differ",
    "transkd": "fused maps are not the teacher's",
    "acam": "masks overlap",
    "ln_hidden": "a linear layer that is always there",
    "nd": "class means are not the samples",
    "mi_alpha": "a bound on information",
    "align": "a linear layer that is always there",
}
"""Where theory puts the minimum elsewhere, and why."""

UNDIFFERENTIATED = {
    "taid": "the student in the target is without gradient; its gradient is checked by hand",
    "tgeo": "the upper loss moves the controller only; checked by what it learns",
    "self_gt": "the closed form reads the embedding without gradient; checked with a fixed share",
    "acam": "masks are without gradient; checked by hand",
}
"""What differences cannot check: gradients that stop on purpose."""


def values(who_is_student="student", scale=1.0, dtype=torch.float64, seed=0):
    """Every word of the vocabulary; with ``who_is_student="teacher"`` a student that is its teacher."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    found = {}
    for who in ("teacher", "student"):
        found[f"{who}_logits"] = draw(SAMPLES, CLASSES)
        found[f"{who}_features"] = [draw(SAMPLES, c, s, s) for c, s in MAPS[who]]
        found[f"{who}_blocks"] = [draw(SAMPLES, c, s, s) for c, s in MAPS[who]]
        found[f"{who}_tokens"] = [draw(SAMPLES, 6, c) for c, _ in MAPS[who]]
        found[f"{who}_embedding"] = draw(SAMPLES, MAPS[who][-1][0])
        points, scores = draw(SAMPLES, PLACES, 2, 2), draw(SAMPLES, PLACES, 2, 1).sigmoid()
        found[f"{who}_keypoints"] = torch.cat([points, scores], -1)
        found[f"{who}_coefficients"] = draw(SAMPLES, PLACES, 4)
        found[f"{who}_prototypes"] = draw(SAMPLES, 4, 3, 3)
        corners = draw(SAMPLES, PLACES, 2)
        found[f"{who}_distributions"] = draw(SAMPLES, PLACES, 4, 6)
        found[f"{who}_boxes"] = torch.cat([corners, corners + draw(SAMPLES, PLACES, 2).abs() + 1], -1)
    if who_is_student == "teacher":
        found |= {k.replace("teacher", "student"): v for k, v in found.items() if k.startswith("teacher")}
    found["plain_logits"] = found["student_logits"] if who_is_student == "teacher" else draw(SAMPLES, CLASSES)
    found["again_logits"] = found["plain_logits"]
    found["targets"] = torch.arange(SAMPLES) % CLASSES
    found["task_loss"] = found["student_logits"].square().mean()
    return found | {"indices": torch.arange(SAMPLES), "progress": 0.5, "epoch": 3, "samples": SAMPLES}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """What a loss cannot do without."""
    path = tmp_path_factory.mktemp("answers") / "answers.npy"
    np.save(path, np.random.default_rng(0).random((SAMPLES, 3)).astype(np.float32))
    return {"aspects": {"answers": str(path)}, "masks": {"stride": 0.5}}


def made(name, given, options, **more):
    """The loss as the objective makes it, in the precision of ``given``; a module is copied for each call."""
    loss = load_object(LOSSES[name])
    settings = {**options.get(name, {}), **more}
    if not isinstance(loss, type):
        return lambda *arguments: loss(*arguments, **settings)
    torch.manual_seed(0)
    example = [given] if "example" in inspect.signature(loss).parameters else []
    module = loss(*example, **settings)
    module = module.double() if given["student_logits"].dtype == torch.float64 else module

    def call(*arguments):
        torch.manual_seed(1)  # losses may draw
        return copy.deepcopy(module)(*arguments)

    call.module = module
    return call


def arguments(name, given):
    """What the loss reads, detection's class scores a place each."""
    reads = loss_inputs(load_object(LOSSES[name]))
    if any(word in read for read in reads for word in ("boxes", "distributions", "keypoints")):
        each = {who: given[who][:, None] + torch.arange(PLACES)[:, None] for who in ("teacher_logits", "student_logits")}
        given = {**given, **each}
    return reads, [given[read] for read in reads]


def learnt(reads, taken):
    """The tensors that a gradient goes to."""
    found = []
    for read, value in zip(reads, taken, strict=True):
        if read.startswith("student"):
            found += value if isinstance(value, list) else [value]
    return found


PLAIN = {"temperature", "momentum", "width", "memory", "ridge", "k", "iterations", "size", "units", "most", "depth"}
"""Options whose names say it."""


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_is_a_function_or_a_final_module_that_names_its_paper(name):
    loss = load_object(LOSSES[name])
    assert not isinstance(loss, type) or (issubclass(loss, nn.Module) and loss.__final__)
    words = inspect.getdoc(loss)
    own = {"task", "bce_kd", "boxes", "l1", "l2", "huber"}
    assert name in own or any(year in words for year in map(str, range(2015, 2027))), "which paper?"
    unsaid = set(loss_options(loss)) - PLAIN - set(words.replace("`", " ").split())
    assert not unsaid, "options that the docstring does not name"


def test_the_table_says_of_every_loss_where_its_minimum_is():
    assert set(LOSSES) == ZERO | set(LEAST) | set(ELSEWHERE)
    assert len(LOSSES) == len(ZERO) + len(LEAST) + len(ELSEWHERE)


@pytest.mark.parametrize("name", sorted(ZERO))
def test_zero_when_the_student_is_its_teacher(name, options):
    given = values("teacher")
    loss = made(name, given, options)
    reads, taken = arguments(name, given)
    inputs = [x.requires_grad_() for x in learnt(reads, taken)]
    found = loss(*taken)
    assert abs(float(found.detach())) < 1e-6
    if name not in ("boxes", "matched_queries"):  # a corner that touches has a slope to each side
        slopes = torch.autograd.grad(found, inputs, allow_unused=True)
        assert all(slope is None or slope.abs().max() < 1e-5 for slope in slopes)


@pytest.mark.parametrize("name", sorted(ZERO | set(LEAST)))
def test_least_when_the_student_is_its_teacher(name, options):
    given = values("teacher")
    loss = made(name, given, options)
    least = float(loss(*arguments(name, given)[1]))
    for seed in range(3):
        other = values(seed=seed)
        shaped = {k: v for k, v in values("teacher", seed=seed + 7).items() if k.startswith("student")}
        assert float(loss(*arguments(name, {**given, **shaped, "plain_logits": other["student_logits"]})[1])) >= least - 1e-9


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(UNDIFFERENTIATED)))
def test_gradients_agree_with_differences(name, options):
    given = values(seed=3)
    loss = made(name, given, options)
    reads, taken = arguments(name, given)
    shapes = [len(v) if isinstance(v, list) else 0 for v in taken]
    inputs = [x.requires_grad_() for x in learnt(reads, taken)] or [given["task_loss"].requires_grad_()]

    def called(*flat):
        flat, rebuilt = list(flat), []
        for read, value, count in zip(reads, taken, shapes, strict=True):
            if read.startswith("student"):
                rebuilt.append([flat.pop(0) for _ in range(count)] if count else flat.pop(0))
            else:
                rebuilt.append(flat[0] if read == "task_loss" else value)
        return loss(*rebuilt)

    assert torch.autograd.gradcheck(called, inputs, fast_mode=True, atol=1e-4, check_undefined_grad=False)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_finite_under_bf16_autocast_and_at_extremes(name, scale, options):
    given = values(scale=scale, dtype=torch.bfloat16, seed=1)
    loss = made(name, given, options)
    reads, taken = arguments(name, given)
    inputs = [x.requires_grad_() for x in learnt(reads, taken)]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*taken)
    assert torch.isfinite(found)
    assert found.dim() == 0
    slopes = torch.autograd.grad(found, inputs, allow_unused=True) if found.requires_grad and inputs else []
    assert all(slope is None or torch.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("name", sorted(n for n in LOSSES if "targets" in loss_inputs(load_object(LOSSES[n]))))
def test_samples_without_a_label_do_no_harm(name, options):
    given = values(seed=2)
    loss = made(name, given, options)
    for targets in (torch.full((SAMPLES,), -1), torch.where(torch.arange(SAMPLES) % 2 == 0, given["targets"], -1)):
        reads, taken = arguments(name, {**given, "targets": targets})
        inputs = [x.requires_grad_() for x in learnt(reads, taken)]
        found = loss(*taken)
        assert torch.isfinite(found)
        slopes = torch.autograd.grad(found, inputs, allow_unused=True) if found.requires_grad else []
        assert all(slope is None or torch.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("name", sorted(n for n in LOSSES if isinstance(load_object(LOSSES[n]), type)))
def test_all_parts_of_a_loss_are_trained(name, options):
    given = values(dtype=torch.float32)
    module = made(name, given, options).module
    reads, taken = arguments(name, given)
    inputs = [x.requires_grad_() for x in learnt(reads, taken)]
    module(*taken).backward()
    assert all(p.grad is not None for p in module.parameters())
    assert inputs


SHIFTED = ("kd", "js", "bd_kd", "dist", "dkd", "top_k_ld", "pld", "taid", "sinkhorn", "meal", "fer", "nkd", "mdcs")
ANY_WIDTH = ("attention", "sp", "self_similarity")
SCALED = ("attention", "sp", "self_similarity", "dsi")


@pytest.mark.parametrize("name", SHIFTED)
def test_blind_to_a_constant_per_sample(name, options):
    given = values(seed=4)
    moved = {**given, "student_logits": given["student_logits"] + torch.randn(SAMPLES, 1, dtype=torch.float64)}
    loss = made(name, given, options)
    assert float(loss(*arguments(name, moved)[1])) == pytest.approx(float(loss(*arguments(name, given)[1])), rel=1e-9)


@pytest.mark.parametrize("name", ANY_WIDTH)
def test_blind_to_how_many_channels_there_are(name, options):
    given = values("teacher")
    more = [torch.cat([f, f], 1) for f in given["student_features"]]
    loss = made(name, given, options)
    assert float(loss(*arguments(name, {**given, "student_features": more})[1])) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", SCALED)
def test_blind_to_the_scale_of_features(name, options):
    given = values("teacher")
    loss = made(name, given, options)
    larger = [7 * f for f in given["student_features"]]
    assert float(loss(*arguments(name, {**given, "student_features": larger})[1])) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["rkd", "affinity"])
def test_blind_to_scale_and_rotation_of_embeddings(name, options):
    given = values("teacher")
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    turned = {**given, "student_embedding": 3 * given["student_embedding"] @ turn}
    loss = made(name, given, options)
    assert float(loss(*arguments(name, turned)[1])) == pytest.approx(float(loss(*arguments(name, given)[1])), abs=1e-9)
