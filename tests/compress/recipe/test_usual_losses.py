"""What a stage learns from where the recipe names no losses: the task's, or its own."""

import pytest

from compress.recipe.parse import parse
from compress.stages.quantize import LOSSES
from compress.tasks.base import Task
from tests.conftest import ROOT


class Heights(Task):
    """A task whose outputs are no class scores."""

    stage_losses = {"distill": ("task", {"use": "l1", "weight": 2.0}), "recovery": ("l1",)}


def stages(kind, **settings):
    table = {
        "task": {"kind": kind, "data": "digits"},
        "teacher": {"model": "compress.models:resnet20"},
        "stage": [{"use": "distill", **settings}, {"use": "prune"}, {"use": "quantize"}],
    }
    found = parse(table, name="r", source=str(ROOT / "r.toml")).stages
    return [[(loss.use, loss.weight) for loss in stage.losses] for stage in found]


def test_the_task_says_what_stages_learn_from():
    own = f"{__file__}:Heights"
    assert stages(own) == [[("task", 1.0), ("l1", 2.0)], [("l1", 1.0)], [("l1", 1.0)]]
    assert stages(own, losses=["l2"])[0] == [("l2", 1.0)], "what the recipe names comes first"


def test_detectors_learn_scores_and_boxes_of_their_teacher():
    alike = [("bce_kd", 4.0), ("boxes", 2.0)]
    assert stages("detection") == [
        [("task", 1.0), *alike, ("cwd", 3.0)],
        [("task", 1.0), *alike],
        [("task", 1.0), *alike],
    ]


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_tasks_with_classes_leave_stages_their_own(kind):
    assert stages(kind)[2] == [(loss.use, loss.weight) for loss in LOSSES]
