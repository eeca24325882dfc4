"""What a worker's answer to each request must hold: it is another machine's, and may be anything."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from deploy.measure.conditions import Conditions
from deploy.measure.load import Load
from deploy.measure.path_times import PARTS
from deploy.measure.timing import Times
from profiles.errors import one_line
from profiles.json_kinds import MOST_TEXT, every, is_count, is_finite, is_number, is_text, optional, record, table

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


_LOAD = {
    "wall_s": is_number,
    "cores": is_count,
    "interruptions": optional(is_count),
    "others_s": optional(is_finite),
    "stolen_s": optional(is_finite),
}
_TIMES = {"called": every(is_number), "own": every(is_number), "blocks": every(is_count), "load": record(_LOAD)}
_CONDITIONS = {
    "power_mode": optional(is_text),
    "governors": table(is_text),
    "clocks_mhz": table(is_finite),
    "temperatures_c": table(is_finite),
    "throttle": table(is_finite),
    "power_mw": table(is_finite),
    "load_average": optional(is_number),
}
RECORDS: dict[type, Collection[str]] = {Load: _LOAD, Times: _TIMES, Conditions: _CONDITIONS}
"""Keys that are known of each record that comes in an answer."""
_FACTS = {
    "texts": ("arch", "processor", "system"),
    "other texts": ("release", "python", "model", "governor", "l4t", "power_mode"),
}


def _is_device(facts: Any) -> bool:
    texts = all(is_text(facts[key]) for key in _FACTS["texts"])
    others = all(is_text(facts.get(key, "")) for key in _FACTS["other texts"])
    counts = is_count(facts["cores"]) and facts["cores"] > 0 and is_count(facts["memory_bytes"])
    lists = every(is_text)(facts["flags"]) and every(is_text)(facts.get("power_modes", []))
    cores = table(is_count)(facts.get("core_ids", {})) and table(is_count)(facts.get("core_mhz", {}))
    return texts and others and counts and lists and cores and optional(is_text)(facts.get("compute_capability"))


def _is_engine(able: Any) -> bool:
    score = isinstance(able["score"], int) and abs(able["score"]) <= MOST_SCORE
    texts = is_text(able["reason"]) and is_text(able.get("version", ""))
    return score and texts and table(is_text)(able.get("machine", {}))


def _is_input(spec: Any) -> bool:
    return is_text(spec["name"]) and every(is_count)(spec["shape"]) and is_text(spec["dtype"])


def _is_block(times: Any) -> bool:
    timed = len(times["called"])
    blocks = not times["blocks"] or (sum(times["blocks"]) == timed and min(times["blocks"]) > 0)
    return timed > 0 and min(times["called"]) > 0 and len(times["own"]) <= timed and blocks and "load" in times


def _is_path(row: Any) -> bool:
    return len(row) == len(PARTS) and every(is_number)(row) and sum(row) > 0


ANSWERS: dict[str, Callable[[Any], bool]] = {
    "facts": lambda result: _is_device(result["device"]) and all(map(_is_engine, result["engines"].values())),
    "build": lambda result: is_number(result["seconds"]) and is_count(result["size_bytes"]),
    "open": lambda result: (
        isinstance(result["inputs"], list)
        and len(result["inputs"]) > 0
        and all(map(_is_input, result["inputs"]))
        and is_count(result["batch"])
        and is_count(result["threads"])
        and is_number(result["load_ms"])
    ),
    "infer": lambda result: True,
    "warm": lambda result: is_number(result["first_ms"]),
    "peak": lambda result: optional(is_number)(result["peak_mib"]),
    "time": lambda result: record(_TIMES)(result) and _is_block(result),
    "time_models": lambda result: (
        every(is_number)(result["least_ms"])
        and every(is_number)(result["p50_ms"])
        and all(map(every(is_number), result["passes_ms"]))
        and min([*result["least_ms"], *result["p50_ms"]], default=1) > 0
        and all(min(each, default=1) > 0 for each in result["passes_ms"])
        and len(result["least_ms"]) == len(result["p50_ms"])
    ),
    "describe": lambda result: is_count(result["samples"]),
    "time_path": lambda result: len(result["rows"]) > 0 and all(map(_is_path, result["rows"])),
    "conditions": record(_CONDITIONS),
    "look": lambda result: record(_LOAD)(result) and "wall_s" in result,
    "cool": lambda result: is_number(result["waited_s"]),
    "energy": lambda result: optional(is_finite)(result["mj"]),
    "lock_clocks": lambda result: True,
}
"""Check of the answer to each request."""
