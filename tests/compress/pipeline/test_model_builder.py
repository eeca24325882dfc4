"""What a stage is given by the builder."""

from dataclasses import replace

import pytest
import torch

from compress.execution.cache import StepCache, digest
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import load
from profiles.device import load as load_profile
from profiles.errors import UserError


def test_a_student_that_is_the_teacher_itself_can_be_trained(small_recipe, tmp_path, quiet):
    """The teacher is frozen for a stage; the student that it starts from must not be."""
    small_recipe.write_text(small_recipe.read_text().replace("width = 0.5\n", "").replace("epochs = 8", "epochs = 1"))
    recipe = load(str(small_recipe))
    builder = ModelBuilder(recipe, load_profile("cpu"), StepCache(tmp_path / "steps", quiet), quiet)
    teacher = builder.teacher()
    start = builder.student(teacher, builder.recipe.student)
    assert start == teacher
    trained = builder.attempt(recipe.stages[0], start, teacher).artifact.module.state_dict()
    before = teacher.artifact.module.state_dict()
    assert any(not torch.equal(trained[name], before[name]) for name in before)


def test_cut_mix_is_refused_where_something_is_true_of_one_image_only(small_recipe, tmp_path, quiet):
    """All that does not fit is told at once, and before anything is trained; losses that ask the teacher alone do."""
    text = small_recipe.read_text()
    told = text.replace("[student]", "cut_mix = 0.5\n[student]").replace('use = "distill"', 'use = "distill"\ncut_mix = 0.5')
    asking = 'use = "quantize"\ncut_mix = 0.5\nlosses = ["kd", { use = "attention", weight = 2.0 }]'
    small_recipe.write_text(told.replace('use = "quantize"', asking))
    builder = ModelBuilder(load(str(small_recipe)), load_profile("cpu"), StepCache(tmp_path / "steps", quiet), quiet)
    with pytest.raises(UserError) as caught:
        builder.check()
    assert len(caught.value.faults) == 2
    assert "teacher: it learns from labels" in caught.value.faults[0]
    assert "stage distill: images of cut_mix show two samples, and its loss 'task'" in caught.value.faults[1]


def test_a_steps_key_tells_fields_and_seed(small_recipe, tmp_path, quiet, monkeypatch):
    """What changes one of them alone changes the key; what changes nothing finds the step that is there."""
    text = small_recipe.read_text().replace("epochs = 8", "epochs = 1")
    small_recipe.write_text(text)
    cache = StepCache(tmp_path / "steps", quiet)
    first = load(str(small_recipe))
    teacher = ModelBuilder(first, load_profile("cpu"), cache, quiet).teacher()
    keys = []

    class AskedError(Exception):
        pass

    def asked(kind, decided, make, **options):
        keys.append(digest(decided))
        raise AskedError

    def key(recipe):
        builder = ModelBuilder(recipe, load_profile("cpu"), cache, quiet)
        with monkeypatch.context() as patch:
            patch.setattr(cache, "step", asked)
            with pytest.raises(AskedError):
                builder.attempt(recipe.stages[0], teacher, teacher)
        return keys[-1]

    longer = replace(first, stages=(replace(first.stages[0], epochs=2), *first.stages[1:]))
    assert key(first) == key(load(str(small_recipe)))
    assert len({key(first), key(replace(first, seed=first.seed + 1)), key(longer)}) == 3
