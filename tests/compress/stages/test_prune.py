"""prune under a budget, on a real small network; latency on this machine's engine, with short blocks."""

import contextlib
import dataclasses
import io
import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.execution.progress import StreamProgress
from compress.methods.allocation.problem import Allocation
from compress.methods.pruning.attempts import Attempts
from compress.methods.pruning.blocks import removable_blocks
from compress.methods.pruning.channels import find_couplings, rank_groups
from compress.methods.pruning.compensate import compensate
from compress.methods.pruning.importance import IMPORTANCES
from compress.methods.pruning.operations import Narrow, Remove
from compress.methods.pruning.sparse import scale_subgradient, sparsity_penalty
from compress.models import plan
from compress.pipeline.device_costs import DeviceCostModel
from compress.stages import prune
from compress.stages.base import Artifact
from compress.stages.prune import Prune
from compress.stages.runner import run_stage
from compress.training.trainer import Trainer
from deploy.devices import device
from deploy.engines import engine
from deploy.export.to_onnx import capture, to_onnx
from deploy.latency import measure_table, stopwatch
from deploy.latency.stopwatch import Time
from profiles.device import load
from profiles.errors import OutOfReachError, UserError
from tests.conftest import count_parameters, randomise_batch_norms, small_model, small_plan

ARGUMENTS = {"blocks": 2, "in_channels": 1, "classes": 4}
PLAN = plan.Plan(factory="compress.models:resnet", arguments=ARGUMENTS)
DEAD = "layer2.0.conv1"


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    module = PLAN.build()
    randomise_batch_norms(module)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    onnx.save(to_onnx(capture(module, [torch.zeros(2, 1, 16, 16)])), str(path))
    return module.eval(), path


def placed(context, path, folder):
    """A stage's context with this machine as the target of the file at ``path``."""
    profile, quiet = dataclasses.replace(load("cpu"), threads=1), StreamProgress(io.StringIO())
    versions = {r.engine: engine(r.engine).affinity().version for r in profile.runtimes}
    target = DeviceCostModel(lambda: path, device("local"), {"url": "local"}, profile, versions, folder / "latency", quiet)
    return dataclasses.replace(context, target=target, profile=profile)


@pytest.fixture
def given(exported, context, tmp_path):
    module, path = exported
    return Artifact(plan=PLAN, module=module), placed(context, path, tmp_path)


def run(given, **settings):
    stage = Prune(**{"epochs": 0, "by": "macs", "worth": "importance", **settings})
    return run_stage(stage, *given, 0)[0]


def macs(module):
    """Multiply-accumulates of one sample, counted layer by layer as it runs."""
    found = []

    def keep(layer, given, made):
        found.append(layer.weight[0].numel() * made[0].numel())

    handles = [m.register_forward_hook(keep) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        module(torch.zeros(1, 1, 16, 16))
    for handle in handles:
        handle.remove()
    return sum(found)


def test_a_budget_of_macs_is_kept_and_replays_bit_equal(given, tmp_path):
    result = run(given, speed_up=2.0, worth="outputs", depth=False)
    before, after = macs(given[0].module), macs(result.artifact.module)
    assert 0.35 * before < after <= before / 2
    plan.save(tmp_path, result.artifact.plan, result.artifact.module)
    _, again = plan.load(tmp_path)
    inputs = given[1].example
    with torch.no_grad():
        assert torch.equal(again(inputs), result.artifact.module(inputs))
    told = {choice.name: choice for choice in result.choices}
    for path, layer in result.artifact.module.named_modules():
        if isinstance(layer, nn.Conv2d) and path in told:
            assert told[path].after == layer.out_channels


def test_blocks_go_whole_where_that_keeps_more(given):
    result = run(given, speed_up=6.0)
    removed = [o for o in result.artifact.plan.operations if isinstance(o, Remove)]
    assert removed and all(isinstance(result.artifact.module.get_submodule(b), nn.Identity) for b in removed[0].blocks)
    assert {c.name for c in result.choices if c.kind == "block"} == set(removed[0].blocks)
    shallow = run(given, speed_up=2.0, depth=False)
    assert not any(isinstance(o, Remove) for o in shallow.artifact.plan.operations)


def test_rounds_reach_the_same_budget_in_steps(given):
    result = run(given, speed_up=2.0, rounds=2)
    narrows = [o for o in result.artifact.plan.operations if isinstance(o, Narrow)]
    assert len(narrows) == 2
    assert macs(result.artifact.module) <= macs(given[0].module) / 2


class StopsAt:
    """Progress that is interrupted at one step of all trainings; counts those that it saw."""

    def __init__(self, step):
        self.left, self.steps = step, 0

    def say(self, line):
        pass

    @contextlib.contextmanager
    def task(self, name, total, done=0):
        yield self

    def advance(self, steps, note=""):
        self.steps, self.left = self.steps + 1, self.left - 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_killed_between_rounds_goes_on_at_that_round_with_the_same_result(context, tmp_path):
    """128 samples in batches of 64 and an epoch a round: two steps a round; stopped at the first step of the second."""
    settings = {"speed_up": 2.0, "rounds": 2, "epochs": 2, "batch_size": 64, "depth": False}
    artifact, path = Artifact(plan=small_plan(1.0), module=small_model(width=1.0)), tmp_path / "model.onnx"
    onnx.save(to_onnx(capture(artifact.module, [context.example])), str(path))
    there = placed(context, path, tmp_path)

    def attempt(folder, progress):
        return run(
            (artifact, dataclasses.replace(there, folder=tmp_path / folder, trainer=Trainer(0, progress))), **settings
        )

    whole, uncut = attempt("whole", counted := StopsAt(0)), counted.steps
    with pytest.raises(KeyboardInterrupt):
        attempt("killed", StopsAt(3))
    resumed = attempt("killed", counted := StopsAt(0))
    assert (uncut, counted.steps) == (4, 2), "the first round is not trained again"
    assert resumed.artifact.plan == whole.artifact.plan and resumed.choices == whole.choices
    state = resumed.artifact.module.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.artifact.module.state_dict().items())


