"""The query budget: the selection by hand, and that the teacher is queried no more often."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.data.subset import Subset
from compress.methods.distillation.objective import parse_losses
from compress.methods.distillation.query_budget import sampling_probabilities, select_queries, uncertainties
from compress.stages.base import Artifact
from compress.stages.distill import Distill
from compress.stages.runner import run_stage
from compress.tasks.classification import Classification
from profiles.errors import UserError
from tests.conftest import blobs, small_model, small_plan

WORTH = np.array([0.25, 1.0, 0.125, 0.5])


def test_the_strategy_by_hand():
    """Sums of 1 / g, best first: 1, 3, 7, 15. One error: 0, 1/3, 2/7, 3/15, so the best two, the doubtful half as often."""
    np.testing.assert_allclose(sampling_probabilities(WORTH, 1, 1), [0, 1 / 3, 0, 2 / 3])
    np.testing.assert_allclose(sampling_probabilities(WORTH, 0, 1), [0, 1, 0, 0], err_msg="nothing to hedge against")
    np.testing.assert_allclose(sampling_probabilities(WORTH, 1, 3), np.array([4, 1, 0, 2]) / 7, err_msg="three queries")


def test_the_strategy_is_the_best_against_the_worst_errors():
    """No other draw of a thousand gains more once its most valuable samples are spoilt."""
    generator = np.random.default_rng(0)

    def least(chances, worth, errs):
        gained = np.sort(chances * worth)
        return gained[: len(gained) - errs].sum()

    for errs in (1, 3):
        worth = generator.random(8)
        ours = least(sampling_probabilities(worth, errs, 1), worth, errs)
        others = generator.dirichlet(np.ones(8), 1000)
        assert ours >= max(least(other, worth, errs) for other in others)


def test_nothing_is_queried_twice_and_equal_seeds_choose_alike():
    worth, queried = np.linspace(0.1, 1, 20), np.array([19, 3])
    chosen = select_queries(worth, queried, 5, 0.2, (0, 1))
    assert len(set(chosen.tolist())) == 5
    assert not set(chosen.tolist()) & {19, 3}
    np.testing.assert_array_equal(chosen, select_queries(worth, queried, 5, 0.2, (0, 1)))
    np.testing.assert_array_equal(select_queries(worth, queried, 5, 0.0, (0, 1)), [14, 15, 16, 17, 18])
    assert len(select_queries(worth, queried, 100, 0.1, (0, 0))) == 18


def test_gains_by_hand():
    """Probabilities (3/4, 1/4) leave a doubt of 1/2, (1/2, 1/2) one of 1."""

    class Says(torch.nn.Module):
        def forward(self, x):
            return torch.stack([torch.tensor([3.0, 1.0]).log(), torch.zeros(2)])

    np.testing.assert_allclose(
        uncertainties(Says(), Classification(), Subset(blobs(4), np.array([0, 1]))), [0.5, 1.0], rtol=1e-6
    )


class Counted(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, 0

    def forward(self, x):
        self.seen += len(x)
        return self.inner(x)


def test_the_teacher_is_queried_as_often_as_it_may_be(context):
    teacher = Counted(small_model(7, width=1.0))
    context = replace(context, teacher=teacher)
    stage = Distill(epochs=4, rounds=2, queries=41, batch_size=16, losses=parse_losses(["kd"]))
    start = Artifact(plan=small_plan(), module=small_model())
    looks = 2  # to see what the teacher gives
    first = run_stage(stage, start, context, 0)[0]
    assert first.notes == ("the teacher was asked about 41 of 128 samples, once each",)
    assert teacher.seen - looks == 41
    again = run_stage(stage, start, context, 0)[0]
    assert teacher.seen - 2 * looks == 41, "what was queried is kept"
    pairs = zip(first.artifact.module.state_dict().values(), again.artifact.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_does_not_go_with_a_budget_is_told_at_once(context):
    stage = Distill(
        queries=3, rounds=4, epochs=8, mixture=True, cut_mix=0.5, losses=parse_losses(["dho", "attention", "ps_kd"])
    )
    with pytest.raises(UserError) as caught:
        run_stage(stage, Artifact(plan=small_plan(), module=small_model()), context, 0)
    told = "\n".join(caught.value.faults)
    assert "these read indices, teacher_features" in told
    assert "queries and mixture do not go together" in told
    assert "queries ask about single samples, and images of cut_mix show two" in told
    assert "given: queries = 3, epochs = 8, rounds = 4; lower rounds" in told
