"""One recipe on several devices: what they share is made once, one report for all, a bundle each.

A device that fails costs the others nothing: it is told, and the same command goes on with it later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from compress.execution import distributed
from compress.execution.cache import StepCache, check_writable
from compress.execution.locks import only_writer
from compress.execution.progress import Progress, keep_telling
from compress.pipeline import bundle, operating_points
from compress.pipeline.results import Guest, guest_models
from compress.pipeline.run import Developed, Finished, develop, finish, race_options, tell_end, until_stage
from compress.pipeline.shared_model import one_for_all
from compress.pipeline.target import AskedDevice
from compress.pipeline.verdict import settled_on
from compress.recipe.spec import Recipe
from compress.report.devices_record import DevicesReport
from compress.report.record import Report
from compress.stages.runner import StageError
from deploy.devices import DeviceError
from deploy.engines import EngineError
from profiles.errors import UserError, one_line

FAILURES = (DeviceError, EngineError, StageError, UserError)
BUNDLE, SHARED = "bundle", "bundle-for-all"
T = TypeVar("T")


def run(
    recipe: Recipe,
    devices: Sequence[AskedDevice],
    out: Path,
    steps: Path,
    progress: Progress,
    until: str | None = None,
    *,
    lock_clocks: bool = False,
    measure_again: bool = False,
    train_each: bool = False,
) -> DevicesReport:
    """Run ``recipe`` for each device; leave ``devices.json``, ``devices.html`` and a folder a device in ``out``.

    Args:
        train_each: whether a device trains a student of its own where one of an earlier device would do.

    Raises:
        UserError, DeviceError, EngineError, StageError: what the first device failed with, where all failed.
    """
    options, chain = race_options(recipe, lock_clocks=lock_clocks, again=measure_again), until_stage(recipe, until)
    check_writable(out)
    faults = {each.name: each.fault for each in devices if each.target is None}
    errors: list[Exception] = []
    training_s: dict[str, float] = {}
    developed: dict[str, Developed] = {}
    reports: dict[str, Report] = {}
    ends: dict[str, Finished] = {}
    with only_writer(out), keep_telling(progress):
        cache, started = StepCache(steps, progress, trains=not measure_again), time.perf_counter()

        def tried(name: str, work: Callable[[], T]) -> T | None:
            before = cache.seconds_training
            try:
                return work()
            except FAILURES as error:
                if distributed.count() > 1:
                    raise  # the other processes wait for this one
                faults[name] = one_line(str(error))
                errors.append(error)
                progress.say(f"{name} failed: {faults[name]}")
                return None
            finally:
                training_s[name] = training_s.get(name, 0.0) + cache.seconds_training - before

        for name, fault in faults.items():
            progress.say(f"{name} is left out: {fault}")
        for each in devices:
            if (target := each.target) is None:
                continue
            progress.say(f"for {each.name}")
            earlier = () if train_each else tuple(developed.values())
            there = (target.profile, target.device, cache, progress, options, out / each.name)
            made = tried(each.name, partial(develop, recipe, chain, *there, earlier))
            if made is not None:
                developed[each.name] = made
        for name, own in developed.items():
            progress.say(f"on {name}")
            finished = tried(name, partial(finish, own, out / name, _guests(name, developed)))
            if finished is not None:
                reports[name], ends[name] = finished.report, finished
        if not reports:
            raise errors[0]
        shared = one_for_all(reports)
        bundles = {
            name: folder
            for name, row in shared.items()
            if len(reports) > 1 and (folder := tried(name, partial(bundle_shared, ends[name], row, out / name, progress)))
        }
        report = DevicesReport(
            name=recipe.name,
            reports=reports,
            faults=faults,
            training_s=training_s,
            one_for_all=shared,
            shared_bundles=bundles,
            same_machine=same_machine(developed),
        )
        if distributed.is_main():
            report.write(out)
        tell_end(cache, started, progress)
    return report


def bundle_shared(finished: Finished, row: str, out: Path, progress: Progress) -> str:
    """Write the bundle of the one model for all devices beside a device's own; return its folder's name in ``out``.

    Where it is the device's best row, that is the device's own bundle.
    """
    own, report = finished.developed, finished.report
    if row == report.verdict.best:
        return BUNDLE
    variant = next(entry.variant for entry in finished.entries if entry.name == row)
    chosen = operating_points.choose(variant, own.teacher, own.evaluator, own.builder, own.cache)
    contents = bundle.collect(variant, own.evaluator, own.builder, chosen)
    if distributed.is_main():
        about = replace(report, verdict=settled_on(report, row), folded=None)
        bundle.bundle(out / SHARED, contents, about, own.builder.profile, progress)
    distributed.wait()
    return SHARED


def same_machine(developed: Mapping[str, Developed]) -> tuple[tuple[str, ...], ...]:
    """Group the devices that are one machine, which share what is timed there."""
    found: dict[str, list[str]] = {}
    for name, own in developed.items():
        found.setdefault(own.evaluator.machine, []).append(name)
    return tuple(tuple(names) for names in found.values() if len(names) > 1)


def _guests(name: str, developed: dict[str, Developed]) -> list[Guest]:
    """List the students of the other devices that are not a device's own too."""
    own, found = developed[name], dict[str, Guest]()
    for other, made in developed.items():
        if other != name and made.standing != own.standing and made.standing != made.teacher:
            for guest in guest_models(other, made.attempts, made.standing):
                found.setdefault(guest.made.step.key, guest)
    return list(found.values())
