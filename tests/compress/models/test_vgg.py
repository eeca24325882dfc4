import pytest
import torch
from torch import nn

from compress.models import vgg


def test_layers_and_sizes_are_as_asked():
    network = vgg(blocks=(2, 1), widths=(8, 12), stem=4, in_channels=1, classes=5)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == sum((2, 1)) + 2
    assert [(m.in_channels, m.out_channels) for m in layers[:-1]] == [(1, 4), (4, 8), (8, 8), (8, 12)]
    assert network(torch.zeros(3, 1, 16, 16)).shape == (3, 5)
    assert network.stages(network.stem(torch.zeros(1, 1, 16, 16))).shape[-2:] == (4, 4), "each stage halves the image"


def test_an_even_stem_takes_a_pixel_off_and_an_odd_one_none():
    for kernel, side in ((1, 32), (2, 31), (3, 32), (5, 32)):
        assert vgg(stem_kernel=kernel).stem(torch.zeros(1, 3, 32, 32)).shape == (1, 16, side, side)
    images = torch.zeros(1, 3, 32, 32)
    network = vgg(blocks=(2, 2, 2), widths=(4, 4, 4), stem_kernel=2)
    assert network.stages(network.stem(images)).shape[-2:] == (3, 3)
    assert network(images).shape == (1, 10)


def test_width_and_depth_scale_it():
    half = vgg(blocks=(2, 4), widths=(8, 16), stem=8, width=0.5, depth=0.5)
    assert [m.out_channels for m in half.modules() if isinstance(m, nn.Conv2d)] == [4, 4, 8, 8]


def test_stages_of_blocks_and_widths_must_agree():
    with pytest.raises(ValueError, match=r"a number for each stage; given: \(2, 2\) and \(8,\)"):
        vgg(blocks=(2, 2), widths=(8,))
