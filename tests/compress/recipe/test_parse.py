import re

import pytest
import tomllib

from compress.recipe import parse as recipe
from compress.recipe.student import student_plan
from compress.stages.prune import Prune
from profiles.errors import UserError

GOOD = """
[task]
data = "digits"
[teacher]
model = "compress.models:resnet20"
arguments = { in_channels = 1 }
[student]
from = "teacher"
width = 0.5
[[stage]]
use = "prune"
ratio = 0.25
losses = ["kd"]
"""


def parse(text):
    return recipe.parse(tomllib.loads(text), name="r", source="r.toml")


def faults_of(text):
    with pytest.raises(UserError) as caught:
        parse(text)
    return caught.value.faults


def test_defaults_are_filled_in_and_the_student_inherits_the_arguments():
    found = parse(GOOD)
    assert found.task.use == "classification"
    assert found.student.arguments == {"in_channels": 1, "width": 0.5}
    assert not found.student.same_as_teacher
    assert found.budget.accuracy_drop_points == 1.0
    (stage,) = found.stages
    assert isinstance(stage, Prune)
    assert (stage.ratio, stage.epochs) == (0.25, 15)
    assert [spec.use for spec in stage.losses] == ["kd"]


def test_every_built_in_recipe_reads_and_is_json():
    for name in recipe.built_in():
        assert recipe.load(name).as_json()["name"] == name


