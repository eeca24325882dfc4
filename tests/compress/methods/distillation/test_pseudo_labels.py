"""Pseudo-labels: a few samples with labels, many without, and a teacher that knows them."""

from dataclasses import replace

import numpy as np

from compress.data.base import ArraySamples
from compress.methods.distillation.objective import parse_losses
from compress.stages.base import Artifact
from compress.stages.distill import Distill
from compress.stages.runner import run_stage
from tests.conftest import blobs, small_model, small_plan


def test_a_student_learns_from_both(learned, context, tmp_path):
    """Four of 128 samples have labels, all of one class: the other classes are known of the teacher alone."""
    train = blobs(128, 0).load(np.arange(128))
    first = np.flatnonzero(train.targets == 0)[:4]
    labels = np.full(128, -1)
    labels[first] = 0
    data = replace(context.data, train=ArraySamples(train.inputs, labels))
    context = replace(context, data=data, teacher=learned.module.requires_grad_(False))

    def accuracy(folder, losses):
        stage, start = Distill(epochs=4, batch_size=16, losses=losses), Artifact(plan=small_plan(), module=small_model())
        given = replace(context, folder=tmp_path / folder, outputs=tmp_path / folder)
        made = run_stage(stage, start, given, 0)[0].artifact.module
        return context.judge(made, folder)

    sure = {"use": "pseudo_labels", "confidence": 0.8}
    assert accuracy("both", parse_losses(["task", sure])) > 70
    assert accuracy("none", parse_losses(["task", {**sure, "confidence": 1.01}])) < 40, "no decision is as sure as that"
