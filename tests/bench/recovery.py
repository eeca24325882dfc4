"""What a cut network recovers with: losses, rates and optimizers, after the same cut and for the same few steps.

ResNet-56, allocated for twice its measured fp32 speed on OpenVINO; 2 epochs of 5,000 images, so it says what helps a
recovery of minutes. About 15 minutes of one core. Defaults of the stages are chosen by validation; test is beside it.
"""

from __future__ import annotations

import copy
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.methods.distillation.objective import parse_losses
from compress.methods.pruning.channels import rank_groups
from compress.stages.prune import Prune
from compress.stages.trained import RECOVERY
from tests.bench.figure import Figure, Table
from tests.bench.prunable import SUBJECTS
from tests.bench.running import MISSING

EPOCHS = 2
KD: list[Any] = [{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}]
CWD = {"use": "cwd", "weight": 3.0}
MUON: dict[str, Any] = {"optimizer": "muon", "schedule": "linear"}
VARIANTS: dict[str, dict[str, Any]] = {
    "logits and attention, rate 0.05": {"losses": parse_losses([*KD, "attention"]), "learning_rate": 0.05},
    "logits and attention, rate 0.02": {"losses": parse_losses([*KD, "attention"]), "learning_rate": 0.02},
    "logits, attention and cwd, rate 0.05": {"losses": RECOVERY, "learning_rate": 0.05},
    "logits, attention and cwd, rate 0.02 (the default)": {},
    "labels and cwd, rate 0.02": {"losses": parse_losses(["task", CWD])},
    "logits and attention, Muon, rate 0.03": {"losses": parse_losses([*KD, "attention"]), "learning_rate": 0.03, **MUON},
    "logits, attention and cwd, Muon, rate 0.015": {"learning_rate": 0.015, **MUON},
}


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    subject = SUBJECTS["resnet56"]
    with tempfile.TemporaryDirectory() as scratch:
        artifact, context = subject.given(Path(scratch))
        stage = Prune(speed_up=subject.speed_up, precision="fp32", epochs=EPOCHS)
        groups, _ = rank_groups(artifact.module, context.example)
        space, able, _ = stage.search_space(artifact, context, groups)
        chosen, _ = stage.allocate(space, artifact, context, able, (), space.costs.now / stage.speed_up)
        start = stage.apply_allocation(artifact, chosen, able, context)[0].module
        predictor, figures = context.trainer.predictor, []
        for number, (name, settings) in enumerate({"not recovered": None, **VARIANTS}.items()):
            module = copy.deepcopy(start)
            if settings is not None:
                replace(stage, **settings).train(module, context, part=f"variant-{number}")
            judged = [
                context.task.evaluate(predictor(module), d).value for d in (context.data.validation, context.data.test)
            ]
            told = "{:.2f} %, {:.2f} %".format(*judged)
            figures.append(Figure(what=f"{name}: top-1 on validation and test", asked="", measured=told, met=None))
    about = f"{EPOCHS} epochs of {subject.trained} images; 1,000 images judge, a standard error of 0.8 points each"
    return Table(figures=figures, remarks=[about, f"blocks taken out: {', '.join(chosen.removed) or 'none'}"])
