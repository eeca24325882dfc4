"""What a name stood for: the files, their hashes, how the model is built, and what comes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

KINDS = ("timm", "torchvision", "hf")
"""Kinds of names that published weights belong to: ``timm:NAME``, ``torchvision:NAME``, ``hf:OWNER/NAME``."""


def kind_of(reference: str) -> str:
    """Return the kind of a model's reference; empty for a factory of the user's own."""
    kind, _, name = reference.partition(":")
    return kind if kind in KINDS and name else ""


def is_address(reference: str) -> bool:
    """Whether weights are at an address of the network, and not in a file."""
    return reference.startswith(("https://", "http://"))


@final
@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """A file by content.

    Attributes:
        sha256: of its bytes, 64 hexadecimal digits.
    """

    name: str
    sha256: str
    size_bytes: int


@final
@dataclass(frozen=True, kw_only=True)
class Pin:
    """What a name stood for when it was first used; an entry of a recipe's lock.

    Attributes:
        model: the name in the recipe, or the address of its weights.
        asked: the revision in the recipe; empty where it says none.
        source: repository or address that the files came from.
        revision: commit of the repository, or the name of the weights in torchvision; empty for an address.
    """

    model: str
    asked: str = ""
    source: str
    revision: str = ""
    files: tuple[PinnedFile, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What was asked."""
        return self.model, self.asked


@final
@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What published weights expect of their input and say of their output; None and empty where they say nothing.

    Attributes:
        size: height and width of the input, in pixels.
        short_side: what the shorter side is brought to before the centre is cut out, for ``size``.
        crop: "centre", or "none" where the whole picture is resized to ``size``.
        interpolation: of that resizing, "bilinear", "bicubic" or "nearest".
        mean, deviation: of each channel, white being 1.
        labels: names of each output, the first one the shortest: ``(("n01440764", "tench, Tinca tinca"), ...)``.
        about: other facts for whoever feeds the model: tokenizer, sample rate.
    """

    size: tuple[int, int] | None = None
    short_side: int | None = None
    crop: str = ""
    interpolation: str = ""
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    labels: tuple[tuple[str, ...], ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True)
class Found:
    """A name, resolved.

    Attributes:
        factory, arguments: what a plan calls for the model; no network is needed for it.
        weights: the file; None where the recipe asks for random weights.
        outputs: classes of the published model; 0 where that is not known.
        published: the library's own settings for the weights.
    """

    pin: Pin
    factory: str
    arguments: Mapping[str, Any]
    weights: Path | None = None
    outputs: int = 0
    facts: ModelFacts = field(default_factory=ModelFacts)
    published: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """Words for a person: where the weights are from, and which they are."""
        if self.weights is None:
            return f"{self.factory}, random weights"
        at = f" at {self.pin.revision[:12]}" if self.pin.revision else ""
        file = self.pin.files[-1]
        return f"{self.pin.source}{at}, {file.name}, SHA-256 {file.sha256[:12]}"


def check_names(reference: str, *, pretrained: bool, revision: str, weights: bool, where: str) -> list[str]:
    """List the faults of ``pretrained`` and ``revision`` beside a model and its weights."""
    kind = kind_of(reference)
    if not pretrained and not revision:
        return [f"{where} model: {reference} names published weights; write pretrained = true"] if kind == "hf" else []
    said = "revision" if revision else "pretrained"
    faults: list[str] = []
    if not kind:
        words = "timm:NAME, torchvision:NAME or hf:OWNER/NAME"
        faults.append(f"{where} {said}: published weights belong to {words}; given: model = {reference!r}; leave it out")
    if weights:
        faults.append(f"{where}: either weights, or {said} for the published ones")
    return faults
