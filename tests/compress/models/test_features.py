import torch

from compress.models.features import FeatureHooks, ModuleLayers, pair_maps
from tests.conftest import small_model


def test_the_last_module_of_each_resolution(example):
    assert ModuleLayers.of(small_model(), example).maps() == {(16, 16): "layer1", (8, 8): "layer2", (4, 4): "layer3"}


def test_pairs_from_fine_to_coarse_whatever_the_widths(example):
    student, teacher = (ModuleLayers.of(small_model(width=width), example) for width in (0.5, 1.0))
    pairs = pair_maps(student, teacher)
    assert pairs == [("layer1", "layer1"), ("layer2", "layer2"), ("layer3", "layer3")]


def test_hooks_keep_the_last_pass(example):
    module = small_model().eval()
    with FeatureHooks(module, ["layer1", "layer3"]) as hooks, torch.no_grad():
        module(example)
        shapes = [tuple(f.shape) for f in hooks.features()]
    assert shapes == [(2, 8, 16, 16), (2, 32, 4, 4)]


def test_what_a_model_predicts_is_no_feature_map(example):
    """The maps of a dense model's head are its outputs: other losses compare them."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    assert ModuleLayers.of(model, example).maps() == {(16, 16): "1"}
