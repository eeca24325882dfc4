"""Every stage on a real model: what the runner promises of all of them."""

import copy
import dataclasses
from dataclasses import fields, is_dataclass

import numpy as np
import onnx
import pytest
import torch

from compress.methods.distillation.objective import parse_losses
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.models import plan
from compress.stages import STAGES, stages
from compress.stages.base import Artifact, Stage, StageResult
from compress.stages.runner import StageError, run_stage
from compress.stages.trained import TrainedStage
from compress.training.schedule import Schedule
from deploy.export.to_onnx import capture, to_onnx
from profiles.errors import UserError
from profiles.tables import load_object
from tests.conftest import count_parameters, small_model, small_plan

QUICK = {
    "distill": {"epochs": 1},
    "prune": {"epochs": 1, "ratio": 0.5},
    "low_rank": {"epochs": 1, "largest_error": 0.7},
    "quantize": {"epochs": 1},
    "pack": {"epochs": 1, "bits": 3, "allocation": "gradient"},
}


def start() -> Artifact:
    return Artifact(plan=small_plan(1.0), module=small_model(width=1.0))


def make(name: str) -> Stage:
    return load_object(stages()[name])(**QUICK[name])


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_is_a_frozen_keyword_only_dataclass_with_defaults(name):
    kind = load_object(STAGES[name])
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert all(f.kw_only for f in fields(kind))
    assert kind.name == name
    assert kind().fields()


@pytest.mark.parametrize("name", sorted(STAGES))
def test_it_changes_nothing_it_was_given_and_replays_bit_equal_and_exports(name, context, tmp_path):
    given = start()
    before = copy.deepcopy(given.module.state_dict())
    result, seconds = run_stage(make(name), given, context, 0)
    assert all(torch.equal(before[k], v) for k, v in given.module.state_dict().items())
    assert result.artifact.stages == (name,)
    assert seconds > 0
    plan.save(tmp_path, result.artifact.plan, result.artifact.module)
    _, again = plan.load(tmp_path)
    inputs = torch.from_numpy(context.data.test.load(np.arange(16)).inputs)
    with torch.no_grad():
        assert torch.equal(again(inputs), result.artifact.module(inputs))
    module = result.artifact.module
    model = to_onnx(module.float_program() if isinstance(module, QuantizedProgram) else capture(module, [context.example]))
    onnx.checker.check_model(model)


def test_the_exported_graph_is_the_same_whichever_losses_trained_it(context):
    """What losses have of their own is not in the model: adapters, exits, heads and codes leave no trace."""
    graphs = []
    for losses in (["kd"], ["task", "ofa", "cwd", "dho", "codebook", "tgeo"]):
        stage = load_object(stages()["distill"])(epochs=1, losses=parse_losses(losses))
        module = run_stage(stage, start(), context, 0)[0].artifact.module
        program = capture(module, [context.example])
        graphs.append((str(program.graph), {name: tuple(v.shape) for name, v in program.state_dict.items()}))
    assert graphs[0] == graphs[1]


def test_any_sequence_replays_bit_equal_and_nothing_follows_quantize(context, tmp_path):
    artifact = start()
    for name in ("distill", "prune", "low_rank", "quantize"):
        artifact = run_stage(make(name), artifact, context, 0)[0].artifact
    assert [o.name for o in artifact.plan.operations] == ["narrow", "factorise", "quantize"]
    plan.save(tmp_path, artifact.plan, artifact.module)
    _, again = plan.load(tmp_path)
    inputs = torch.from_numpy(context.data.test.load(np.arange(16)).inputs)
    with torch.no_grad():
        assert torch.equal(again(inputs), artifact.module(inputs))
    for name in sorted(STAGES):
        with pytest.raises(UserError, match=f"stage {name} cannot follow quantize"):
            run_stage(make(name), artifact, context, 0)


def test_nothing_follows_pack(context):
    packed = run_stage(make("pack"), start(), context, 0)[0].artifact
    for name in sorted(STAGES):
        with pytest.raises(UserError, match=f"stage {name} cannot follow pack"):
            run_stage(make(name), packed, context, 0)


