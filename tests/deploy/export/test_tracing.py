"""What stands between a model's code and one program of it whose batch is free."""

import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from deploy.export.to_onnx import capture, to_onnx
from profiles.errors import UserError


class Lengths(nn.Module):
    """Tokens of maps, by ``len`` of the batch and of a list, as RT-DETR takes them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        maps = [self.layer(x), self.layer(x.flip(-1))]
        samples = len(maps[0])
        return torch.cat(maps, 1).view(samples, len(maps) * 5, -1).mean(-1)


class Checked(nn.Module):
    """What is checked while it runs, as in D-FINE."""

    def forward(self, x):
        torch._check_tensor_all(x.abs().amax() < 1e6, lambda: "too large")
        return x.mean((2, 3)) * 2


class Counted(nn.Module):
    def forward(self, x):
        return torch.stack([x[number].flatten() for number in range(x.shape[0])])


@pytest.mark.parametrize("made", [Lengths, Checked])
def test_any_number_of_samples_gives_what_the_module_gives(made):
    module = made().eval()
    session = onnxruntime.InferenceSession(to_onnx(capture(module, torch.randn(2, 3, 8, 8))).SerializeToString())
    for samples in (1, 3):
        x = torch.randn(samples, 3, 8, 8)
        (found,) = session.run(None, {"input": x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, module(x).numpy(), atol=1e-5)


def test_len_is_pythons_own_again_whatever_came():
    capture(Lengths(), torch.randn(2, 3, 8, 8))
    with pytest.raises(UserError):
        capture(Lengths(), torch.randn(2, 4, 8, 8))
    assert "len" not in vars(sys.modules[__name__])


def test_a_number_of_samples_that_is_a_constant_is_told():
    with pytest.raises(UserError, match=r"^Counted does not export: its code makes the number of samples a constant \(2,"):
        capture(Counted(), torch.randn(2, 3, 8, 8))
