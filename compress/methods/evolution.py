"""Evolutionary search over a grid of choices by score and latency; no torch, no devices.

The loop of DisWOT (Dong et al. 2023, section 3.4): the better of what was seen are mutated in one choice at a time,
and the worst fall out. A grid that is no larger than what would be tried is tried whole.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, final

Genes = tuple[int, ...]
"""For each choice, in the order of their names as given, the index of its value."""

PARENTS = 4
"""The best quarter has children."""


@final
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One combination of choices.

    Attributes:
        score: higher is better; None for one that cannot be built, with the reason in ``fault``.
        latency_ms: its cost.
    """

    arguments: Mapping[str, Any]
    score: float | None
    latency_ms: float = math.inf
    fault: str = ""


Evaluate = Callable[[Mapping[str, Any]], Candidate]


def evolve(
    choices: Mapping[str, Sequence[Any]],
    evaluate: Evaluate,
    *,
    most_ms: float,
    population: int,
    generations: int,
    seed: int,
) -> list[Candidate]:
    """Search the grid; return the candidates, the best first: within ``most_ms`` by score, then the others by latency."""
    names = list(choices)
    seen: dict[Genes, Candidate] = {}

    def tried(genes: Genes) -> None:
        if genes not in seen:
            seen[genes] = evaluate({name: choices[name][i] for name, i in zip(names, genes, strict=True)})

    draw, sizes = random.Random(seed), [len(choices[name]) for name in names]
    if math.prod(sizes) <= population * generations:
        for genes in product(*map(range, sizes)):
            tried(genes)
        return _ranked(seen.values(), most_ms)
    while len(seen) < population:
        tried(tuple(draw.randrange(size) for size in sizes))
    for _ in range(generations - 1):
        parents = sorted(seen, key=lambda genes: _rank(seen[genes], most_ms))[: max(population // PARENTS, 1)]
        for _ in range(population):
            tried(_child(draw, parents, sizes, seen))
    return _ranked(seen.values(), most_ms)


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in both score and latency, fastest first."""
    kept: list[Candidate] = []
    for one in sorted((c for c in candidates if c.score is not None), key=lambda c: (c.latency_ms, -(c.score or 0.0))):
        if not kept or (one.score or 0.0) > (kept[-1].score or 0.0):
            kept.append(one)
    return kept


def _child(draw: random.Random, parents: Sequence[Genes], sizes: Sequence[int], seen: Mapping[Genes, Candidate]) -> Genes:
    """A parent with one choice changed; changed on while it is one that was seen, up to the size of the grid."""
    genes = draw.choice(parents)
    for _ in range(math.prod(sizes)):
        place = draw.choice([i for i, size in enumerate(sizes) if size > 1])
        others = [i for i in range(sizes[place]) if i != genes[place]]
        genes = (*genes[:place], draw.choice(others), *genes[place + 1 :])
        if genes not in seen:
            break
    return genes


def _ranked(candidates: Any, most_ms: float) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: _rank(candidate, most_ms))


def _rank(candidate: Candidate, most_ms: float) -> tuple[int, float]:
    if candidate.score is None:
        return 2, 0.0
    return (0, -candidate.score) if candidate.latency_ms <= most_ms else (1, candidate.latency_ms)
