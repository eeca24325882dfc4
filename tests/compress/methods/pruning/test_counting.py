"""Which attributes count channels: what a model reads is tried, what its constructor alone used is not."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.methods.pruning import counting
from compress.methods.pruning.channels import rank_groups
from compress.methods.pruning.cutting import cut


class Heads(nn.Module):
    """Four groups of channels, that are normalised apart, and a width that only the constructor counts on."""

    def __init__(self):
        super().__init__()
        self.width, self.heads, self.window = 16, 4, 4
        self.made, self.read = nn.Conv2d(3, self.width, 3, padding=1), nn.Conv2d(self.width, 10, 1)

    def forward(self, x):
        x = self.made(x)
        split = x.unflatten(1, (self.heads, -1))
        x = torch.softmax(split, dim=2).flatten(1, 2)
        return self.read(x).mean((2, 3))[:, : 6 + self.window]


def test_attributes_that_the_model_reads_are_told_by_their_kind():
    module = Heads().eval()
    stated = [("", "width"), ("", "heads"), ("", "window")]
    read = counting._read_attributes(module, torch.randn(1, 3, 8, 8), stated)
    assert {("Heads", "heads"), ("Heads", "window")} <= read and ("Heads", "width") not in read
    assert type(module) is Heads, "it is left as it was"


def test_a_model_that_fails_is_left_as_it_was():
    module = Heads().eval()
    with pytest.raises(RuntimeError):
        counting._read_attributes(module, torch.randn(1, 5, 8, 8), [("", "heads")])
    assert type(module) is Heads


def test_a_width_that_is_not_read_costs_no_check(monkeypatch):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = 32
            self.made, self.read = nn.Conv2d(3, self.width, 3), nn.Linear(self.width, 10)

        def forward(self, x):
            return self.read(torch.flatten(functional.adaptive_avg_pool2d(torch.relu(self.made(x)), 1), 1))

    checked = []
    monkeypatch.setattr(counting, "Checker", lambda *given: checked.append(given))
    module, example = Wide().eval(), torch.randn(2, 3, 8, 8)
    groups, _ = rank_groups(module, example)
    assert [count.attribute for count in groups[0].counts] == ["width"] and not checked
    monkeypatch.undo()
    operation, notes = cut(module, example, groups, 0.5, 8)
    assert operation.attributes[""] == {"width": 16} and not notes
