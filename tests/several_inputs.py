"""Models with several inputs, and data for them: a pair of images, and a text of ids with its mask."""

import numpy as np
import torch
from torch import nn


class Pair(nn.Module):
    """Whether two images show the same pattern."""

    def __init__(self, width=32):
        super().__init__()
        self.left_tower, self.right_tower = (
            nn.Sequential(nn.Conv2d(1, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(2)
        )
        self.mix = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(2 * width, 2)

    def forward(self, left, right):
        both = torch.cat([self.left_tower(left), self.right_tower(right)], 1)
        return self.head(self.mix(both).flatten(1))


class Text(nn.Module):
    """A transformer over ids, a mask telling which places hold a word."""

    def __init__(self, width=32):
        super().__init__()
        self.words = nn.Embedding(50, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True, norm_first=True, dropout=0.0)
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids, attention_mask):
        given = attention_mask[..., None].float()
        hidden = self.block(self.words(input_ids), src_key_padding_mask=attention_mask == 0)
        return self.head((hidden * given).sum(1) / given.sum(1))


def pairs(count=160, seed=0):
    """Return pairs of images, and whether they show the same of four patterns."""
    random = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).normal(size=(4, 1, 8, 8))
    left = random.integers(0, 4, count)
    right = np.where(random.random(count) < 0.5, left, (left + random.integers(1, 4, count)) % 4)
    images = {
        name: (patterns[shown] + 0.3 * random.normal(size=(count, 1, 8, 8))).astype(np.float32)
        for name, shown in (("left", left), ("right", right))
    }
    return images, (left == right).astype(np.int64)


def texts(count=160, seed=0):
    """Return texts of up to 12 words, and which of three words stands among the first six."""
    random = np.random.default_rng(seed)
    labels, ids = random.integers(0, 3, count), random.integers(3, 50, (count, 12))
    ids[np.arange(count), random.integers(0, 6, count)] = labels
    mask = (np.arange(12) < random.integers(6, 13, count)[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask}, labels


def pair(width=32):
    torch.manual_seed(0)
    return Pair(width)


def text(width=32):
    torch.manual_seed(0)
    return Text(width)
