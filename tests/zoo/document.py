"""docs/zoo.md from the records: what was asked, a row for each network, and the reasons beneath."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from deploy.files import write_atomically
from tests.zoo import records
from tests.zoo.chain import SECONDS
from tests.zoo.networks import NETWORKS, Network

DOCUMENT = records.FOLDER.parent.parent.parent / "docs" / "zoo.md"
STEPS = ("load", "export", "onnxruntime", "openvino", "prune", "low_rank", "int8", "replay")
PARITY = 0.99999
OF_THEIRS, ALONE = 0.95, 0.20
MEDIAN_S = 60
INTRODUCTION = """# Sixty architectures

`make zoo` takes each through load, export, parity on two runtimes, pruning (a quarter of each group), low rank, int8 and
replay, with random weights and no training, one thread, in a process of its own. Parity is the least cosine of an output in
fp32; int8's is between the engine and the module with fake quantisers. "of theirs" is the share of parameters that
Torch-Pruning takes, asked for the same. Seconds are of processor time, as other work shared the machine; wall seconds follow
in brackets.

"""


def write() -> None:
    """Write the page of the records that are kept."""
    found = {name: record for name in NETWORKS if (record := records.load(name))}
    write_atomically(DOCUMENT, page(found).encode())


def page(found: Mapping[str, records.Record]) -> str:
    """Make the page of records by network."""
    lines = [*_summary(found), "", *_table(found), "", *_reasons(found)]
    return INTRODUCTION + "\n".join(lines) + "\n"


def tell(step: dict[str, Any]) -> str:
    """Word what a step found."""
    told = {"done": "done", "refused": "refused", "late": "not done in time", "traceback": "**traceback**"}[step["state"]]
    figures = [f"{key} {step[key]:.6g}" for key in ("cosine", "share") if key in step]
    reason = [step["reason"]] if "reason" in step else []
    return "; ".join([told, *figures, f"{step['processor_s']:.1f} s", *reason])


def complete(record: records.Record) -> bool:
    """Say whether every step was taken, or refused with a reason."""
    steps = record["steps"]
    return set(STEPS) <= set(steps) and all(steps[s]["state"] in ("done", "refused") for s in STEPS)


def seconds(record: records.Record, clock: str = "processor_s") -> float:
    """Add up what the stages took."""
    return float(sum(step[clock] for step in record["steps"].values()))


def enough(record: records.Record) -> bool | None:
    """Say whether the pruned share is what was asked; None where it was not measured."""
    share = record["steps"].get("prune", {}).get("share")
    if share is None or "beside" not in record:
        return None
    theirs = record["beside"].get("share")
    return bool(share >= (ALONE if theirs is None else OF_THEIRS * theirs))


def _summary(found: Mapping[str, records.Record]) -> list[str]:
    total = len(NETWORKS)
    near = [r for r in found.values() if all(_alike(r["steps"].get(runtime)) for runtime in ("onnxruntime", "openvino"))]
    judged = [enough(r) for r in found.values() if enough(r) is not None]
    images = [seconds(r) for n, r in found.items() if _is_large(NETWORKS[n])]
    replayed = sum(bool(r["steps"].get("replay", {}).get("equal")) for r in found.values())
    rows = [
        (
            "through every stage, or a stage's reason",
            f"{total} of {total}",
            f"{sum(map(complete, found.values()))} of {total}",
        ),
        (
            f"fp32 parity (cosine) >= {PARITY} on both runtimes, or a runtime's refusal",
            f"{total} of {total}",
            f"{len(near)} of {total}",
        ),
        (
            f"pruned share >= {OF_THEIRS} of Torch-Pruning's, else {ALONE:.0%}",
            f"{len(judged)} of {len(judged)} that prune",
            f"{sum(map(bool, judged))} of {len(judged)}",
        ),
        ("replay bit-equal", f"{total} of {total}", f"{replayed} of {total}"),
    ]
    if images:
        late = sum(each > SECONDS for each in images)
        rows += [
            ("all stages at 224 px, median", f"<= {MEDIAN_S} s", f"{statistics.median(images):.0f} s of processor time")
        ]
        rows += [(f"over {SECONDS} s", "none", str(late))]
    return ["| what | asked | measured |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]


def _is_large(network: Network) -> bool:
    return network.reads == "image" and network.side == 224


def _alike(step: dict[str, Any] | None) -> bool:
    return step is not None and (step["state"] == "refused" or step.get("cosine", 0.0) >= PARITY)


def _table(found: Mapping[str, records.Record]) -> Iterable[str]:
    yield "| network | parameters | ONNX Runtime | OpenVINO | pruned | of theirs | low rank | int8 | replay | s | code |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, record in found.items():
        steps = record["steps"]
        size = steps.get("load", {}).get("parameters")
        cells = [
            name,
            "" if size is None else f"{size / 1e6:.2f} M",
            _parity(steps, "onnxruntime"),
            _parity(steps, "openvino"),
            _pruned(record),
            _beside(record),
            _layers(steps.get("low_rank"), "chosen"),
            _int8(steps.get("int8")),
            _replay(steps.get("replay")),
            f"{seconds(record):.0f} ({seconds(record, 'wall_s'):.0f})",
            "" if record["code"] == records.code_of(name, "tests.zoo.chain") else "older",
        ]
        yield f"| {' | '.join(cells)} |"


def _state(step: dict[str, Any] | None) -> str:
    if step is None:
        return "not reached"
    return {"refused": "refused", "late": "not in time", "traceback": "**fails**", "done": "done"}[step["state"]]


def _parity(steps: dict[str, Any], runtime: str) -> str:
    step = steps.get(runtime)
    if step is None or "cosine" not in step:
        return _state(step) if "export" not in steps or steps["export"]["state"] == "done" else "no export"
    shown = f"{step['cosine']:.7f}"
    return shown if step["cosine"] >= PARITY else f"**{shown}**"


def _pruned(record: records.Record) -> str:
    step = record["steps"].get("prune")
    if step is None or "share" not in step:
        return _state(step)
    shown = f"{step['share']:.1%}"
    return f"**{shown}**" if enough(record) is False else shown


def _beside(record: records.Record) -> str:
    theirs = record.get("beside", {})
    if "share" in theirs:
        return f"{theirs['share']:.1%}"
    return "fails" if theirs else ""


def _layers(step: dict[str, Any] | None, key: str) -> str:
    return f"{step[key]} layers" if step is not None and key in step else _state(step)


def _int8(step: dict[str, Any] | None) -> str:
    return f"{step['layers']} layers, {step['cosine']:.5f}" if step is not None and "cosine" in step else _state(step)


def _replay(step: dict[str, Any] | None) -> str:
    if step is None or "equal" not in step:
        return _state(step)
    return "bit-equal" if step["equal"] else "**differs**"


def _reasons(found: Mapping[str, records.Record]) -> Iterable[str]:
    yield "## Reasons"
    yield ""
    for name, record in found.items():
        for step, each in record["steps"].items():
            if "reason" in each:
                yield f"- {name}, {step}: {each['reason']}"
        if record.get("ended"):
            yield f"- {name}: {record['ended']}"
        if "error" in record.get("beside", {}):
            yield f"- {name}, Torch-Pruning: {record['beside']['error']}"
    missing = [name for name in NETWORKS if name not in found]
    if missing:
        yield f"- Not measured yet: {', '.join(missing)}"
    versions = next((r["versions"] for r in found.values()), {})
    yield ""
    yield "Versions: " + ", ".join(f"{package} {version or 'not installed'}" for package, version in versions.items()) + "."
