"""What a device's answer to each request must hold: it is another machine's, and may be anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deploy.bundle import manifest as manifests
from profiles.json_kinds import is_count, is_finite, is_line, is_text, optional


def is_response(act: str, result: object) -> bool:
    """Return whether a device's answer holds everything that is read from it here and in the command line's tables."""
    try:
        return isinstance(result, dict) and RESPONSES[act](result)
    except (LookupError, TypeError, AttributeError):
        return False


def _is_size(value: object) -> bool:
    return is_count(value) and value <= manifests.MOST_FILE_BYTES  # type: ignore[operator]


def is_version(value: object) -> bool:
    """Return whether a value can be the version of a bundle."""
    return is_count(value) and 0 < value <= manifests.MOST_VERSION  # type: ignore[operator]


def _is_missing(content: Any) -> bool:
    return (
        manifests.DIGEST.fullmatch(content["sha256"]) is not None
        and _is_size(content["size_bytes"])
        and _is_size(content["have_bytes"])
        and content["have_bytes"] <= content["size_bytes"]
    )


def _is_proof(proof: Any) -> bool:
    texts = all(is_line(proof[key]) for key in ("engine", "precision", "runtime_version"))
    golden = is_finite(proof["golden"]["cosine"]) and is_count(proof["golden"]["samples"])
    return texts and golden and is_finite(proof["p50_ms"]) and optional(is_finite)(proof["reference_ms"])


def _is_release(result: Any) -> bool:
    texts = is_line(result["name"]) and is_line(result["release"]) and optional(is_line)(result["was"])
    return texts and is_version(result["version"]) and _is_proof(result["proof"])


def _is_model(model: Any) -> bool:
    if not (is_line(model["name"]) and is_line(model["release"]) and optional(is_line)(model["previous"])):
        return False
    if not optional(is_text)(model["fault"]):
        return False
    if model["version"] is None:
        return model["fault"] is not None
    return is_version(model["version"]) and is_count(model["since"]) and _is_proof(model["proof"])


RESPONSES: dict[str, Callable[[Any], bool]] = {
    "offer": lambda result: (
        all(_is_missing(content) for content in result["missing"])
        and optional(is_version)(result["was"])
        and optional(is_line)(result["trusted"])
    ),
    "receive": lambda result: True,
    "install": _is_release,
    "rollback": _is_release,
    "status": lambda result: (
        all(_is_model(model) for model in result["models"])
        and all(is_line(text) for text in [*result["keys"], *result.get("faults", [])])
    ),
    "trust": lambda result: is_line(result["trusted"]),
    "distrust": lambda result: all(is_line(key) for key in result["trusted"]),
}
"""Check of the answer to each request."""