RECOVERING = sorted(n for n in STAGES if issubclass(load_object(STAGES[n]), TrainedStage) and n != "distill")
"""Stages that train what works already."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("pack", "quantize") else ()) for n in RECOVERING]
)
def test_training_that_ends_below_its_start_is_not_taken(name, learned, context):
    """At an absurd rate nothing is learned: what the stage makes without training stays, to the bit, and it is said."""
    context = dataclasses.replace(context, teacher=copy.deepcopy(learned.module))
    mild = {
        "ratio": 0.3,
        "bits": 6,
        "attempt": "trained",
        "epochs": 1,
        "learning_rate": 300.0,
        "keep": 0.9,
        "largest_error": 0.7,
    }
    known = {field.name for field in fields(load_object(STAGES[name]))}
    stage = load_object(STAGES[name])(**{key: value for key, value in mild.items() if key in known})
    made = run_stage(stage, learned, context, 0)[0]
    bare = run_stage(dataclasses.replace(stage, epochs=0), learned, context, 0)[0]
    assert any("below where it started: kept as it was" in note for note in made.notes)
    inputs = torch.from_numpy(context.data.test.load(np.arange(16)).inputs)
    with torch.no_grad():
        assert torch.equal(made.artifact.module(inputs), bare.artifact.module(inputs))


def test_few_steps_have_as_much_less_of_the_rate_and_say_so():
    """25 steps of 128 samples have a quarter of the rate of 100; from there on it is the field's, and so are mild ones."""
    stage = dataclasses.replace(make("prune"), batch_size=128, learning_rate=0.04)
    schedule, notes = stage._recovery(5 * 128 + 17, 5)
    assert (schedule.epochs, schedule.learning_rate) == (5, pytest.approx(0.01))
    assert notes == ("trained for 25 steps, so at a rate of 0.01: learning_rate is for 100 and more",)
    assert stage._recovery(20 * 128, 5)[0].learning_rate == 0.04 and not stage._recovery(20 * 128, 5)[1]
    assert stage._recovery(5, 2)[0].learning_rate == 0.001
    mild = dataclasses.replace(stage, learning_rate=0.0005)
    assert mild._recovery(5, 2) == (Schedule.of(dataclasses.replace(mild, epochs=2)), ())


@pytest.mark.parametrize("name", sorted(STAGES))
def test_softening_ends(name):
    setting, count = make(name), 0
    while setting is not None:
        setting, count = setting.softer(), count + 1
        assert count < 10


def test_prune_makes_multiples_of_the_profile_and_fewer_parameters(context):
    artifact = run_stage(make("prune"), start(), context, 0)[0].artifact
    widths = {m.out_channels for m in artifact.module.modules() if isinstance(m, torch.nn.Conv2d)}
    assert all(w % context.profile.channel_multiple == 0 for w in widths)
    assert count_parameters(artifact.module) < count_parameters(start().module)


def test_low_rank_factors_only_what_gets_cheaper(context):
    result, _ = run_stage(make("low_rank"), start(), context, 0)
    assert count_parameters(result.artifact.module) < count_parameters(start().module)
    assert any("stays whole" in note for note in result.notes)


class Broken(Stage):
    name = "broken"

    def __init__(self, act):
        self.act = act

    def run(self, artifact, context):
        return self.act(artifact)


def scribble(artifact):
    with torch.no_grad():
        artifact.module.conv1.weight += 1
    return StageResult(artifact=artifact)


def other_shape(artifact):
    module = small_model(width=1.0)
    module.linear = torch.nn.Linear(64, 7)
    return StageResult(artifact=Artifact(plan=artifact.plan, module=module))


def crash(artifact):
    raise ZeroDivisionError("in the stage")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (scribble, "stage broken changed its input or the teacher after distill"),
        (other_shape, r"stage broken changed the outputs' shapes from \[\(2, 4\)\] to \[\(2, 7\)\]"),
        (crash, "stage broken failed after distill: in the stage"),
    ],
)
def test_the_runner_holds_a_stage_to_its_contract(act, words, context):
    given = Artifact(plan=small_plan(1.0), module=small_model(width=1.0), stages=("distill",))
    with pytest.raises(StageError, match=words):
        run_stage(Broken(act), given, context, 0)