def test_three_mistakes_are_told_at_once_with_file_and_key():
    text = GOOD.replace("ratio = 0.25", "ratio = 1.5").replace('"digits"', '"digts"') + "[budget]\naccuracy = 1\n"
    faults = faults_of(text)
    assert len(faults) == 3
    told = "\n".join(faults)
    assert "r.toml: [task] data: unknown data 'digts' (did you mean 'digits'?)" in told
    assert "r.toml: [[stage]] 1 (prune) ratio: Input should be less than 1; given: 1.5" in told
    assert "r.toml: [budget]: unknown key 'accuracy' (did you mean 'accuracy_drop_points'?)" in told


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('use = "prune"', 'use = "prun"', "unknown stage 'prun' (did you mean 'prune'?)"),
        ('["kd"]', '["kdd"]', "unknown loss 'kdd' (did you mean 'kd'?)"),
        ('["kd"]', '[{ use = "kd", temperatur = 2 }]', "unknown option 'temperatur' (did you mean 'temperature'?)"),
        ("ratio = 0.25", 'ratio = "much"', "ratio: Input should be a valid number"),
        ("ratio = 0.25", "rato = 0.25", "unknown key 'rato' (did you mean 'ratio'?)"),
        ('from = "teacher"', 'from = "nobody"', 'the student starts from "teacher"'),
        ('from = "teacher"', "", 'takes either from = "teacher" or model'),
        ('model = "compress.models:resnet20"', "", "[teacher] model is missing"),
        ('data = "digits"', "", "[task] data is missing"),
        ("[student]", "[studnt]", "unknown key 'studnt' (did you mean 'student'?)"),
        ('data = "digits"', 'data = "digits"\nkind = "clasification"', "did you mean 'classification'"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(old, new, words):
    assert old in GOOD
    assert any(words in fault for fault in faults_of(GOOD.replace(old, new)))


def test_a_file_that_is_not_toml(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[task\n")
    with pytest.raises(UserError, match="bad.toml: not TOML"):
        recipe.load(str(path))


def test_an_unknown_recipe_suggests_a_built_in_one():
    with pytest.raises(UserError, match="did you mean 'digits'"):
        recipe.load("digit")
    with pytest.raises(UserError, match="no such file"):
        recipe.load("nowhere/x.toml")


def test_weights_are_relative_to_the_recipe():
    assert parse(GOOD.replace("arguments", 'weights = "w.pth"\narguments')).teacher.weights == "w.pth"
    table = tomllib.loads(GOOD.replace("arguments", 'weights = "w.pth"\narguments'))
    assert recipe.parse(table, name="r", source="there/r.toml").teacher.weights == "there/w.pth"


SEARCH = """
[student]
model = "compress.models:resnet"
[student.search]
speed_up = 4
choices.blocks = [1, 2]
[task]
data = "digits"
[teacher]
model = "compress.models:resnet20"
"""


def test_a_searched_student_has_choices_and_its_factory_gets_one_of_each():
    found = parse(SEARCH)
    assert found.student.search.choices == {"blocks": (1, 2)} and found.student.search.speed_up == 4
    assert not found.student.same_as_teacher
    assert student_plan(found.student, {"blocks": 2}).arguments == {"blocks": 2}
    ofs = parse(SEARCH.replace('model = "compress.models:resnet"\n[student.', 'from = "teacher"\n[student.'))
    assert not ofs.student.same_as_teacher, "what it becomes is not known yet"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("choices.blocks = [1, 2]", "choices.blocks = 3", "choices: a list of values for each argument"),
        ("choices.blocks = [1, 2]", "", "choices: a list of values for each argument"),
        ("[student.search]", "arguments = { blocks = 1 }\n[student.search]", "blocks is in arguments too"),
        ("speed_up = 4", "speed_up = 0", "speed_up: Input should be greater than 0"),
        ("speed_up = 4", "speedup = 4", "speed_up"),
    ],
)
def test_faults_of_a_search(old, new, fault):
    assert any(fault in told and "[student.search]" in told for told in faults_of(SEARCH.replace(old, new)))


@pytest.mark.parametrize("key", ["latency_ms_p50", "size_mib", "stored_mib", "peak_mib", "load_ms", "total_ms"])
def test_a_budget_of_nothing_is_told(key):
    (told,) = faults_of(GOOD + f"[budget]\n{key} = 0\n")
    assert f"[budget] {key}: Input should be greater than 0" in told


def test_a_choice_of_two_literals_is_one_line():
    (told,) = faults_of(GOOD + '[[stage]]\nuse = "quantize"\nranges = "mx"\n')
    words = "ranges: Input should be 'minmax', 'percentile', 'mse', 'norm' or 'entropy', or 'best'; given: 'mx'"
    assert told.endswith(words)


def test_a_student_without_arguments_is_the_teacher():
    assert parse(GOOD.replace("width = 0.5", "")).student.same_as_teacher


def test_files_and_paths_are_relative_to_the_recipe_and_variables_are_filled_in(monkeypatch):
    monkeypatch.setenv("PLACE", "/data")
    text = GOOD.replace('"digits"', '{ use = "mine.py:splits", path = "$PLACE/x" }')
    text = text.replace("compress.models:resnet20", "nets.py:net")
    found = recipe.parse(tomllib.loads(text), name="r", source="/there/r.toml")
    assert found.data.use == "/there/mine.py:splits"
    assert found.data.arguments == {"path": "/data/x"}
    assert found.teacher.model == found.student.model == "/there/nets.py:net"
    relative = recipe.parse(tomllib.loads(text.replace("$PLACE/", "")), name="r", source="/there/r.toml")
    assert relative.data.arguments == {"path": "/there/x"}


OWN_LOSS = """
def halved(student_logits, teacher_logits, *, scale=0.5):
    return scale * (student_logits - teacher_logits).abs().mean()

def odd(student_logits, colour):
    return student_logits.mean()
"""


def test_a_loss_of_the_users_own_is_named_by_file_and_its_code_is_in_the_key(tmp_path):
    from compress.methods.distillation.loss_specs import loss_modules
    from compress.pipeline.cache_keys import code_key

    (tmp_path / "own_losses.py").write_text(OWN_LOSS)
    path = tmp_path / "r.toml"
    text = """
[task]
data = "digits"
[teacher]
model = "compress.models:resnet20"
[[stage]]
use = "distill"
losses = ["task", { use = "own_losses.py:halved", weight = 2.0, scale = 0.25 }, "l1"]
"""
    path.write_text(text)
    (stage,) = recipe.load(str(path)).stages
    assert stage.losses[1].use == f"{tmp_path / 'own_losses.py'}:halved" and stage.losses[1].options == {"scale": 0.25}
    before = code_key(*loss_modules(stage.losses))
    (tmp_path / "own_losses.py").write_text(OWN_LOSS.replace("0.5", "0.75"))
    assert code_key(*loss_modules(stage.losses)) != before
    for wrong, words in (
        ("own_losses.py:none", "has no 'none'"),
        ("own_losses.py:odd", "it reads colour; losses can read student_logits"),
        ("nowhere.py:halved", "no such file"),
        ("halvd", "unknown loss 'halvd'"),
    ):
        path.write_text(text.replace("own_losses.py:halved", wrong).replace(", scale = 0.25", ""))
        with pytest.raises(UserError, match=re.escape(words)):
            recipe.load(str(path))


def test_baselines_are_names_or_tables_each_a_row_of_its_own():
    models = """[
        "compress.models:resnet20",
        { model = "compress.models:resnet", name = "narrow", arguments = { width = 0.5 }, weights = "w.safetensors" },
    ]"""
    found = parse(f"{GOOD}[baselines]\nmodels = {models}").baselines
    assert [(each.name, each.model) for each in found] == [
        ("resnet20", "compress.models:resnet20"),
        ("narrow", "compress.models:resnet"),
    ]
    assert found[0].weights is None and found[1].weights == "w.safetensors" and found[1].arguments == {"width": 0.5}
    assert parse(GOOD).baselines == ()


def test_every_fault_of_baselines_is_named():
    models = """[
        "compress.models:resnet20",
        "other:resnet20",
        { model = "a:b", name = "teacher" },
        { model = "a:b", widht = 1 },
        { model = "a:c", sha256 = "SHA" },
    ]""".replace("SHA", "0" * 64)
    faults = "\n".join(faults_of(f"{GOOD}[baselines]\nmodels = {models}"))
    assert "'resnet20' names a row; a name that is free" in faults and "'teacher' names a row" in faults
    assert "unknown key 'widht'" in faults and "a:c sha256: of the file that weights names" in faults
    assert "models" in "\n".join(faults_of(f"{GOOD}[baselines]\nmodels = 3"))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("transformers:$PLACE/minilm", "transformers:/there/minilm"),
        ("transformers:models/minilm", "transformers:/recipes/models/minilm"),
        ("transformers:/saved/minilm", "transformers:/saved/minilm"),
        ("transformers:bert", "transformers:bert"),
    ],
)
def test_a_saved_model_of_transformers_is_found_from_the_recipes_folder(given, found, monkeypatch):
    monkeypatch.setenv("PLACE", "/there")
    text = TEXT_OF_A_SAVED_MODEL.replace("MODEL", given)
    assert recipe.parse(tomllib.loads(text), name="r", source="/recipes/r.toml").teacher.model == found


TEXT_OF_A_SAVED_MODEL = """
[task]
kind = "classification"
data = "digits"
[teacher]
model = "MODEL"
arguments = { head = "text" }
weights = "/there/model.safetensors"
"""
