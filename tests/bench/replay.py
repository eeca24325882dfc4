"""A teacher that is asked once for each batch, by whichever training comes first; the others read its answers from disk.

For budgets so small that the teacher would take most of the time, and that its feature maps fit on the disk.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from compress.models.features import FeatureHooks, ModuleLayers
from deploy.files import write_atomically


@final
class Replayed(nn.Module):
    """``teacher`` as losses see it: its last map of each resolution (``maps.0`` the finest), embedding and logits.

    Answers are kept under ``folder`` by what was asked, byte for byte, in half precision; what is read is always what was
    kept. Trainings with the same seed, batch size and samples ask the same.

    Args:
        example: inputs of shape (samples, channels, height, width) to find the maps with.
    """

    def __init__(self, teacher: nn.Module, example: Tensor, folder: Path) -> None:
        super().__init__()
        layout = ModuleLayers.of(teacher, example)
        assert layout.head is not None, "a classifier has one"
        self._names, self._head, self._folder = list(layout.maps().values()), layout.head, folder
        self._teacher = [teacher.eval()]  # in a list: its own layers are not to be found beside the maps
        self.maps = nn.ModuleList(nn.Identity() for _ in self._names)
        self.head = teacher.get_submodule(layout.head)

    def forward(self, inputs: Tensor) -> Tensor:
        asked = inputs.detach().cpu().contiguous()
        path = self._folder / f"{hashlib.blake2b(asked.numpy().tobytes(), digest_size=16).hexdigest()}.npz"
        if not path.exists():
            self._ask(asked, path)
        with np.load(path) as kept:
            *maps, embedding = [torch.from_numpy(kept[name].astype(np.float32)) for name in kept.files]
        for identity, value in zip(self.maps, maps, strict=True):
            identity(value)
        logits: Tensor = self.head(embedding)
        return logits

    def _ask(self, inputs: Tensor, path: Path) -> None:
        with FeatureHooks(self._teacher[0], self._names, self._head) as taps, torch.no_grad():
            self._teacher[0](inputs)
            answers = [*taps.features(), taps.embedding()]
        content = io.BytesIO()
        np.savez(content, *[answer.half().numpy() for answer in answers])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
