import torch
from torch import nn

from compress.models.features import FeatureHooks, ModuleLayers, as_map, as_tokens, pair_maps
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


def test_the_layer_that_made_an_output_says_how_it_lies():
    """(2, 8, 12) is 8 channels at 12 places behind a Conv1d, and 8 words of 12 numbers behind a Linear."""
    sound = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.Flatten(), nn.Linear(96, 2))
    words = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.LayerNorm(12), nn.Flatten(), nn.Linear(96, 2))
    of_sound = ModuleLayers.of(sound, torch.randn(2, 3, 12))
    of_words = ModuleLayers.of(words, torch.randn(2, 8, 3))
    assert of_sound.shapes["1"] == of_words.shapes["1"] == (2, 8, 12)
    assert (of_sound.layouts["1"], of_words.layouts["1"]) == ("map", "tokens")
    assert of_sound.maps() == {(1, 12): "2"}
    assert of_words.maps() == {(1, 8): "2"}


def test_maps_and_tokens_turn_into_each_other():
    values = torch.arange(2 * 3 * 5.0).reshape(2, 3, 5)
    assert as_map(values, "map").shape == (2, 3, 1, 5)
    assert torch.equal(as_map(values, "map")[:, :, 0], values)
    assert torch.equal(as_map(values, "tokens")[:, :, 0], values.transpose(1, 2))
    assert torch.equal(as_tokens(values, "map"), values.transpose(1, 2))
    assert torch.equal(as_tokens(values, "tokens"), values)
    deep = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(as_map(deep, "map"), deep.reshape(2, 3, 20, 6))
    with_class = torch.randn(2, 10, 7)
    assert torch.equal(as_map(with_class, "tokens")[0, :, 1, 2], with_class[0, 1 + 5])
