"""The engine of a bundle at the start of a service: the one of the last start, or a new one when its inputs have changed.

So a container builds its engines at its first start, on the device, into a volume.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.bundle import manifest as manifests
from deploy.bundle.build import build_engines
from deploy.bundle.model_file import model_sha256
from deploy.engines import BuildPlan, EngineError, build_record, engine
from deploy.engines.base import save_plan
from deploy.engines.served import open_served
from profiles.device import DeviceProfile
from profiles.errors import UserError, one_line


def prepare(arguments: list[str]) -> int:
    """Run ``prepare BUNDLE CACHE [-- COMMAND...]``: build the bundle's engine into CACHE if needed; print its folder.

    COMMAND then replaces this process, with the folder in ``EDGE_ENGINE``.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    folders, command = arguments[:at], arguments[at + 1 :]
    if len(folders) != 2:
        return _usage("prepare BUNDLE CACHE [-- COMMAND...]")
    try:
        folder, reasons = ready(Path(folders[0]), Path(folders[1]))
    except (UserError, EngineError, OSError) as error:
        return _print_faults(error)
    message = "".join(f"built: {reason}\n" for reason in reasons) or "the engine of the last start fits\n"
    sys.stderr.write(message)
    if command:
        os.environ["EDGE_ENGINE"] = str(folder)
        os.execvp(command[0], command)
    sys.stdout.write(f"{folder}\n")
    return 0


def fits(arguments: list[str]) -> int:
    """Run ``fits BUNDLE CACHE``: exit code 0 when the bundle's engine in CACHE fits this machine now, and opens."""
    if len(arguments) != 2:
        return _usage("fits BUNDLE CACHE")
    try:
        folder, now, reasons = _engine_state(Path(arguments[0]), Path(arguments[1]))
        if reasons:
            raise UserError(*[f"{folder}: {reason}" for reason in reasons])
        plan = BuildPlan(**now["plan"])
        open_served(folder, plan)
    except (UserError, EngineError, OSError) as error:
        return _print_faults(error)
    sys.stdout.write(f"{folder}\n")
    return 0


def ready(bundle: Path, cache: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of an engine that fits this machine, and why it had to be built (nothing when it had not).

    A build that is interrupted or refused leaves the old engine. The bundle's files are checked against its manifest;
    who signed it is ``python -m deploy verify``'s to say.

    Raises:
        UserError: a file of the bundle is missing, altered or decodes to another than its manifest names; its engine cannot
            run here, or this runtime wants another kind of file.
        EngineError: the runtime refused the model.
    """
    folder, now, reasons = _engine_state(bundle, cache)
    if reasons:
        plan, part = BuildPlan(**now["plan"]), folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        build_engines(bundle, manifests.read(bundle)[0], plan, part, cache)
        save_plan(part, plan)
        build_record.save(part, now)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    return folder, reasons


def _engine_state(bundle: Path, cache: Path) -> tuple[Path, dict[str, Any], tuple[str, ...]]:
    """Return the engine's folder, the record that it must have now, and why the present one does not fit."""
    contents, _, _ = manifests.read(bundle)
    manifests.check_files(bundle, contents)
    plan = plan_here(bundle)
    record = build_record.record_from_sha256(model_sha256(bundle, contents, plan), plan, engine(plan.engine).machine())
    folder = cache / f"{plan.engine}-{plan.precision}"
    built = build_record.load(folder)
    return folder, record, ("there is no engine yet",) if built is None else build_record.mismatches(built, record)


def _usage(words: str) -> int:
    sys.stderr.write(f"usage: python -m deploy {words}\n")
    return 2


def _print_faults(error: UserError | EngineError | OSError) -> int:
    faults = error.faults if isinstance(error, UserError) else [one_line(str(error))]
    sys.stderr.write("".join(f"{fault}\n" for fault in faults))
    return 2 if isinstance(error, UserError) else 1


def plan_here(bundle: Path) -> BuildPlan:
    """Return the bundle's plan, or the one for this machine's version of the runtime where that is another than was proven.

    Raises:
        UserError: it cannot run here, or would have to be built from a file that the bundle does not hold.
    """
    try:
        proven = BuildPlan.from_json(json.loads((bundle / "plan.json").read_text()))
        profile = DeviceProfile.from_json(json.loads((bundle / "profile.json").read_text()))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"{bundle}: this is no bundle ({type(error).__name__}: {error})") from None
    runtime = engine(proven.engine)
    able = runtime.affinity()
    if able.score < 0:
        raise UserError(f"{bundle}: its engine {proven.engine} cannot run here: {able.reason}")
    if able.version == proven.version:
        return proven
    sizes = replace(profile, batch=proven.batch, threads=proven.threads)
    plan = runtime.plan(sizes, proven.precision, able.version)
    if plan.source != proven.source:
        raise UserError(
            f"{bundle}: {proven.engine} {able.version} is built from {plan.source} for {plan.precision}, and the bundle "
            f"holds {proven.source} for {proven.version}; make the bundle for this version"
        )
    return plan