def test_a_group_that_the_recipe_keeps_is_kept(given):
    result = run(given, speed_up=1.5, groups={"layer3.*": 0.0, "stage/1": 0.9}, depth=False)
    assert all(c.before == c.after for c in result.choices if c.name.startswith("layer3."))
    with pytest.raises(UserError, match=r"groups: 'stage/7' means no group.*stage/1, stage/2, stage/4"):
        run(given, speed_up=1.5, groups={"stage/7": 0.5})


def test_own_thresholds_with_a_ratio(given):
    result = run(given, ratio=0.5, groups={"stage/1": 0.0})
    assert all(c.before == c.after for c in result.choices if c.family == "stage/1")
    assert any(c.before > c.after for c in result.choices)


def test_a_ratio_that_the_multiples_do_not_allow_is_told(given):
    """Each group keeps one multiple of 8 at the least, so a ratio of 0.99 is out of reach, and one of 0.5 is not."""
    result = run(given, ratio=0.99)
    before, after = (sum(getattr(c, name) for c in result.choices) for name in ("before", "after"))
    least = 8 * len(result.choices)
    gone = 1 - after / before
    told = f"ratio 0.99 is asked, {gone:.2f} of the channels went; multiples of 8 allow {1 - least / before:.2f}"
    assert told in result.notes
    assert not any("is asked" in note for note in run(given, ratio=0.5).notes), "what is reached is not told"


def test_a_softened_attempt_measures_nothing_again(given, monkeypatch):
    """Ranking, search and damages are those of the harsher one; the answer is that of a fresh attempt."""
    harsh, made = Prune(epochs=0, by="macs", speed_up=2.0, depth=False), []
    for name in ("rank_groups", "separable_groups", "measure_damages"):
        monkeypatch.setattr(prune, name, counted(made, name, getattr(prune, name)))
    run_stage(harsh, *given, 0)
    assert sorted(made) == ["measure_damages", "rank_groups", "separable_groups"]
    softened = run_stage(harsh.softer(), *given, 0)[0]
    assert len(made) == 3
    alone = run_stage(harsh.softer(), given[0], dataclasses.replace(given[1], attempts=Attempts()), 0)[0]
    assert len(made) == 6 and softened.choices == alone.choices


def counted(calls, name, function):
    def call(*arguments, **options):
        calls.append(name)
        return function(*arguments, **options)

    return call


def test_what_is_out_of_reach_is_said_before_training(given):
    with pytest.raises(OutOfReachError, match=r"stage prune: the least MACs are [\d.]+x fewer; asked 500x"):
        run(given, speed_up=500.0, epochs=1000)


def test_settings_that_contradict_each_other(given):
    with pytest.raises(UserError, match="give one of them") as caught:
        run(given, speed_up=2.0, latency_ms=1.0)
    assert len(caught.value.faults) == 2


def test_what_else_runs_on_the_machine_does_not_move_a_budget(given, monkeypatch):
    """By hand: half of the time by least times, whatever disturbed the median of one of the two."""
    times = [Time(least_ms=2.0, p50_ms=4.0), Time(least_ms=1.0, p50_ms=1.1)]
    monkeypatch.setattr(measure_table, "time_whole_models", lambda *_: times)
    assert given[1].target._share(None, "fp32", {"a": 8}, ["block"]) == 0.5


