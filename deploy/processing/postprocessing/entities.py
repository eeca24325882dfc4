"""Entities: spans of a text, by the tags of its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from deploy.processing.postprocessing.base import Answer, Array, OfClasses, scores_of
from deploy.processing.preprocessing.base import Prepared


@final
@dataclass(frozen=True, kw_only=True)
class Entities(OfClasses):
    """The largest of logits (1, tokens, tags) at the first token of each word."""

    gives = "entities, in the text's order: each kind, text, start, end (characters)"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        logits = scores_of(outputs, self.classes, axes=3, axis=2)
        words = prepared.words
        if words is None or len(words.first_tokens) != len(logits):
            raise ValueError(f"tags of {len(logits)} tokens are of the words of a text, and there are none of as many")
        tags, numbers = logits.argmax(axis=1), words.first_tokens
        of_word = [self.classes[tag] for tag, number in zip(tags, numbers, strict=True) if number >= 0]
        found = []
        for kind, first, last in sorted(entities(of_word), key=lambda each: each[1]):
            start, end = words.spans[first][0], words.spans[last][1]
            found.append({"kind": kind, "text": words.text[start:end], "start": start, "end": end})
        return {"entities": found}


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the entities of a sentence's tags: kind, first and last word.

    Example:
        >>> sorted(entities(["B-place", "I-place", "O", "I-person", "I-place"]))
        [('person', 3, 3), ('place', 0, 1), ('place', 4, 4)]
    """
    found: set[tuple[str, int, int]] = set()
    kind, first = "", 0
    for place, tag in enumerate([*tags, ""]):
        prefix, _, own = tag.partition("-")
        goes_on = prefix == "I" and own == kind
        if kind and not goes_on:
            found.add((kind, first, place - 1))
            kind = ""
        if own and prefix in ("B", "I") and not goes_on:
            kind, first = own, place
    return found
