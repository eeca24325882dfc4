"""Networks of libraries that give no tensors, or ask for more than tensors, as modules from tensors to tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class AnchorDetector(nn.Module):
    """SSDLite or RetinaNet before its decode: class logits and box offsets of all anchors."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = whole.backbone, whole.head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(pixels).values()))
        return found["cls_logits"], found["bbox_regression"]


class RegionDetector(nn.Module):
    """Faster R-CNN as far as a fixed graph goes.

    Proposals depend on values: so the maps' objectness and offsets are given, and the second stage's answer on one region,
    the whole picture, of which the coarsest map is pooled.
    """

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.backbone, self.rpn = whole.backbone, whole.rpn.head
        self.pool = nn.AdaptiveAvgPool2d(7)
        self.box_head, self.box_predictor = whole.roi_heads.box_head, whole.roi_heads.box_predictor

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.backbone(pixels).values())
        objectness, offsets = self.rpn(maps)
        classes, boxes = self.box_predictor(self.box_head(self.pool(maps[0])))
        return classes, boxes, *objectness, *offsets


class Encoder(nn.Module):
    """The encoder of a transformer that is asked by one tensor."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, features: Tensor) -> Tensor:
        states: Tensor = self.whole(features).last_hidden_state
        return states


class Recurrent(nn.Module):
    """Two GRU layers between linear ones; (samples, steps, 40) to 12 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(40, 64), nn.ReLU()
        self.gru = nn.GRU(64, 96, num_layers=2, batch_first=True)
        self.hidden, self.last = nn.Linear(96, 64), nn.Linear(64, 12)

    def forward(self, steps: Tensor) -> Tensor:
        states, _ = self.gru(self.act(self.first(steps)))
        logits: Tensor = self.last(self.act(self.hidden(states[:, -1])))
        return logits


def _torchvision(name: str) -> Any:
    from torchvision.models import get_model

    return get_model(name, weights=None, weights_backbone=None)


def anchor_detector(name: str) -> nn.Module:
    return AnchorDetector(_torchvision(name))


def region_detector(name: str) -> nn.Module:
    return RegionDetector(_torchvision(name))


def whisper_encoder() -> nn.Module:
    """The encoder of Whisper-tiny: spectra (samples, 80, 3000) to states (samples, 1500, 384)."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    return Encoder(WhisperEncoder(WhisperConfig(**sizes)))


def smp_unet() -> nn.Module:
    """A U-Net of segmentation-models-pytorch on ResNet-18."""
    import segmentation_models_pytorch as smp

    unet: nn.Module = smp.Unet("resnet18", encoder_weights=None, classes=3)
    return unet


def gru() -> nn.Module:
    return Recurrent()
