"""The detector: shapes, scaling, what it starts from, and which of its maps attention compares."""

import pytest
import torch

from compress.methods.distillation.weight_inheritance import inherit_weights
from compress.models import detector
from compress.models.features import ModuleLayers, pair_maps
from tests.conftest import count_parameters

SMALL = {"widths": (16, 32, 32, 32), "neck": 32, "blocks": 2, "classes": 3}


@pytest.mark.parametrize("size", [(64, 96), (72, 100)])
def test_a_map_for_each_scale_at_any_size(size):
    with torch.no_grad():
        maps = detector(**SMALL).eval()(torch.zeros(2, 3, *size))
    assert [tuple(each.shape) for each in maps] == [(2, 7, -(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32)]


def test_width_and_depth_scale_it():
    whole, thin, shallow = (detector(**SMALL, **s) for s in ({}, {"width": 0.5}, {"depth": 0.5}))
    assert thin.stem[1][0].out_channels == 8 and thin.heads[0].in_channels == 16
    assert [len(stage) for stage in whole.stages] == [3, 3, 3] and [len(stage) for stage in shallow.stages] == [2, 2, 2]
    assert count_parameters(thin) < 0.3 * count_parameters(whole)


def test_at_the_start_every_score_is_the_prior():
    """Most places hold nothing: were each score 1/2, the loss would be all background for a long time."""
    with torch.no_grad():
        maps = detector(**SMALL).eval()(torch.randn(1, 3, 64, 64))
    assert all(torch.allclose(each[:, 4:].sigmoid(), torch.tensor(0.01), atol=0.005) for each in maps)


def test_a_thinner_one_inherits_from_it():
    torch.manual_seed(0)
    teacher, student, between = detector(**SMALL), detector(**SMALL, width=0.5), detector(**SMALL)
    notes = inherit_weights(student, teacher, between, torch.randn(2, 3, 64, 64))
    assert notes == ("every weight is inherited from the teacher: coupled channels of largest norm",)


def test_attention_compares_what_comes_before_the_predictions():
    student, teacher = detector(**SMALL, width=0.5), detector(**SMALL)
    pairs = pair_maps(*(ModuleLayers.of(module, torch.zeros(2, 3, 64, 64)) for module in (student, teacher)))
    assert [s for s, _ in pairs][-3:] == ["towers.0", "towers.1", "towers.2"]
    assert not any("heads" in name for pair in pairs for name in pair)


def test_silu_is_said_by_argument():
    kinds = {type(m) for m in detector(**SMALL, activation="silu").modules()}
    assert torch.nn.SiLU in kinds and torch.nn.ReLU not in kinds
