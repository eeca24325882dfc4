"""DS-CNN, depthwise separable convolutions on log-mel spectra (Zhang et al. 2017, Hello Edge), and its front end."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from deploy.processing.log_mel import CENTRE, FLOOR, SPREAD, LogMel


@final
class LogMelFrontEnd(nn.Module):
    """Log-mel spectra of recordings as two convolutions, a square and a logarithm, which every runtime has.

    Its numbers are fixed, and no stage changes them. It computes in 32 bits where it is trained with, and stays float in an
    int8 engine (``deploy.qdq.placement``): a grid of 256 steps has no room for what a logarithm tells apart.
    """

    waves: Tensor
    triangles: Tensor

    def __init__(self, settings: LogMel) -> None:
        super().__init__()
        waves, triangles = (torch.from_numpy(kernel)[:, :, None, None] for kernel in settings.kernels())
        self._hop = settings.hop
        self.register_buffer("waves", waves.permute(0, 2, 3, 1).contiguous(), persistent=False)
        self.register_buffer("triangles", triangles.contiguous(), persistent=False)

    def forward(self, recordings: Tensor) -> Tensor:
        """Return spectra (batch, 1, mels, frames) of recordings (batch, 1, samples)."""
        if torch.is_autocast_enabled(recordings.device.type):
            with torch.autocast(recordings.device.type, enabled=False):
                return self._spectra(recordings.float())
        return self._spectra(recordings)

    def _spectra(self, recordings: Tensor) -> Tensor:
        waves = functional.conv2d(recordings[:, :, None], self.waves, stride=(1, self._hop))
        power = functional.conv2d(waves * waves, self.triangles)
        return ((torch.log(power + FLOOR) - CENTRE) / SPREAD).transpose(1, 2)


@final
class DSCNN(nn.Module):
    """A convolution, blocks of a depthwise and a pointwise one, the mean over the map, and a linear classifier."""

    def __init__(self, front_end: LogMel | None, channels: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.front_end = nn.Identity() if front_end is None else LogMelFrontEnd(front_end)
        self.stem = _convolution(1, channels, (4, 10), 2, 1, (1, 4))
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(
                    _convolution(channels, channels, (3, 3), 1, channels, (1, 1)),
                    _convolution(channels, channels, (1, 1), 1, 1, (0, 0)),
                )
                for _ in range(blocks)
            ]
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) for recordings (batch, 1, samples), or spectra (batch, 1, mels, frames)."""
        logits: Tensor = self.linear(self.pool(self.blocks(self.stem(self.front_end(x)))).flatten(1))
        return logits


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: int, groups: int, padding: tuple[int, int]
) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def ds_cnn(
    *,
    rate: int = 16000,
    channels: int = 64,
    blocks: int = 4,
    width: float = 1.0,
    depth: float = 1.0,
    classes: int = 12,
    front_end: bool = True,
    window_ms: float = 32.0,
    hop_ms: float = 16.0,
    mels: int = 40,
    low_hz: float = 20.0,
    high_hz: float = 0.0,
) -> DSCNN:
    """Build a DS-CNN on recordings of ``rate`` samples a second; 64 channels and 4 blocks are the paper's small one.

    Args:
        width: factor on ``channels``, in steps of 8.
        depth: factor on ``blocks``, at least one staying.
        front_end: whether the model takes recordings; without it takes what ``log_mel`` of the data makes of them.
        window_ms, hop_ms, mels, low_hz, high_hz: of the front end, as ``deploy.processing.log_mel.LogMel`` has them.
    """
    settings = LogMel(rate=rate, window_ms=window_ms, hop_ms=hop_ms, mels=mels, low_hz=low_hz, high_hz=high_hz)
    scaled = max(8, 8 * round(channels * width / 8))
    return DSCNN(settings if front_end else None, scaled, max(1, round(blocks * depth)), classes)
