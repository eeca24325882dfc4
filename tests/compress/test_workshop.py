"""What a stage is given by the workshop."""

import torch

from compress.recipe import load
from compress.workshop import Workshop
from compress.workspace import Workspace
from profiles.device import load as load_profile


def test_a_student_that_is_the_teacher_itself_can_be_trained(small_recipe, tmp_path, quiet):
    """The teacher is frozen for a stage; the student that it starts from must not be."""
    small_recipe.write_text(small_recipe.read_text().replace("width = 0.5\n", "").replace("epochs = 8", "epochs = 1"))
    recipe = load(str(small_recipe))
    workshop = Workshop(recipe, load_profile("cpu"), Workspace(tmp_path / "steps", quiet), quiet)
    teacher = workshop.teacher()
    start = workshop.student(teacher)
    assert start == teacher
    trained = workshop.attempt(recipe.stages[0], start, teacher).artifact.module.state_dict()
    before = teacher.artifact.module.state_dict()
    assert any(not torch.equal(trained[name], before[name]) for name in before)
