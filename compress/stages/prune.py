"""prune: groups of coupled channels and whole residual blocks are cut, then the model recovers by distillation."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Annotated, Any, Literal, final

from annotated_types import Ge, Gt, Le, Lt
from torch import nn

from compress.methods.allocation.problem import Allocation
from compress.methods.choice import Choice
from compress.methods.cost_model import Costs
from compress.methods.pruning import budget
from compress.methods.pruning.attempts import Attempts
from compress.methods.pruning.blocks import removable_blocks
from compress.methods.pruning.channels import Group, find_couplings, least_important, match_name, rank_groups
from compress.methods.pruning.compensate import compensate
from compress.methods.pruning.cutting import cut, cut_channels, separable_groups
from compress.methods.pruning.damage import CHANNELS, SUMS, cut_copy, joint_damage, measure_damages
from compress.methods.pruning.importance import BY_FAMILY, COMPARABLE, IMPORTANCES
from compress.methods.pruning.operations import Narrow, Remove
from compress.methods.pruning.proposals import least_damaging
from compress.methods.pruning.reconstruct import reconstruct
from compress.methods.pruning.samples import calibration_inputs, damage_inputs, fit_batches, importance_batches
from compress.methods.pruning.sparse import sparsity_penalty
from compress.stages.base import Artifact, Context, StageResult, copy_module
from compress.stages.trained import TrainedStage
from profiles.device import DeviceProfile
from profiles.errors import UserError

MILDEST, MILDEST_SPEED_UP = 0.05, 1.1
MET_SHARE = 0.8
"""Of a ratio, by which it counts as reached: widths are rounded to multiples either way."""


@final
@dataclass(frozen=True, kw_only=True)
class Prune(TrainedStage):
    """Cut channels, counts a multiple of the profile's: a fraction of them, or by a budget on the device.

    Attributes:
        ratio: without a budget: fraction of its channels that each group loses, least important first, in steps of the
            profile's multiple. Where ``importance`` means the same in every group (``taylor``, and ``bn_scale`` within a
            family) it is the fraction of all channels that are prunable, under one threshold. A stream that has to be
            as wide as its heads is cut to the width of those that stay, whatever multiple that is of.
        speed_up: budget: so many times faster (or fewer of what ``by`` counts); 1 for none.
        latency_ms: budget: median milliseconds on the device; 0 for none.
        by: what the budget is of. ``latency``: measured on the device; ``macs``, ``params``: counted; ``uniform``: the same
            fraction of every group, by latency.
        precision: that latency is measured in; empty for what is fastest on the device.
        importance: what a channel is worth; ``taylor`` needs labels. ``bn_scale`` compares scales as they are, with a
            threshold for each family.
        worth: what a budget weighs against time: the damage that each cut alone does to the model's ``outputs`` on
            calibration samples, or the sum of the channels' ``importance``.
        depth: under a budget, whole residual blocks may go too.
        groups: by family (``stage/4``) or pattern of paths, a fraction of its own: with ``ratio`` it replaces that, and has
            a threshold of its own; under a budget it is the most that may be cut. 0 leaves a group whole.
        rounds: cuts, each followed by its share of the epochs, the last by about twice that of each other.
        compensate: constants that pruned channels made are folded into the layers that read them.
        reconstruct: layers behind what was cut are then fitted, without training, to what they gave before, on calibration
            samples, and so that residual streams are what they were.
        sparse_epochs: epochs before the first cut in which batch norm scales are drawn to zero; ``sparse_rate`` at
            first, from ``sparse_start`` of them on ``relief_factor`` of it for the largest ``relief_fraction``.
    """

    name = "prune"

    ratio: Annotated[float, Gt(0), Lt(1)] = 0.3
    speed_up: Annotated[float, Ge(1)] = 1.0
    latency_ms: Annotated[float, Ge(0)] = 0.0
    by: Literal["latency", "macs", "params", "uniform"] = "latency"
    precision: str = ""
    importance: Literal["l2", "bn_scale", "taylor", "activation"] = "l2"
    worth: Literal["outputs", "importance"] = "outputs"
    depth: bool = True
    groups: Mapping[str, Annotated[float, Ge(0), Lt(1)]] = field(default_factory=dict)
    rounds: Annotated[int, Ge(1)] = 1
    compensate: bool = True
    reconstruct: bool = True
    sparse_epochs: Annotated[int, Ge(0)] = 0
    sparse_rate: Annotated[float, Gt(0)] = 1e-3
    sparse_start: Annotated[float, Ge(0), Le(1)] = 0.4
    relief_fraction: Annotated[float, Ge(0), Lt(1)] = 0.35
    relief_factor: Annotated[float, Ge(0), Le(1)] = 0.01
    epochs: Annotated[int, Ge(0)] = 15
    learning_rate: Annotated[float, Gt(0)] = 0.02

    @property
    def has_budget(self) -> bool:
        """Return whether a budget decides, rather than ``ratio``."""
        return self.speed_up > 1 or self.latency_ms > 0

    @property
    def _ratio_by(self) -> Literal["share", "threshold", "family"]:
        """Return whether ``ratio`` is of each group, or of the channels under one threshold."""
        if self.importance in BY_FAMILY:
            return "family"
        return "threshold" if self.importance in COMPARABLE else "share"

    @property
    def _alike(self) -> Prune:
        """Return what milder attempts have in common with this one."""
        return replace(self, ratio=0.5, speed_up=2.0, latency_ms=0.0)

    @property
    def asks_target(self) -> bool:
        return self.has_budget and self.by in ("latency", "uniform")

    def key(self, profile: DeviceProfile) -> dict[str, Any]:
        return {"channel_multiple": profile.channel_multiple}

    def requires(self, artifact: Artifact, context: Context) -> None:
        super().requires(artifact, context)
        faults: list[str] = []
        if self.speed_up > 1 and self.latency_ms > 0:
            faults.append(
                f"stage prune: speed_up = {self.speed_up:g} and latency_ms = {self.latency_ms:g}; give one of them"
            )
        if self.latency_ms > 0 and self.by in ("macs", "params"):
            faults.append(
                f'stage prune: latency_ms is a budget of milliseconds and by = "{self.by}" has none; give speed_up'
            )
        if self.importance == "taylor" and not context.task.has_labels(context.data.train):
            faults.append('stage prune: importance = "taylor" needs labels, and the training data has none; use "l2"')
        if faults:
            raise UserError(*faults)

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        groups, unfollowed = context.attempts.once("ranking", self._alike, lambda: self._rank(artifact.module, context))
        self._check_names(groups)
        if not self.has_budget:
            return self._by_ratio(artifact, context, groups, unfollowed)
        return self._by_budget(artifact, context, groups, unfollowed)

    def softer(self) -> Prune | None:
        if self.latency_ms > 0:
            return None
        if self.has_budget:
            milder = 1 + (self.speed_up - 1) / 2
            return replace(self, speed_up=milder) if milder >= MILDEST_SPEED_UP else None
        return replace(self, ratio=self.ratio / 2) if self.ratio / 2 >= MILDEST else None

    def _by_ratio(
        self, artifact: Artifact, context: Context, start: Sequence[Group], unfollowed: tuple[str, ...]
    ) -> StageResult:
        multiple = context.profile.channel_multiple
        ratio = 1 - (1 - self.ratio) ** (1 / self.rounds)
        own = {name: 1 - (1 - share) ** (1 / self.rounds) for name, share in self.groups.items()}
        now = replace(artifact, module=self._sparse(artifact, context))
        kept = dict.fromkeys((group.root for group in start), 1.0)
        widths: dict[str, int] = {}
        notes: tuple[str, ...] = ()
        for turn in range(self.rounds):
            groups = list(start) if turn == 0 and not self.sparse_epochs else self._rank(now.module, context)[0]
            operation, notes = cut(now.module, context.example, groups, ratio, multiple, own, by=self._ratio_by)
            if operation is None:
                break
            kept, widths = _still_kept(kept, groups, operation), widths | _widths(groups, operation)
            now, more_notes = self.apply_cut(now, operation, now.module, context)
            notes = (*notes, *more_notes)
            now, more_notes = self._recovered(now, context, turn)
            notes = (*more_notes, *notes)
        if not now.plan.operations[len(artifact.plan.operations) :]:
            return StageResult(artifact=artifact, notes=(*notes, *unfollowed) or ("no group has channels to spare",))
        notes = (*notes, *self._shortfall(start, widths, multiple))
        choices = [_choice(group, widths.get(group.root, len(group.importance)), kept[group.root]) for group in start]
        return StageResult(artifact=now, notes=(*notes, *unfollowed), choices=tuple(choices), about=f"ratio {self.ratio:g}")

    def _shortfall(self, start: Sequence[Group], widths: Mapping[str, int], multiple: int) -> tuple[str, ...]:
        """Say where clearly less went than ``ratio`` asks, as widths that are multiples and groups left whole make it."""
        before = sum(len(group.importance) for group in start)
        gone = 1 - sum(widths.get(group.root, len(group.importance)) for group in start) / before
        if self.groups or gone >= MET_SHARE * self.ratio:
            return ()
        most = 1 - sum(min(group.step(multiple), len(group.importance)) for group in start) / before
        return (f"ratio {self.ratio:g} is asked, {gone:.2f} of the channels went; multiples of {multiple} allow {most:.2f}",)

    def _by_budget(
        self, artifact: Artifact, context: Context, start: Sequence[Group], unfollowed: tuple[str, ...]
    ) -> StageResult:
        space, able, notes = context.attempts.once(
            "search space", self._alike, lambda: self.search_space(artifact, context, start)
        )
        now_cost, goal = space.costs.now, self.latency_ms or space.costs.now / self.speed_up
        if goal >= now_cost:
            return StageResult(artifact=artifact, notes=(f"the model takes {now_cost:.3f} {space.costs.unit} already",))
        aim = budget.target_cost(space, able, goal, evenly=self.by == "uniform")  # out of reach? say so before any training
        now = replace(artifact, module=self._sparse(artifact, context))
        kept = dict.fromkeys((group.root for group in able), 1.0)
        widths: dict[str, int] = {}
        removed: list[str] = []
        for turn in range(self.rounds):
            untouched = turn == 0 and not self.sparse_epochs
            groups = able if untouched else [g for g in self._rank(now.module, context)[0] if g.root in space.couplings]
            share = now_cost * (aim / now_cost) ** ((turn + 1) / self.rounds)
            attempts = context.attempts if untouched else Attempts()
            chosen, cost = self.allocate(space, now, context, groups, removed, share, attempts)
            removed += chosen.removed
            now, operation, more_notes = self.apply_allocation(now, chosen, groups, context)
            kept, widths = _still_kept(kept, groups, operation), widths | _widths(groups, operation)
            notes = (*notes, *more_notes)
            now, more_notes = self._recovered(now, context, turn)
            notes = (*more_notes, *notes)
        choices = budget.list_choices(space, able, widths, {**kept, **dict.fromkeys(removed, 0.0)})
        notes = (*notes, *_missed(space.costs, cost, goal), *unfollowed)
        about = f"{space.costs.about}; what was chosen takes {_cost_text(space.costs, cost)}"
        return StageResult(artifact=now, notes=notes, choices=choices, about=about)

    def search_space(
        self, artifact: Artifact, context: Context, groups: Sequence[Group]
    ) -> tuple[budget.SearchSpace, list[Group], tuple[str, ...]]:
        """Build the search space, with the groups that may be cut and notes on those that may not."""
        if context.target is None:
            raise UserError("a budget needs a device to measure on, and there is none here; give ratio")
        multiple = context.profile.channel_multiple
        able, notes = separable_groups(artifact.module, context.example, groups, multiple)
        couples = find_couplings(able)
        blocks = removable_blocks(artifact.module, context.example) if self.depth and self.by != "uniform" else ()
        blocks = tuple(b for b in blocks if not _kept_whole(b, self.groups))
        by = "latency" if self.by == "uniform" else self.by
        costs = context.target.costs(couples, blocks, by, self.precision)
        notes = (*notes, *(f"{name} is left alone: {why}" for name, why in costs.unfollowed.items()))
        couples = {root: c for root, c in couples.items() if root not in costs.unfollowed}
        able = [group for group in able if group.root in couples]
        there = budget.groups_inside([b for b in blocks if b not in costs.unfollowed], couples)
        floors = {group.root: self._floor(group, multiple) for group in able}
        return (
            budget.SearchSpace(costs=costs, couplings=couples, floors=floors, blocks=there, multiple=multiple),
            able,
            notes,
        )

    def allocate(
        self,
        space: budget.SearchSpace,
        now: Artifact,
        context: Context,
        groups: Sequence[Group],
        removed: Sequence[str],
        share: float,
        attempts: Attempts | None = None,
    ) -> tuple[Allocation, float]:
        """Allocate widths and blocks within ``share`` of the cost's unit, with the cost, measured whole for latency.

        Of all that was measured within it, in earlier ``attempts`` at the same model too, the least harmful is taken.
        """
        once = partial((attempts or Attempts()).once, decided_by=self._alike)
        propose = partial(budget.allocate_widths, space, groups, removed)
        if self.worth == "importance" or self.by == "uniform":
            propose_evenly = partial(propose, evenly=self.by == "uniform")
            return budget.best_within(budget.measure_allocations(propose_evenly, space.costs, removed, share), share)
        samples = damage_inputs(context.data.calibration, context.example)
        blocks = [block for block in space.blocks if block not in removed]
        widths = budget.allowed_widths(space, groups)
        alone = once("damage", make=lambda: measure_damages(now.module, groups, widths, blocks, samples, context.progress))
        sums = [alone.weighted(*how) for how in (SUMS if blocks else CHANNELS)]
        damage = joint_damage(now.module, samples)

        def measured(chosen: Allocation) -> float:
            whole, operation, _ = _operations(now, chosen, groups, context)
            return damage(whole.module if operation is None else cut_copy(whole.module, operation, now.module, samples))

        def damage_of(chosen: Allocation) -> float:
            return once(f"damage of {sorted(chosen.widths.items())} {sorted(chosen.removed)}", make=lambda: measured(chosen))

        earlier: list[tuple[Allocation, float]] = once("measured", make=list)
        proposals = [cache(partial(propose, damages=each, evenly=False)) for each in sums]
        return least_damaging(proposals, damage_of, space.costs, removed, share, context.progress, earlier)

    def _floor(self, group: Group, multiple: int) -> int:
        name = match_name(list(self.groups), group)
        width, least = len(group.importance), group.step(multiple)
        return least if name is None else max(least, math.ceil((1 - self.groups[name]) * width - 1e-9))

    def apply_allocation(
        self, now: Artifact, chosen: Allocation, groups: Sequence[Group], context: Context
    ) -> tuple[Artifact, Narrow | None, tuple[str, ...]]:
        """Remove blocks and cut channels by an allocation; return the model, the cut of its channels, and notes."""
        less, operation, notes = _operations(now, chosen, groups, context)
        cut_artifact, more_notes = self.apply_cut(less, operation, now.module, context)
        return cut_artifact, operation, (*notes, *more_notes)

    def apply_cut(
        self, now: Artifact, operation: Narrow | None, whole: nn.Module, context: Context
    ) -> tuple[Artifact, tuple[str, ...]]:
        """Cut the model (None: only blocks went) and reconstruct it against ``whole``, the model before both; with notes."""
        module = copy_module(now)
        if operation is not None:
            module = operation.apply(module)
            if self.compensate:
                compensate(now.module, module, operation, calibration_inputs(context.data.calibration))
        left: tuple[str, ...] = ()
        if self.reconstruct:
            left = reconstruct(
                whole, module, operation, fit_batches(context.data.calibration, context.example), progress=context.progress
            )
        why = "is not fitted anew after the cut: it runs more than once, reads too much, or is of a class of its own"
        cut_artifact = replace(now, module=module) if operation is None else now.changed(operation, module)
        return cut_artifact, tuple(f"{path} {why}" for path in left)

    def _recovered(self, now: Artifact, context: Context, turn: int) -> tuple[Artifact, tuple[str, ...]]:
        each = max(self.epochs // (self.rounds + 1), min(1, self.epochs // self.rounds))
        epochs = each if turn < self.rounds - 1 else self.epochs - each * turn
        module = copy_module(now)
        notes = self.recover(module, context, part=f"round-{turn}", epochs=epochs)
        return replace(now, module=module), notes

    def _sparse(self, artifact: Artifact, context: Context) -> nn.Module:
        """Copy the model and train it sparsely as the fields say."""
        module = copy_module(artifact)
        first = round(self.sparse_start * self.sparse_epochs)
        relief = (self.relief_fraction, self.relief_factor)
        parts = (("sparse", first, (0.0, 1.0)), ("sparse-relieved", self.sparse_epochs - first, relief))
        for part, epochs, (fraction, factor) in parts:
            if epochs:
                with sparsity_penalty(module, self.sparse_rate, fraction, factor):
                    self.train(module, context, part=part, epochs=epochs)
        return module

    def _rank(self, module: nn.Module, context: Context) -> tuple[list[Group], tuple[str, ...]]:
        measure = IMPORTANCES[self.importance]
        return rank_groups(
            module,
            context.example,
            lambda work: measure(work, importance_batches(context.data.train), context.task.loss),
            comparable=self.importance in COMPARABLE,
        )

    def _check_names(self, groups: Sequence[Group]) -> None:
        unknown = [name for name in self.groups if not any(match_name([name], group) for group in groups)]
        if unknown:
            known = ", ".join(sorted({group.family for group in groups}))
            fault = f"groups: {', '.join(map(repr, unknown))} means no group of channels"
            raise UserError(f"{fault}; families here: {known}; or give a pattern of paths, such as 'layer3.*'")


def _missed(costs: Costs, cost: float, goal: float) -> tuple[str, ...]:
    """Return a note where the budget is not kept."""
    if cost <= goal:
        return ()
    return (f"nothing tried is within {_cost_text(costs, goal)}: what was chosen takes {_cost_text(costs, cost)}",)


def _cost_text(costs: Costs, cost: float) -> str:
    figure = f"{cost:.3f} ms" if costs.unit == "ms" else f"{cost:,.0f} {costs.unit}"
    return f"{figure} ({costs.now / cost:.2f}x)"


def _operations(
    now: Artifact, chosen: Allocation, groups: Sequence[Group], context: Context
) -> tuple[Artifact, Narrow | None, tuple[str, ...]]:
    """Remove blocks by an allocation, and build the cut of its channels, with notes."""
    if chosen.removed:
        removal = Remove(blocks=chosen.removed)
        now = now.changed(removal, removal.apply(copy_module(now)))
    wanted = {g.root: least_important(g, chosen.widths[g.root]) for g in groups if g.root in chosen.widths}
    dropped = {root: channels for root, channels in wanted.items() if channels}
    return now, *cut_channels(now.module, context.example, groups, dropped)


def _choice(group: Group, after: int, kept: float) -> Choice:
    before = len(group.importance)
    return Choice(
        name=group.root, kind="group", family=group.family, before=before, after=after, kept=kept, bought=None, unit=""
    )


def _widths(groups: Sequence[Group], operation: Narrow | None) -> dict[str, int]:
    """Count the channels of each group that stay."""
    return {group.root: len(group.kept_by(operation.tensors if operation else {})) for group in groups}


def _still_kept(kept: Mapping[str, float], groups: Sequence[Group], operation: Narrow | None) -> dict[str, float]:
    """Compute the fractions of importance kept after one more cut."""
    now = dict(kept)
    for group in groups:
        stays = group.kept_by(operation.tensors if operation else {})
        if group.root in now:
            now[group.root] *= float(group.importance[stays].sum() / max(float(group.importance.sum()), 1e-12))
    return now


def _kept_whole(block: str, groups: Mapping[str, float]) -> bool:
    """Return whether the recipe says that nothing under a path may be cut."""
    return any(share == 0 and fnmatch.fnmatchcase(block, name.removesuffix(".*")) for name, share in groups.items())
