"""Label-assisted distillation (LAD, 2024, paper 67): a teacher with labels at its input.

A copy of the teacher whose first convolution reads one channel more: the map of labels, each class a random number, drawn
anew for each image. The map shows where things begin and end, not what they are. Such a teacher only teaches; it is never
measured nor shipped.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.data import Batch, Samples
from compress.data.base import Indices
from compress.models.inputs import ModelInputs, as_tensors, describe
from profiles.errors import UserError


@final
class LabelAssistedTeacher(nn.Module):
    """``inner``, a module of images and a map of labels, (samples, channels + 1, height, width).

    The last channel holds labels as numbers, -1 where there is none; without it there is none anywhere. Training draws the
    classes' numbers anew each time; otherwise the images decide them, so that equal inputs have equal outputs.

    Args:
        channels: of the images.
        scale: of what ``inner`` reads for a label: ``scale`` times a standard normal number for each class of an image (100
            in the paper, whose pixels go to 255), 0 where there is no label.
        noise: that each pixel of it is off by, in units of ``scale``.
    """

    def __init__(self, inner: nn.Module, *, channels: int, scale: float, noise: float) -> None:
        super().__init__()
        self.inner, self._channels, self._scale, self._noise = inner, channels, scale, noise

    def forward(self, inputs: Tensor) -> Any:
        """Map images (samples, channels [+ 1], height, width) to the outputs of ``inner``."""
        images, labels = inputs[:, : self._channels], inputs[:, self._channels :]
        if not labels.shape[1]:
            labels = torch.full_like(images[:, :1], -1)
        return self.inner(torch.cat([images, self._encoded(images, labels)], dim=1))

    def _encoded(self, images: Tensor, labels: Tensor) -> Tensor:
        generator = None if self.training else _generator(images)
        known, where = labels >= 0, labels.clamp(min=0).long()
        drawn = torch.randn(len(labels), int(where.max()) + 1, generator=generator).to(labels)
        off = torch.randn(labels.shape, generator=generator).to(labels)
        numbers = drawn.gather(1, where.flatten(1)).reshape(labels.shape)
        return torch.where(known, self._scale * (numbers + self._noise * off), torch.zeros_like(labels))


@final
class LabelledSamples(Samples):
    """Samples whose inputs carry their labels as a further channel."""

    def __init__(self, samples: Samples) -> None:
        self._samples, self.classes = samples, samples.classes

    def __len__(self) -> int:
        return len(self._samples)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        """Load samples by index, labels appended to the inputs."""
        batch = self._samples.load(indices, augment)
        inputs = append_labels(as_tensors(batch.inputs), torch.from_numpy(batch.targets))
        return Batch(inputs.numpy(), batch.targets)

    def fingerprint(self) -> str:
        """Return a digest of the samples that tells them from the same without labels."""
        return f"{self._samples.fingerprint()}-with-labels"


def append_labels(inputs: ModelInputs, targets: Tensor) -> Tensor:
    """Append a map of labels in the size of the image as the inputs' last channel.

    Raises:
        UserError: targets are not maps of labels, (samples, height, width).
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or targets.dim() != 3 or targets.is_floating_point():
        raise UserError(
            "[teacher.labelled] is for images whose targets are maps of labels, (samples, height, width), so that a map "
            f"says something; given: inputs {describe(inputs)}, targets {tuple(targets.shape)}; leave it out"
        )
    maps = functional.interpolate(targets[:, None].to(inputs.dtype), size=inputs.shape[2:], mode="nearest")
    return torch.cat([inputs, maps], dim=1)


def teacher_inputs(teacher: nn.Module, inputs: ModelInputs, targets: Tensor) -> ModelInputs:
    """Return the inputs of ``teacher`` on a batch, with labels where it is label-assisted."""
    return append_labels(inputs, targets) if isinstance(teacher, LabelAssistedTeacher) else inputs


def add_label_channel(module: nn.Module, example: ModelInputs, settings: Mapping[str, float]) -> LabelAssistedTeacher:
    """Add an input channel for labels with weights 0, so that outputs stay the same; changes ``module``.

    Raises:
        UserError: no convolution reads the inputs themselves.
    """
    if not isinstance(example, Tensor):
        raise UserError(f"[teacher.labelled] is for images; the data gives {describe(example)}; leave it out")
    readers: list[str] = []

    def watch(name: str) -> Any:
        return lambda layer, inputs: readers.append(name) if inputs[0] is example else None

    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    with torch.no_grad():
        module.eval()(example)
    for handle in handles:
        handle.remove()
    if len(readers) != 1 or layers[readers[0]].groups != 1:
        raise UserError(
            "[teacher.labelled] needs a teacher whose images go into one convolution without groups; "
            f"given: {', '.join(readers) or 'none'}; leave it out"
        )
    owner, _, leaf = readers[0].rpartition(".")
    setattr(module.get_submodule(owner), leaf, _wider(layers[readers[0]]))
    return LabelAssistedTeacher(module, channels=example.shape[1], **settings)


def _wider(layer: nn.Conv2d) -> nn.Conv2d:
    """Add an input channel with weights 0 to a convolution, in place."""
    layer.weight = nn.Parameter(torch.cat([layer.weight.detach(), torch.zeros_like(layer.weight[:, :1])], dim=1))
    layer.in_channels += 1
    return layer


def _generator(images: Tensor) -> torch.Generator:
    """Seed a generator by the first image."""
    return torch.Generator().manual_seed(zlib.crc32(images[0].detach().float().cpu().contiguous().numpy().tobytes()))
