"""What a worker's answer to each request must hold: it is another machine's, and may be anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from deploy.measure.conditions import Conditions
from deploy.measure.load import Load
from deploy.measure.path_times import PARTS
from deploy.measure.timing import Times
from profiles.errors import one_line

MOST_TEXT = 1000
MOST_COUNT = 2**63
MOST_SCORE = 100


def is_answer(do: str, result: object) -> bool:
    """Return whether an answer holds everything that is read from it, each of its kind; numbers are finite."""
    try:
        return isinstance(result, dict) and ANSWERS[do](result)
    except (LookupError, TypeError, AttributeError):
        return False


def as_lines(value: Any) -> Any:
    """Return plain data with each text, names of tables too, as one printable line of at most ``MOST_TEXT``."""
    if isinstance(value, str):
        return one_line(value, MOST_TEXT)
    if isinstance(value, dict):
        return {as_lines(key): as_lines(each) for key, each in value.items()}
    return [as_lines(each) for each in value] if isinstance(value, list) else value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST_COUNT and value >= 0


def _is_finite(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < MOST_COUNT
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_optional(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


def _all(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda values: isinstance(values, list) and all(map(check, values))


def _table(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda values: isinstance(values, dict) and all(map(check, values.values()))


def _record(kinds: Mapping[str, Callable[[object], bool]]) -> Callable[[Any], bool]:
    """Check each key that is there, and that there are no others; which of them may be missing the record itself says."""
    return lambda data: isinstance(data, dict) and all(key in kinds and kinds[key](value) for key, value in data.items())


_LOAD = {
    "wall_s": _is_number,
    "cores": _is_count,
    "interruptions": _is_optional(_is_count),
    "others_s": _is_optional(_is_finite),
    "stolen_s": _is_optional(_is_finite),
}
_TIMES = {"called": _all(_is_number), "own": _all(_is_number), "blocks": _all(_is_count), "load": _record(_LOAD)}
_CONDITIONS = {
    "power_mode": _is_optional(_is_text),
    "governors": _table(_is_text),
    "clocks_mhz": _table(_is_finite),
    "temperatures_c": _table(_is_finite),
    "throttle": _table(_is_finite),
    "power_mw": _table(_is_finite),
    "load_average": _is_optional(_is_number),
}
RECORDS: dict[type, Collection[str]] = {Load: _LOAD, Times: _TIMES, Conditions: _CONDITIONS}
"""Keys that are known of each record that comes in an answer."""
_FACTS = {
    "texts": ("arch", "processor", "system"),
    "other texts": ("release", "python", "model", "governor", "l4t", "power_mode"),
}


def _is_device(facts: Any) -> bool:
    texts = all(_is_text(facts[key]) for key in _FACTS["texts"])
    others = all(_is_text(facts.get(key, "")) for key in _FACTS["other texts"])
    counts = _is_count(facts["cores"]) and facts["cores"] > 0 and _is_count(facts["memory_bytes"])
    lists = _all(_is_text)(facts["flags"]) and _all(_is_text)(facts.get("power_modes", []))
    cores = _table(_is_count)(facts.get("core_ids", {})) and _table(_is_count)(facts.get("core_mhz", {}))
    return texts and others and counts and lists and cores and _is_optional(_is_text)(facts.get("compute_capability"))


def _is_engine(able: Any) -> bool:
    score = isinstance(able["score"], int) and abs(able["score"]) <= MOST_SCORE
    texts = _is_text(able["reason"]) and _is_text(able.get("version", ""))
    return score and texts and _table(_is_text)(able.get("machine", {}))


def _is_input(spec: Any) -> bool:
    return _is_text(spec["name"]) and _all(_is_count)(spec["shape"]) and _is_text(spec["dtype"])


def _is_block(times: Any) -> bool:
    timed = len(times["called"])
    blocks = not times["blocks"] or (sum(times["blocks"]) == timed and min(times["blocks"]) > 0)
    return timed > 0 and min(times["called"]) > 0 and len(times["own"]) <= timed and blocks and "load" in times


def _is_path(row: Any) -> bool:
    return len(row) == len(PARTS) and _all(_is_number)(row) and sum(row) > 0


ANSWERS: dict[str, Callable[[Any], bool]] = {
    "facts": lambda result: _is_device(result["device"]) and all(map(_is_engine, result["engines"].values())),
    "build": lambda result: _is_number(result["seconds"]) and _is_count(result["size_bytes"]),
    "open": lambda result: (
        isinstance(result["inputs"], list)
        and len(result["inputs"]) > 0
        and all(map(_is_input, result["inputs"]))
        and _is_count(result["batch"])
        and _is_count(result["threads"])
        and _is_number(result["load_ms"])
    ),
    "infer": lambda result: True,
    "warm": lambda result: _is_number(result["first_ms"]),
    "peak": lambda result: _is_optional(_is_number)(result["peak_mib"]),
    "time": lambda result: _record(_TIMES)(result) and _is_block(result),
    "time_models": lambda result: (
        _all(_is_number)(result["least_ms"])
        and _all(_is_number)(result["p50_ms"])
        and min([*result["least_ms"], *result["p50_ms"]], default=1) > 0
        and len(result["least_ms"]) == len(result["p50_ms"])
    ),
    "describe": lambda result: _is_count(result["samples"]),
    "time_path": lambda result: len(result["rows"]) > 0 and all(map(_is_path, result["rows"])),
    "conditions": _record(_CONDITIONS),
    "look": lambda result: _record(_LOAD)(result) and "wall_s" in result,
    "cool": lambda result: _is_number(result["waited_s"]),
    "energy": lambda result: _is_optional(_is_finite)(result["mj"]),
    "lock_clocks": lambda result: True,
}
"""Check of the answer to each request."""
