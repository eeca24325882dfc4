"""compress profiles: the devices that are known, what is known of one, and a new one from a connected board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from profiles.errors import UserError

if TYPE_CHECKING:
    from compress.pipeline.runtime_race import RuntimeRace
    from deploy.engines import Affinity
    from profiles.device import DeviceProfile
    from profiles.figures import PowerMode

NEW = "new"


@click.command()
@click.argument("name", required=False)
@click.argument("new_name", required=False, metavar="[NEW_NAME]")
@click.option("--device", "-d", default="local", show_default=True, metavar="URL", help="With new: the board to ask.")
@click.option("--out", type=click.Path(path_type=Path), help="With new: the file to write. [NEW_NAME.toml]")
@click.option("--force", is_flag=True, help="With new: replace the file.")
@click.option("--race/--no-race", default=True, show_default=True, help="With new: order the runtimes by a race there.")
@click.option("--json", "as_json", is_flag=True, help="One profile as JSON.")
def profiles(
    name: str | None, new_name: str | None, device: str, out: Path | None, force: bool, race: bool, as_json: bool
) -> int:
    """List the devices, explain one, or make one.

    \b
    compress profiles                                      all of them
    compress profiles NAME                                 one, with the source of every figure
    compress profiles new NAME --device ssh://user@host    ask a board, write NAME.toml
    """
    if name == NEW:
        return _new(new_name, device, out, force, race=race)
    if new_name is not None:
        raise UserError(f"one profile at a time: {name}, {new_name}; a new one is made by: compress profiles new {new_name}")
    if name is None:
        return _list()
    from profiles.device import load

    profile = load(name)
    click.echo(json.dumps(profile.as_json(), indent=1) if as_json else "\n".join(_explained(profile, name)))
    return 0


def _list() -> int:
    from profiles import device

    able = _affinities()
    for name in device.names():
        profile = device.load(name)
        runtimes = ", ".join(runtime.engine for runtime in profile.runtimes)
        click.echo(f"{name:<23} {profile.title:<39} {runtimes:<24} {_here(name, profile, able)}")
    return 0


def _here(name: str, profile: DeviceProfile, able: dict[str, Affinity]) -> str:
    """Say whether a profile can be used on this machine."""
    from profiles import device

    try:
        differs = device.contradictions(name, device.facts(), "this machine")
    except UserError:
        return f"elsewhere ({' or '.join(profile.arch)})"
    if not any(runtime.engine in able and able[runtime.engine].score >= 0 for runtime in profile.runtimes):
        return "no runtime of it here"
    return "this machine is another" if differs else "runs here"


def _explained(profile: DeviceProfile, name: str) -> list[str]:
    from profiles.device import facts, stated_facts
    from profiles.figures import FIGURES
    from profiles.quantization import QUANTIZATION

    board = stated_facts(name)
    about = board or facts()
    source = "as the profile states it; a connected board's own word counts more" if board else "this machine, as found"
    lines = [f"{profile.name}: {profile.title}"]
    lines += [f"  {about.processor}, {about.cores} cores, {about.memory_bytes / 2**30:.1f} GiB, {about.arch}: {source}"]
    lines += [f"  batch {profile.batch}, {profile.threads} thread(s), channels in multiples of {profile.channel_multiple}"]
    lines += ["runtimes, in order of preference"]
    for runtime in profile.runtimes:
        lines += [f"  {runtime.engine}: {', '.join(runtime.precisions)} (on its {runtime.unit})"]
        if runtime.quantization:
            lines += [f"    int8 as {runtime.quantization}: {QUANTIZATION[runtime.quantization].why}"]
        if runtime.estimate:
            lines += [f"    can be estimated without the device, from {runtime.estimate}"]
    if profile.units:
        lines += ["figures"]
    for unit, figures in profile.units.items():
        for key, figure in figures.items():
            how = f"= {figure.formula}; {figure.source}" if figure.formula else figure.source
            lines += [f"  {unit:<6} {figure.value:>9g} {FIGURES[key]:<40} {figure.kind:<10} {how}"]
    if profile.power_modes:
        lines += ["power modes, by name: ids differ between boards"]
    lines += [f"  {_mode(mode)}" for mode in profile.power_modes]
    return [*lines, *_releases(profile), *[f"note: {note}" for note in profile.notes]]


def _mode(mode: PowerMode) -> str:
    limits = {
        "CPUs": mode.cpus,
        "MHz CPU": mode.cpu_mhz,
        "SM": mode.sms,
        "MHz GPU": mode.gpu_mhz,
        "MHz memory": mode.memory_mhz,
    }
    words = ", ".join(f"{value} {what}" for what, value in limits.items() if value) or "limits not known"
    name = f"{mode.name} (default)" if mode.default else mode.name
    return f"{name:<22} {words}; {mode.kind}: {mode.source}"


def _releases(profile: DeviceProfile) -> list[str]:
    from profiles.facts import jetpack_table

    lines = ["system releases"] if profile.jetpack else []
    for release in jetpack_table():
        if release["jetpack"] in profile.jetpack:
            doubt = f"; unverified: {', '.join(release['unverified'])}" if "unverified" in release else ""
            lines += [
                f"  JetPack {release['jetpack']}: Jetson Linux {release['l4t'][0]} to {release['l4t'][-1]}, Ubuntu "
                f"{release['ubuntu']}, Python {release['python']}, CUDA {release['cuda']}, TensorRT "
                f"{' or '.join(release['tensorrt'])}{doubt}"
            ]
            lines += [f"    {release['note']}"] if "note" in release else []
    return lines


def _new(name: str | None, url: str, out: Path | None, force: bool, *, race: bool) -> int:
    from compress.pipeline.target import device_facts
    from deploy.devices import device
    from deploy.engines import engine
    from profiles.device import load
    from profiles.write import DetectedRuntime, known_board, profile_toml

    if name is None:
        raise UserError("a new profile needs a name: compress profiles new NAME --device ssh://user@host")
    path = out or Path(f"{name}.toml")
    faults = [] if path.suffix == ".toml" else [f"{path}: a profile's file ends in .toml"]
    if path.exists() and not force:
        faults.append(f"{path} is there already; give --force to replace it, or --out FILE")
    if faults:
        raise UserError(*faults)
    there = device(url.removeprefix("@"))
    try:
        about, usable = device_facts(there)
        found = [
            DetectedRuntime(engine=each, version=able["version"], precisions=engine(each).precisions)
            for each, able in usable.items()
            if able["score"] > 0
        ]
        path.write_text(profile_toml(name, about, found, url))
        if race and len(found) > 1:
            from compress.execution.progress import StreamProgress
            from compress.pipeline.runtime_race import race_runtimes

            versions = {runtime.engine: runtime.version for runtime in found}
            raced = race_runtimes(there, load(str(path), about), versions, StreamProgress())
            path.write_text(profile_toml(name, about, found, url, raced.remarks()))
            click.echo(_told(raced), err=True)
    finally:
        there.close()
    if found:
        load(str(path), about)
    like = known_board(about)
    if like is not None:
        click.echo(f"it is a {like.title}: figures of profile {like.name} were taken over, with their sources", err=True)
    click.echo(path)
    return 0


def _told(raced: RuntimeRace) -> str:
    (engine, precision), p50_ms = next(iter(raced.p50_ms.items()))
    lead = "" if raced.interval is None else ", {:.2f} to {:.2f} times as fast as the next runtime".format(*raced.interval)
    doubts = f"; not a clean measurement: {'; '.join(raced.doubts)}" if raced.doubts else ""
    return f"fastest in the race: {engine} in {precision}, {p50_ms:.3f} ms{lead}{doubts}"


def _affinities() -> dict[str, Affinity]:
    from deploy.engines import engine, engines

    return {name: engine(name).affinity() for name in engines()}
