"""Inputs made from batch norms have the statistics of the data that the module was trained on."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.methods.quantization.zeroq import synthesize
from profiles.errors import UserError


def trained_on(mean, deviation):
    """Batch norms that have seen inputs of this mean and deviation."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train()
    with torch.no_grad():
        for _ in range(60):
            module(torch.randn(16, 3, 8, 8) * deviation + mean)
    return module.eval()


def test_mean_and_deviation_of_the_inputs_come_back():
    module = trained_on(3.0, 0.5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    made = synthesize(module, (3, 8, 8), 32, seed=0)
    assert made.shape == (32, 3, 8, 8) and made.dtype == np.float32
    np.testing.assert_allclose(made.mean((0, 2, 3)), 3.0, atol=0.1)
    np.testing.assert_allclose(made.std((0, 2, 3)), 0.5, atol=0.1)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters()) and not module.training
    np.testing.assert_array_equal(made, synthesize(module, (3, 8, 8), 32, seed=0))


def test_without_batch_norms_there_is_nothing_to_go_by():
    with pytest.raises(UserError, match="has none; give samples"):
        synthesize(nn.Conv2d(3, 4, 1), (3, 8, 8), 4, seed=0)
