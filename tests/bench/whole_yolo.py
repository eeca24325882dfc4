"""YOLO with its decode, as its library exports it: (samples, 4 + classes, places), boxes in pixels and scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deploy.processing.detection.base import Head
from deploy.processing.detection.choose import reader


class Whole(nn.Module):
    """A detector of raw outputs and its decode in one output, boxes as centre and size."""

    def __init__(self, module: nn.Module, size: Any) -> None:
        super().__init__()
        self.module, self.head = module, Head(size=tuple(size))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (samples, channels, height, width) to (samples, 4 + classes, places)."""
        reading = reader("yolo").read(self.module(pixels), self.head)
        corners = reading.boxes
        boxes = torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], dim=-1)
        return torch.cat([boxes, reading.scores], dim=-1).transpose(1, 2)
