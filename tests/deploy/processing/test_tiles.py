"""Tiles: no seam where the margin is as wide as a result looks, on images of any size, and a seam where it is not."""

import numpy as np
import pytest
import torch
from torch import nn

from deploy.processing.tiles import run_in_tiles


@pytest.fixture(scope="module")
def network():
    """Three 3x3 convolutions and twice the size: each result looks three pixels far."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 4, 3, 1, 1)]
    return nn.Sequential(*layers, nn.PixelShuffle(2)).double().eval()


def whole(network, image):
    with torch.no_grad():
        return network(torch.from_numpy(image)[None])[0].numpy()


def tiled(network, image, margin, batch=1):
    shapes = []

    def run(tiles):
        shapes.append(tiles.shape)
        with torch.no_grad():
            return network(torch.from_numpy(tiles)).numpy()

    result = run_in_tiles(run, image, (16, 20), margin, batch)
    assert set(shapes) == {(batch, 2, 16, 20)}, "an engine of one size"
    return result


@pytest.mark.parametrize("size", [(16, 20), (17, 21), (40, 33), (16, 90), (50, 64)])
@pytest.mark.parametrize("batch", [1, 3])
def test_no_seam_where_the_margin_is_as_wide_as_results_look(network, size, batch):
    image = np.random.default_rng(0).normal(size=(2, *size))
    np.testing.assert_allclose(tiled(network, image, 3, batch), whole(network, image), atol=1e-12)


def test_a_margin_too_narrow_leaves_seams_there_alone(network):
    image = np.random.default_rng(0).normal(size=(2, 16, 40))
    apart = np.abs(tiled(network, image, 2) - whole(network, image)).max(axis=(0, 1))
    assert apart.max() > 1e-3
    # tiles begin at 0, 16 and 20; their insides meet at columns 18 and 22, twice that in the result
    assert set(np.flatnonzero(apart > 1e-12)) <= {34, 35, 36, 37, 42, 43, 44, 45}


def test_an_image_smaller_than_a_tile_is_filled_up_and_cut_out_again():
    image = np.arange(12.0).reshape(1, 3, 4)
    np.testing.assert_array_equal(run_in_tiles(lambda tiles: tiles, image, (8, 8), 2), image)
    with pytest.raises(ValueError, match="leaves nothing of tiles of 8x8"):
        run_in_tiles(lambda tiles: tiles, image, (8, 8), 4)
