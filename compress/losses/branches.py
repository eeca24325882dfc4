"""Losses with exits along the student; exits are not part of the exported model."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import Example, Temperature, as_float32, log_probabilities, split_labels


@final
class Ofa(nn.Module):
    """Cross-entropy with the teacher at the end and at an exit behind each stage (OFA-KD, Hao et al. 2023, paper 7).

    -sum over classes of ((t + 1_y)^e - 1_y) log s, e = ``eps``, mean over samples, for the last logits and for each
    exit: depthwise and pointwise convolutions that halve the map once for every stage that follows, the mean over space,
    a linear layer. Nothing of the teacher's inside is read, so it may be of any kind. Logits of shape (samples,
    classes), targets (samples,), maps (samples, channels, height, width).
    """

    def __init__(self, example: Example, *, eps: float = 1.0, temperature: Temperature = 1.0) -> None:
        super().__init__()
        self._eps, self._temperature = eps, temperature
        classes, maps = example["student_logits"].shape[-1], example["student_features"]
        self.exits = nn.ModuleList(_exit(m.shape[1], len(maps) - 1 - i, classes) for i, m in enumerate(maps))

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, student_features: list[Tensor], targets: Tensor
    ) -> Tensor:
        where, known = split_labels(student_logits, targets)
        teacher = log_probabilities(teacher_logits, self._temperature).exp()
        own = functional.one_hot(where, teacher.shape[1]).to(teacher.dtype) * known[:, None]
        target = (teacher + own) ** self._eps - own
        predictions = [student_logits, *(end(as_float32(m)) for end, m in zip(self.exits, student_features, strict=True))]
        losses = [-(target * log_probabilities(z, self._temperature)).sum(dim=1).mean() for z in predictions]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total


def _exit(channels: int, halvings: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(halvings):
        wider = min(2 * channels, 512)
        layers += [nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False), nn.Conv2d(channels, wider, 1)]
        layers += [nn.GroupNorm(1, wider), nn.ReLU()]
        channels = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
