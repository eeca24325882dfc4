"""Models with states and sequences for them: a voice detector, a keyword spotter, a causal convolution with its cache."""

import numpy as np
import torch
from torch import nn


class Spotter(nn.Module):
    """Which of three words a sequence of frames holds, by a GRU; its state is (samples, layers, width)."""

    def __init__(self, width=16):
        super().__init__()
        self.before = nn.Linear(6, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, frame, h=None):
        state = None if h is None else h.transpose(0, 1).contiguous()
        hidden, state = self.gru(torch.relu(self.before(frame))[:, None], state)
        return {"logits": self.head(hidden[:, 0]), "hn": state.transpose(0, 1)}


class Detector(nn.Module):
    """Whether there is a voice at each step: a causal convolution whose cache is the frames before, and a running level."""

    def __init__(self, width=8, kernel=4):
        super().__init__()
        self.conv = nn.Conv1d(6, width, kernel)
        self.head = nn.Linear(width + 1, 2)

    def forward(self, frame, cache, level):
        window = torch.cat([cache, frame[:, :, None]], 2)
        level = 0.75 * level + 0.25 * frame.abs().mean(1, keepdim=True)
        found = torch.relu(self.conv(window))[:, :, 0]
        return self.head(torch.cat([found, level], 1)), window[:, :, 1:], level


def spotter(width=16):
    torch.manual_seed(0)
    return Spotter(width)


def detector(width=8):
    torch.manual_seed(0)
    return Detector(width)


def words(count=240, steps=12, seed=0):
    """Return sequences of frames, and which of three patterns they hold in order."""
    random, patterns = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(3, 3, 6))
    labels = random.integers(0, 3, count)
    frames = random.normal(0, 0.4, (count, steps, 6))
    starts = random.integers(0, steps - 3, count)
    for frame, label, start in zip(frames, labels, starts, strict=True):
        frame[start : start + 3] += 2 * patterns[label]
    return frames.astype(np.float32), labels


def voices(count=120, steps=20, seed=0):
    """Return sequences of frames, and whether the last four were loud on average, at each step."""
    random = np.random.default_rng(seed)
    loud = np.repeat(random.random((count, steps // 4)) < 0.5, 4, axis=1)
    frames = random.normal(0, 0.3, (count, steps, 6)) + 1.2 * loud[..., None]
    level = np.stack([frames[:, max(0, t - 3) : t + 1].mean(axis=(1, 2)) for t in range(steps)], axis=1)
    return {"frame": frames.astype(np.float32)}, (level > 0.6).astype(np.int64)
