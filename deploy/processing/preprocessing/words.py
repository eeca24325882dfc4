"""Texts in words, of which each gets a tag (the source conll)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from deploy.processing.preprocessing import base
from deploy.processing.preprocessing.base import Box, Prepared, Preprocessing
from deploy.processing.preprocessing.text import MOST_CHARACTERS, token_faults, tokenizer_from
from deploy.processing.tokens import Tokenizer
from profiles.errors import UserError

WORD = re.compile(r"\w+|[^\w\s]")
"""A run of letters and digits, or one mark: as CoNLL's words are, but for those with marks inside (U.S., o'clock)."""


@final
@dataclass(frozen=True, kw_only=True)
class Words(Preprocessing):
    """A text, cut into words here, or a list of words."""

    takes = "a text, or a list of its words"
    tokenizer: Tokenizer

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Words:
        return cls(tokenizer=tokenizer_from(data, folder))

    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        if isinstance(raw, str) and len(raw) <= MOST_CHARACTERS:
            text, spans = raw, [match.span() for match in WORD.finditer(raw)]
        elif isinstance(raw, list) and all(isinstance(word, str) for word in raw) and sum(map(len, raw)) <= MOST_CHARACTERS:
            text, spans, at = " ".join(raw), [], 0
            for word in raw:
                spans.append((at, at + len(word)))
                at += len(word) + 1
        else:
            raise UserError(f"{self.takes} is taken, of at most {MOST_CHARACTERS} characters; given: {type(raw).__name__}")
        inputs, first = self.tokenizer.encode_words([[text[begin:end] for begin, end in spans]])
        return Prepared(inputs=inputs, words=base.Words(text=text, spans=spans, first_tokens=first[0]))

    def faults(self, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
        return token_faults(self.tokenizer, inputs)