@pytest.mark.slow
def test_a_budget_by_latency_is_measured_on_the_engine(given, monkeypatch):
    monkeypatch.setattr(measure_table, "WHOLE_PASSES", 2)
    monkeypatch.setattr(stopwatch, "SECONDS", 0.004)
    result = run(given, speed_up=1.6, by="latency", precision="fp32", worth="outputs")
    assert "measured on openvino fp32" in result.about
    assert float(re.search(r"what was chosen takes [0-9.]+ ms \(([0-9.]+)x\)", result.about)[1]) > 1.3
    assert all(c.unit == "ms" for c in result.choices)
    assert any(c.after < c.before and c.bought > 0 for c in result.choices)
    assert count_parameters(result.artifact.module) < count_parameters(given[0].module)


def test_the_residual_blocks_of_a_network(exported, example):
    assert removable_blocks(exported[0], example) == ("layer1.0", "layer1.1", "layer2.1", "layer3.1")


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.linear = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


def test_a_network_without_shortcuts_has_no_blocks_to_take_out(example):
    assert removable_blocks(Plain(), example) == ()


def test_sizes_that_shrink_with_a_group(exported, example):
    groups, _ = rank_groups(exported[0], example)
    found = find_couplings([g for g in groups if g.root == "layer1.0.conv1"])
    names = {f"layer1.0.{n}" for n in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")}
    assert found["layer1.0.conv1"].sizes == {**{n: {0: 1} for n in names}, "layer1.0.conv2.weight": {1: 1}}


def test_families_are_role_and_scale(exported, example):
    groups, _ = rank_groups(exported[0], example)
    families = {g.root: g.family for g in groups}
    assert (families["conv1"], families["layer2.0.conv1"], families["layer3.1.conv1"]) == ("stage/1", "stage/2", "stage/4")


def test_a_constant_channel_is_folded_exactly():
    """Two convolutions with batch norms, no padding: a channel of scale 0 makes relu(shift); cutting it loses nothing."""
    torch.manual_seed(0)
    whole = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)
    ).eval()
    with torch.no_grad():
        whole[1].weight[2], whole[1].bias[2] = 0.0, 1.7
    kept = [0, 1, 3]
    tensors = {"0.weight": {"0": kept}, "0.bias": {"0": kept}, "3.weight": {"1": kept}}
    tensors |= {f"1.{name}": {"0": kept} for name in ("weight", "bias", "running_mean", "running_var")}
    operation = Narrow(tensors=tensors, attributes={"1": {"num_features": 3}})
    inputs = torch.randn(8, 1, 9, 9)
    cut = operation.apply(plan.copy.deepcopy(whole))
    with torch.no_grad():
        assert (cut(inputs) - whole(inputs)).abs().max() > 0.1
        assert compensate(whole, cut, operation, [inputs]) == ()
        torch.testing.assert_close(cut(inputs), whole(inputs), atol=1e-5, rtol=1e-5)


