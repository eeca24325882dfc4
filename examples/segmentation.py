"""A task of one's own: which digit each pixel of an image belongs to, judged by mean intersection over union.

A recipe names the three callables below (segmentation.toml does):

    [task]
    kind = "segmentation.py:Segmentation"
    data = "segmentation.py:digit_masks"
    [teacher]
    model = "segmentation.py:encoder_decoder"
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.data import Samples, Splits
from compress.data.base import ArraySamples, split_indices
from compress.tasks import Metric, Predict, Task
from profiles.errors import UserError

CHUNK = 256
BACKGROUND = 10
CLASSES = (*(str(digit) for digit in range(10)), "background")


@final
class Segmentation(Task):
    """Outputs are logits of shape (samples, classes, height, width), targets labels of shape (samples, height, width)."""

    metric = "mIoU"
    unit = "%"

    def check(self, splits: Splits) -> None:
        faults = []
        for name in ("train", "calibration", "validation", "test"):
            samples: Samples = getattr(splits, name)
            if not len(samples):
                faults.append(f"data: the {name} split is empty; every split needs samples")
                continue
            first = samples.load(np.arange(1))
            if first.targets.shape[1:] != first.inputs.shape[2:]:
                faults.append(f"data: {name} has masks of {first.targets.shape[1:]} and images of {first.inputs.shape[2:]}")
        if faults:
            raise UserError(*faults)

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        height, width = splits.train.load(np.arange(1)).targets.shape[1:]
        expected = (2, len(splits.classes), height, width)
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        if given != expected:
            raise UserError(f"gives {given} for two samples; this task reads {expected}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets)

    def logits(self, outputs: Any) -> Tensor:
        """Classes go last, where distillation expects them: each pixel is then a sample of its own."""
        scores: Tensor = outputs.movedim(1, -1)
        return scores

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        for batch in samples.batches(CHUNK):
            found = predict(batch.inputs)[0].argmax(axis=1)
            confusion += counts(batch.targets, found, len(CLASSES))
        right = 100.0 * float(np.trace(confusion) / confusion.sum())
        others = {"pixel_accuracy": right}
        return Metric(name=self.metric, value=mean_iou(confusion), unit=self.unit, samples=len(samples), others=others)


def counts(truth: npt.NDArray[Any], found: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """How many pixels of each true class (rows) were found as each class (columns)."""
    pairs = truth.astype(np.int64).ravel() * classes + found.ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def mean_iou(confusion: npt.NDArray[np.int64]) -> float:
    """Intersection over union of each class that occurs, averaged, in percent."""
    both = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return 100.0 * float((both[either > 0] / either[either > 0]).mean())


def digit_masks(*, seed: int = 0, size: int = 32) -> Splits:
    """The digits that scikit-learn ships, and for each pixel its digit where there is ink, else background."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images.reshape(-1, 1, 8, 8) / 16.0).float()
    large = functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False).numpy()
    masks = np.where(large[:, 0] > 0.4, labels[:, None, None], BACKGROUND)
    parts = split_indices(len(labels), (0.55, 0.05, 0.15), seed)
    train, calibration, validation, test = (ArraySamples((large[p] - 0.3) / 0.3, masks[p]) for p in parts)
    return Splits(train=train, calibration=calibration, validation=validation, test=test, classes=CLASSES)


def encoder_decoder(*, width: float = 1.0, classes: int = len(CLASSES)) -> nn.Module:
    """A small U-Net: two steps down, two steps up, features of each step handed across."""
    return EncoderDecoder([round(channels * width) for channels in (16, 32, 64)], classes)


class EncoderDecoder(nn.Module):
    def __init__(self, widths: list[int], classes: int) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = convolution(1, first)
        self.down1, self.down2 = convolution(first, second, stride=2), convolution(second, third, stride=2)
        self.middle = convolution(third, third)
        self.up1, self.up2 = convolution(third + second, second), convolution(second + first, first)
        self.head = nn.Conv2d(first, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.stem(images)
        half = self.down1(fine)
        deep = self.middle(self.down2(half))
        half = self.up1(torch.cat([functional.interpolate(deep, scale_factor=2.0), half], dim=1))
        fine = self.up2(torch.cat([functional.interpolate(half, scale_factor=2.0), fine], dim=1))
        return self.head(fine)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    return nn.Sequential(*layers)
