import pytest
import torch
from torch import nn

from compress.methods.pruning.sparse import sparsity_penalty


def norms():
    """Two batch norms whose scales are 0.1, -0.9, 0.3 and -0.2, 0.8."""
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.1, -0.9, 0.3]))
        net[2].weight.copy_(torch.tensor([-0.2, 0.8]))
    return net


@pytest.mark.parametrize(
    ("relief", "first", "second"),
    [
        ((0.0, 1.0), (0.02, -0.02, 0.02), (-0.02, 0.02)),
        ((0.4, 0.25), (0.02, -0.005, 0.02), (-0.02, 0.005)),  # 0.9 and 0.8 are the largest two of five, of both norms
    ],
)
def test_the_penalty_is_added_to_the_scales_gradients_within_the_block_alone(relief, first, second):
    net = norms()
    for within in (True, False):
        net.zero_grad()
        loss = net(torch.ones(2, 3, 2, 2)).sum() * 0
        if within:
            with sparsity_penalty(net, 0.02, *relief):
                loss.backward()
        else:
            with sparsity_penalty(net, 0.02, *relief):
                pass
            loss.backward()
        expected = torch.tensor([*first, *second]) * within
        torch.testing.assert_close(torch.cat([net[0].weight.grad, net[2].weight.grad]), expected)
        assert net[1].weight.grad.abs().max() == 0 and net[0].bias.grad.abs().max() == 0


def test_the_penalty_draws_scales_towards_zero():
    net = norms()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with sparsity_penalty(net, 0.01):
        for _ in range(5):
            optimizer.zero_grad()
            (net(torch.ones(2, 3, 2, 2)).sum() * 0).backward()
            optimizer.step()
    torch.testing.assert_close(net[0].weight.detach(), torch.tensor([0.05, -0.85, 0.25]))