def test_a_constant_is_folded_where_channels_come_last():
    """As in ConvNeXt: linear layers that read (samples, height, width, channels)."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        whole[0].weight[5], whole[0].bias[5] = 0.0, 1.7
    kept = [0, 1, 2, 3, 4]
    tensors = {"0.weight": {"0": kept}, "0.bias": {"0": kept}, "2.weight": {"1": kept}}
    operation = Narrow(tensors=tensors, attributes={"0": {"out_features": 5}, "2": {"in_features": 5}})
    inputs = torch.randn(8, 4, 4, 3)
    cut = operation.apply(plan.copy.deepcopy(whole))
    with torch.no_grad():
        assert compensate(whole, cut, operation, [inputs]) == ()
        torch.testing.assert_close(cut(inputs), whole(inputs), atol=1e-5, rtol=1e-5)


def test_where_only_blocks_go_the_others_are_fitted_too(given):
    artifact, context = given
    groups, _ = rank_groups(artifact.module, context.example)
    chosen = Allocation(widths={}, removed=("layer2.1",), importance=0.0, cost=0.0)
    made, operation, notes = Prune().apply_allocation(artifact, chosen, groups, context)
    bare, _, _ = Prune(reconstruct=False).apply_allocation(artifact, chosen, groups, context)
    assert operation is None and notes == () and [o.name for o in made.plan.operations] == ["remove"]
    inputs = torch.from_numpy(context.data.validation.load(np.arange(32)).inputs)
    with torch.no_grad():
        off = [(less.module.eval()(inputs) - artifact.module.eval()(inputs)).norm() for less in (made, bare)]
    assert off[0] < 0.7 * off[1]


def test_the_sparse_rate_by_hand():
    """Five scales, relief for the top 40 %: the two largest get a hundredth, whatever their sign."""
    scales = [torch.tensor([0.1, -0.9, 0.3]), torch.tensor([-0.2, 0.8])]
    found = scale_subgradient(scales[0], scales, 1e-3, 0.4, 0.01)
    torch.testing.assert_close(found, torch.tensor([1e-3, -1e-5, 1e-3]))
    torch.testing.assert_close(scale_subgradient(scales[1], scales, 1e-3, 0.0, 1.0), torch.tensor([-1e-3, 1e-3]))


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("to_none", [True, False])
def test_the_sparse_rate_is_added_once_a_step_however_many_parts_it_has(parts, to_none):
    """The loss does not depend on the scales, so at rate 0.25 plain descent at 0.5 takes 0.125 off each at each step."""
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    with sparsity_penalty(net, 0.25):
        for _ in range(2):
            optimizer.zero_grad(set_to_none=to_none)
            for _ in range(parts):
                (0 * net(torch.ones(4, 1, 2, 2)).sum() / parts).backward()
            optimizer.step()
    torch.testing.assert_close(net[1].weight.detach(), torch.full((4,), 0.75))
    optimizer.zero_grad()
    (0 * net(torch.ones(4, 1, 2, 2)).sum()).backward()
    assert not net[1].weight.grad.any(), "the block is over"


def test_a_layer_that_sparsity_killed_goes_first(given):
    """Scales of about 0.001 in one block's inside, of about 1 elsewhere: its family's share is taken from it."""
    artifact, context = given
    module = plan.copy.deepcopy(artifact.module)
    with torch.no_grad():
        for path, layer in module.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                size = 1e-3 if path == "layer2.0.bn1" else 1.0
                layer.weight.copy_(size * torch.linspace(0.8, 1.2, len(layer.weight)))
    context = dataclasses.replace(context, profile=dataclasses.replace(context.profile, channel_multiple=1))
    stage = Prune(ratio=0.25, importance="bn_scale", epochs=0, reconstruct=False, compensate=False)
    result = stage.run(dataclasses.replace(artifact, module=module), context)
    family = {c.name: c for c in result.choices if c.family == next(d.family for d in result.choices if d.name == DEAD)}
    quarter = round(sum(c.before for c in family.values()) / 4)
    dead = family[DEAD]
    assert len(family) > 1
    assert dead.before - dead.after == min(quarter, dead.before - 1)
    assert sum(c.before - c.after for c in family.values()) <= quarter


def test_raw_scales_are_kept_and_a_group_without_batch_norm_has_their_mean():
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1)),
        *(nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
    )
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.01, -0.03, 0.02, 0.04]))
        net[6].weight.copy_(torch.tensor([1.0, 2.0, -3.0, 4.0, 5.0, 6.0]))
    groups, _ = rank_groups(
        net, torch.zeros(2, 3, 8, 8), lambda work: IMPORTANCES["bn_scale"](work, [], None), comparable=True
    )
    raw = {group.root: group.importance for group in groups}
    unit = raw["5"][0]
    np.testing.assert_allclose(raw["0"] / unit, [0.01, 0.03, 0.02, 0.04], rtol=1e-5)
    np.testing.assert_allclose(raw["5"] / unit, [1, 2, 3, 4, 5, 6], rtol=1e-5)
    np.testing.assert_allclose(raw["3"].mean() / unit, 21.1 / 10, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(IMPORTANCES))
def test_a_channel_that_does_nothing_is_the_least_important(name, exported, context):
    module = plan.copy.deepcopy(exported[0])
    with torch.no_grad():
        block = module.layer1[0]
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
            tensor[5] = 0
        block.conv2.weight[:, 5] = 0
    batch = context.data.train.load(np.arange(32))
    batches = [(torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))]
    groups, _ = rank_groups(module, context.example, lambda work: IMPORTANCES[name](work, batches, context.task.loss))
    group = next(g for g in groups if g.root == "layer1.0.conv1")
    assert group.importance[5] == group.importance.min() < group.importance.mean()


def test_out_of_reach_is_exit_code_3(monkeypatch, capsys):
    from compress.cli import main

    def asked(**settings):
        raise OutOfReachError("the fastest allocation measured is 1.8x; asked 5x")

    monkeypatch.setattr(main.main, "main", asked)
    assert main.entry([]) == 3
    assert "the fastest allocation measured is 1.8x; asked 5x" in capsys.readouterr().err
