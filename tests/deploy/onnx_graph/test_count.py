import torch
from torch import nn

from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.count import count_macs, count_parameters


def test_by_hand():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8*8 positions x 8 outputs x 27
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # 64 x 8 x 9
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    model = to_onnx(capture(module, [torch.randn(2, 3, 16, 16)]))
    assert count_macs(model) == 64 * 8 * 27 + 64 * 8 * 9 + 5120
    assert count_parameters(model) == (8 * 27 + 8) + (8 * 9 + 8) + 5130
