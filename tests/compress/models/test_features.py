import torch

from compress.models.features import FeatureHooks, feature_maps, pair_by_resolution
from tests.conftest import small_model


def test_the_last_module_of_each_resolution(example):
    assert feature_maps(small_model(), example) == {(16, 16): "layer1", (8, 8): "layer2", (4, 4): "layer3"}


def test_pairs_from_fine_to_coarse_whatever_the_widths(example):
    pairs = pair_by_resolution(small_model(width=0.5), small_model(width=1.0), example)
    assert pairs == [("layer1", "layer1"), ("layer2", "layer2"), ("layer3", "layer3")]


def test_taps_keep_the_last_pass(example):
    module = small_model().eval()
    with FeatureHooks(module, ["layer1", "layer3"]) as taps, torch.no_grad():
        module(example)
        shapes = [tuple(f.shape) for f in taps.features()]
    assert shapes == [(2, 8, 16, 16), (2, 32, 4, 4)]


def test_what_a_model_predicts_is_no_feature_map(example):
    """The maps of a dense model's head are its outputs: other losses compare them."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    assert feature_maps(model, example) == {(16, 16): "1"}
