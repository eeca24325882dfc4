"""Ranking of teachers by how well they fit the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from compress.methods.distillation.similarity import cka, ensemble_shares, parc
from compress.models.features import embeddings
from compress.models.inputs import as_tensors
from compress.pipeline.model_builder import ModelBuilder
from deploy.engines import inputs
from profiles.errors import UserError


def rank(builder: ModelBuilder, samples: int, power: float) -> list[dict[str, Any]]:
    """Rank every teacher by its similarities to the labels, with its share, the best first (paper 1).

    Raises:
        UserError: the training data has no labels, or a teacher no embedding.
    """
    spec = builder.recipe.teacher
    told = builder.recipe.names
    given = [("teacher", spec.model, spec.weights), *((f"also {n}", a.model, a.weights) for n, a in enumerate(spec.also))]
    names = [told[role].pin.model if role in told else f"{model} {weights or ''}".strip() for role, model, weights in given]
    chosen = np.random.default_rng(builder.recipe.seed).permutation(len(builder.data.train))[:samples].astype(np.int64)
    batch = builder.data.train.load(np.sort(chosen))
    if batch.targets.ndim != 1 or len(np.unique(batch.targets[batch.targets >= 0])) < 2:
        raise UserError("teachers are ranked by class labels of the training data; it has less than two classes of them")
    known = batch.targets >= 0
    rows: list[dict[str, Any]] = []
    for name, found in zip(names, [builder.teacher(), *builder.teachers.also()], strict=True):
        features = embeddings(found.artifact.module, as_tensors(inputs.rows(batch.inputs, known)), name)
        fits = {"parc": parc(features, batch.targets[known]), "cka": cka(features, batch.targets[known])}
        rows.append({"teacher": name, **fits})
    for row, share in zip(rows, ensemble_shares([row["parc"] for row in rows], power), strict=True):
        row["share"] = share
    return sorted(rows, key=lambda row: row["parc"], reverse=True)
