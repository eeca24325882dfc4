"""Class vectors as a model's head: an embedding's cosine with the vector of each class (papers 48 and 62).

The vectors are a teacher's, of texts say, and stay as they are in every later training: a new class is a new row.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.data import Samples
from compress.methods.distillation.two_heads import embedded_samples
from compress.models.inputs import as_tensors
from deploy.qdq.class_vectors import SCALES


@final
class ClassVectors(nn.Module):
    """Scores scale * cos(P x, v_c) of an embedding x, (samples, width) to (samples, classes).

    The rows of ``vectors`` are of one length, the scale. They are no layer, so that nothing factorises or trains them.

    Args:
        inputs: width of the embedding.
        width: of the vectors.
    """

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, width)
        self.vectors = nn.Parameter(torch.ones(classes, width), requires_grad=False)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (samples, width) to class scores (samples, classes)."""
        return functional.linear(functional.normalize(self.projection(embedding), dim=-1), self.vectors)


def scaled_rows(vectors: Tensor, scale: float) -> Tensor:
    """Return vectors (classes, width), each of the length ``scale``."""
    return scale * functional.normalize(vectors, dim=1)


def choose_scale(module: nn.Module, head: str, projection: nn.Linear, vectors: Tensor, samples: Samples) -> float:
    """Return the factor of cosines, of ``SCALES``, with the least mean cross-entropy on the labelled ``samples``.

    Args:
        head: path of the linear layer whose inputs are embeddings.
        projection: from those to the width of ``vectors``, (classes, width).
    """
    whole = embedded_samples(module, head, samples).load(np.arange(len(samples)))
    known = whole.targets >= 0
    labels = torch.from_numpy(whole.targets[known]).long()
    with torch.no_grad():
        projected = functional.normalize(projection(as_tensors(whole.inputs[known])), dim=1)
        cosines = projected @ functional.normalize(vectors, dim=1).T
    return min(SCALES, key=lambda scale: float(functional.cross_entropy(scale * cosines, labels)))


def put_class_vectors(module: nn.Module, head: str, width: int, classes: int) -> nn.Module:
    """Replace the linear layer at a path by class vectors that hold ones; changes ``module``."""
    own = module.get_submodule(head)
    assert isinstance(own, nn.Linear), "the path of a linear layer"
    owner, _, leaf = head.rpartition(".")
    setattr(module.get_submodule(owner), leaf, ClassVectors(own.in_features, width, classes))
    return module
