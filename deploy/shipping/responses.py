"""What a device's answer to each request must hold: it is another machine's, and may be anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deploy.bundle import manifest as manifests

MOST_TEXT = 1000


def is_response(act: str, result: object) -> bool:
    """Return whether a device's answer holds everything that is read from it here and in the command line's tables."""
    try:
        return isinstance(result, dict) and RESPONSES[act](result)
    except (LookupError, TypeError, AttributeError):
        return False


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= manifests.MOST_FILE_BYTES


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= MOST_TEXT


def _is_optional(check: Callable[[object], bool], value: object) -> bool:
    return value is None or check(value)


def is_version(value: object) -> bool:
    """Return whether a value can be the version of a bundle."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= manifests.MOST_VERSION


def _is_missing(content: Any) -> bool:
    return (
        manifests.DIGEST.fullmatch(content["sha256"]) is not None
        and _is_count(content["size_bytes"])
        and _is_count(content["have_bytes"])
        and content["have_bytes"] <= content["size_bytes"]
    )


def _is_proof(proof: Any) -> bool:
    texts = all(_is_text(proof[key]) for key in ("engine", "precision", "runtime_version"))
    golden = _is_number(proof["golden"]["cosine"]) and _is_count(proof["golden"]["samples"])
    return texts and golden and _is_number(proof["p50_ms"]) and _is_optional(_is_number, proof["reference_ms"])


def _is_release(result: Any) -> bool:
    texts = _is_text(result["name"]) and _is_text(result["release"]) and _is_optional(_is_text, result["was"])
    return texts and is_version(result["version"]) and _is_proof(result["proof"])


def _is_model(model: Any) -> bool:
    if not (_is_text(model["name"]) and _is_text(model["release"]) and _is_optional(_is_text, model["previous"])):
        return False
    if not _is_optional(lambda fault: isinstance(fault, str), model["fault"]):
        return False
    if model["version"] is None:
        return model["fault"] is not None
    return is_version(model["version"]) and _is_count(model["since"]) and _is_proof(model["proof"])


RESPONSES: dict[str, Callable[[Any], bool]] = {
    "offer": lambda result: (
        all(_is_missing(content) for content in result["missing"])
        and _is_optional(is_version, result["was"])
        and _is_optional(_is_text, result["trusted"])
    ),
    "receive": lambda result: True,
    "install": _is_release,
    "rollback": _is_release,
    "status": lambda result: (
        all(_is_model(model) for model in result["models"])
        and all(_is_text(text) for text in [*result["keys"], *result.get("faults", [])])
    ),
    "trust": lambda result: _is_text(result["trusted"]),
    "distrust": lambda result: all(_is_text(key) for key in result["trusted"]),
}
"""Check of the answer to each request."""
