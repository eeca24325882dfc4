"""Resolve ``PROFILE[@URL]`` to a profile and a device."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from compress.execution import distributed
from deploy.devices import Device, DeviceError, device
from deploy.devices.local import Local
from deploy.engines import engine, engines
from profiles.device import DeviceProfile, Facts, contradictions, facts, load, with_engines
from profiles.errors import UserError, one_line
from profiles.runtimes import with_named


@final
@dataclass(frozen=True, kw_only=True)
class ResolvedTarget:
    """Device, and its profile less the runtimes that are not there.

    Attributes:
        warnings: where the device is not as its profile states; the device's own word counts.
    """

    profile: DeviceProfile
    device: Device
    warnings: tuple[str, ...] = ()

    def tell_warnings(self, say: Callable[[str], None]) -> None:
        """Say each warning on a line."""
        for warning in self.warnings:
            say(f"warning: {warning}")


def resolve(given: str, engines_named: Sequence[str] | None = None) -> ResolvedTarget:
    """Find the profile and the device of ``PROFILE[@URL]``; PROFILE is a name, or the path of a profile of the user's own.

    Args:
        engines_named: the runtimes to take in the place of the profile's, in that order; those that are not there are
            told among the warnings.

    Raises:
        UserError: no such profile, engine or device, the device has another architecture, or no runtime can run.
        DeviceError: the device cannot be reached.
    """
    name, _, url = given.partition("@")
    load(name)
    there = device(url or "local")
    try:
        device_is, usable = device_facts(there)
        place = "this machine" if isinstance(there, Local) else there.url
        warnings = tuple(contradictions(name, device_is, place))
        profile = load(name, device_is)
        if engines_named is not None:
            profile = with_named(profile, engines_named, {each: engine(each).precisions for each in engines()}, device_is)
        able = {engine_name: (fact["score"] >= 0, fact["reason"]) for engine_name, fact in usable.items()}
        able |= {runtime: (False, why) for runtime, why in _unmade(profile, usable).items() if able[runtime][0]}
        if engines_named is not None:
            warnings += tuple(f"{each} is left out: {able[each][1]}" for each in engines_named if not able[each][0])
        return ResolvedTarget(profile=with_engines(profile, able), device=there, warnings=warnings)
    except UserError:
        there.close()
        raise


def with_address(given: str) -> str:
    """Complete a profile of another architecture than this machine's with an address to fill in.

    Example:
        On x86, ``pixel-8`` gives ``pixel-8@ADDRESS``; ``cpu`` and ``pixel-8@adb://SERIAL`` stay as they are.
    """
    name, _, url = given.partition("@")
    elsewhere = load(name).arch and facts().arch not in load(name).arch
    return f"{name}@ADDRESS" if elsewhere and not url else given


@final
@dataclass(frozen=True, kw_only=True)
class AskedDevice:
    """One of the devices of a run or a search.

    Attributes:
        given: ``PROFILE[@URL]``.
        name: of its folder and column: the profile's, with the address where two have that profile.
        target: None where it cannot be reached; ``fault`` says why.
    """

    given: str
    name: str
    target: ResolvedTarget | None
    fault: str = ""


def resolve_all(given: Sequence[str], engines: Sequence[str] | None = None) -> list[AskedDevice]:
    """Find the profiles and devices of each ``PROFILE[@URL]``; one that cannot be reached is kept with the reason.

    Raises:
        UserError: what is wrong with what was given, of all at once.
        DeviceError: none can be reached.
    """
    faults = [f"--device {text}: named twice" for text in sorted({t for t in given if given.count(t) > 1})]
    names, found, lost = _names(given), [], []
    for text in dict.fromkeys(given):
        try:
            found.append(AskedDevice(given=text, name=names[text], target=resolve(text, engines)))
        except DeviceError as error:
            lost.append(error)
            found.append(AskedDevice(given=text, name=names[text], target=None, fault=one_line(str(error))))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)
    if len(lost) == len(found):
        raise lost[0]
    return found


def _names(given: Sequence[str]) -> dict[str, str]:
    """Name each device by its profile; by its address too where several have the same profile."""
    profiles = {text: Path(text.partition("@")[0]).name.removesuffix(".toml") for text in given}
    names: dict[str, str] = {}
    for text, profile in profiles.items():
        is_one = list(profiles.values()).count(profile) == 1
        address = re.sub(r"[^A-Za-z0-9.]+", "-", text.partition("@")[2] or "local").strip("-")
        name = profile if is_one else f"{profile}-{address}"
        names[text] = name if name not in names.values() else f"{name}-{len(names)}"
    return names


def _unmade(profile: DeviceProfile, usable: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the runtimes whose files this host cannot make, with what it lacks; the device may well run them."""
    reasons: dict[str, str] = {}
    for runtime in profile.runtimes:
        able = usable.get(runtime.engine, {"score": -1})
        if able["score"] < 0:
            continue
        plans = [engine(runtime.engine).plan(profile, precision, able["version"]) for precision in runtime.precisions]
        if missing := sorted({package for plan in plans for package in plan.format.missing()}):
            reasons[runtime.engine] = f"this machine cannot make its files; pip install {' '.join(missing)}"
    return reasons


def runtime_versions(there: Device) -> dict[str, str]:
    """Look up the version of each engine's runtime on a device; empty where it is not there."""
    return {name: able["version"] for name, able in device_facts(there)[1].items()}


@functools.cache
def device_facts(there: Device) -> tuple[Facts, dict[str, dict[str, Any]]]:
    """Ask a device for its facts and each engine's affinity there; asked once a process."""
    own = {name: asdict(engine(name).affinity()) for name in engines()}
    if isinstance(there, Local):
        return facts(), own
    answer = distributed.from_main(_worker_facts(there) if distributed.is_main() else {})
    absent = {"score": -1, "reason": "the device side there does not know it", "version": ""}
    return Facts.from_json(answer["device"]), {name: answer["engines"].get(name, absent) for name in own}


def _worker_facts(there: Device) -> dict[str, Any]:
    from deploy.worker.client import RemoteWorker

    with RemoteWorker(there) as worker:
        return worker.facts()
