"""Texts, and pairs of them, to ids (the sources text and sentence_pairs)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from deploy.processing.preprocessing.base import Box, Prepared, Preprocessing, whole
from deploy.processing.tokens import FILE, Tokenizer
from profiles.errors import UserError

MOST_LENGTH, MOST_CHARACTERS, MOST_TOKENIZER_BYTES = 8192, 1 << 22, 1 << 27


@final
@dataclass(frozen=True, kw_only=True)
class Text(Preprocessing):
    """A text, or a pair of texts where ``pairs`` is set."""

    takes = "a text, or a pair of texts"
    tokenizer: Tokenizer
    pairs: bool

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Text:
        return cls(tokenizer=tokenizer_from(data, folder), pairs=bool(data.get("pairs")))

    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        texts = [raw] if isinstance(raw, str) else list(raw) if isinstance(raw, tuple | list) else []
        if len(texts) != 1 + self.pairs or not all(isinstance(text, str) and len(text) <= MOST_CHARACTERS for text in texts):
            wanted = "two texts" if self.pairs else "one text"
            raise UserError(f"{wanted} of at most {MOST_CHARACTERS} characters; given: {len(texts) or type(raw).__name__}")
        return Prepared(inputs=self.tokenizer.encode(texts[:1], texts[1:] or None))

    def faults(self, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
        return token_faults(self.tokenizer, inputs)


def tokenizer_from(data: Mapping[str, Any], folder: Path) -> Tokenizer:
    """Read the tokenizer of a bundle, by the settings of its preprocessing.json.

    Raises:
        UserError, ValueError: it is not there, too large, another one, or the package is missing.
    """
    file = folder / FILE
    if not file.is_file() or file.stat().st_size > MOST_TOKENIZER_BYTES:
        raise ValueError(f"no {FILE} of at most {MOST_TOKENIZER_BYTES} bytes beside it")
    if hashlib.sha256(file.read_bytes()).hexdigest() != data["tokenizer_sha256"]:
        raise ValueError(f"{FILE} is another one")
    return Tokenizer(
        file, whole(data, "length", MOST_LENGTH, 2), tuple(str(name) for name in data["inputs"]), is_proven=True
    )


def token_faults(tokenizer: Tokenizer, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Say why an engine takes other ids than a tokenizer makes; empty where it fits."""
    wanted = dict.fromkeys(tokenizer.names, (tokenizer.length,))
    given = {name: shape[1:] for name, shape in inputs.items()}
    return [] if given == wanted else [f"it makes {wanted}, and the engine takes {given}"]
