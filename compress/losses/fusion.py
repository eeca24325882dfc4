"""Losses on feature maps fused from deep to shallow."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.adapters import Adapters
from compress.losses.base import Example, as_float32, match_sizes, pyramid_mse
from profiles.errors import UserError


@final
class Transkd(nn.Module):
    """Mean square of maps fused across stages, and of patch embeddings (TransKD, Liu et al. 2024, paper 74).

    Going from deep to shallow, each stage of the student is mixed with what came from below it by a softmax over both of
    their channels' attention, and compared with the teacher's map by the mean square at full size and averaged to 4, 2
    and 1 (weights 1, 1/2, 1/4, 1/8 over their sum). Added: ``embed`` * sum of (0.1, 0.1, 0.5, 1) * mean square of the patch
    embeddings through adapters, the last stages when there are fewer. With ``patch_embeddings`` the first half of ``layers``
    are the stages and the second half their patch embeddings, as the paper has it; without, the unfused stages stand for
    them. Maps (samples, channels, height, width), or tokens of a square.

    Raises:
        UserError: ``patch_embeddings`` without as many pairs of embeddings as of stages.
    """

    def __init__(self, example: Example, *, embed: float = 1.0, width: int = 64, patch_embeddings: bool = False) -> None:
        super().__init__()
        count = len(example["student_features"])
        if patch_embeddings and (count < 2 or count % 2):
            raise UserError(
                f"loss transkd: patch_embeddings takes a pair of layers for each stage and then one for each embedding; "
                f"given: {count} pairs; name them all in layers"
            )
        self._stages = count // 2 if patch_embeddings else count
        student, teacher = (example[name][: self._stages] for name in ("student_features", "teacher_features"))
        self._embed = embed
        self.inward = nn.ModuleList(nn.Conv2d(s.shape[1], width, 1) for s in student)
        self.mixers = nn.ModuleList(_Mixer(width) for _ in student[:-1])
        self.outward = nn.ModuleList(nn.Conv2d(width, t.shape[1], 1) for t in teacher)
        shown = {f"{who}_features": self._embedded(example[f"{who}_features"]) for who in ("student", "teacher")}
        self.direct = Adapters.of({**example, **shown}, "features")

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        fused = self._fused([as_float32(s) for s in student_features[: self._stages]])
        stages = teacher_features[: self._stages]
        pairs = [match_sizes(out(f), t) for out, f, t in zip(self.outward, fused, stages, strict=True)]
        loss = torch.stack([pyramid_mse(s, t) for s, t in pairs]).sum()
        shares = (0.1, 0.1, 0.5, 1.0)[-len(pairs) :]
        shares = (0.1,) * (len(pairs) - len(shares)) + shares
        embedded = self.direct(self._embedded(student_features), self._embedded(teacher_features))
        for share, (s, t) in zip(shares, embedded, strict=True):
            loss = loss + self._embed * share * functional.mse_loss(s, t)
        return loss

    def _embedded(self, features: list[Tensor]) -> list[Tensor]:
        """Return the patch embeddings among the layers; the stages where none are given."""
        return features[self._stages :] or features

    def _fused(self, student: list[Tensor]) -> list[Tensor]:
        inner = [layer(s) for layer, s in zip(self.inward, student, strict=True)]
        fused = [inner[-1]]
        for stage in range(len(inner) - 2, -1, -1):
            below = functional.interpolate(fused[0], inner[stage].shape[2:], mode="nearest")
            fused.insert(0, self.mixers[stage](inner[stage], below))
        return fused


class _Mixer(nn.Module):
    """Two maps mixed by a softmax over their channels' weights, from the mean over space of their sum (selective kernel)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.choose = nn.Linear(width, max(8, width // 4)), nn.Linear(max(8, width // 4), 2 * width)

    def forward(self, mine: Tensor, below: Tensor) -> Tensor:
        hidden = torch.relu(self.squeeze((mine + below).mean(dim=(2, 3))))
        shares = self.choose(hidden).unflatten(1, (2, -1)).softmax(dim=1)[..., None, None]
        mixed: Tensor = shares[:, 0] * mine + shares[:, 1] * below
        return mixed
