"""[student] of a recipe: the teacher's factory with other arguments, one of its own, or a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, final

from annotated_types import Ge, Gt

from compress.models.hub.records import check_names
from compress.models.plan import Plan
from compress.recipe.fields import build
from profiles.errors import unknown
from profiles.toml import shown


@final
@dataclass(frozen=True, kw_only=True)
class StudentSearch:
    """Search of the student's arguments: without training, by a score and by measured latency.

    Attributes:
        choices: for each argument of the factory, the values that it may take.
        speed_up: over the teacher in fp32, at least.
        latency_ms: at most.
        population, generations: candidates in each round of the evolution, and rounds.
        draws: of random weights that a score is averaged over.
        samples: in the batch that it is computed on.
    """

    choices: Mapping[str, tuple[Any, ...]]
    speed_up: Annotated[float, Gt(0)] | None = None
    latency_ms: Annotated[float, Gt(0)] | None = None
    population: Annotated[int, Ge(2)] = 16
    generations: Annotated[int, Ge(1)] = 8
    draws: Annotated[int, Ge(1)] = 3
    samples: Annotated[int, Ge(2)] = 64


@final
@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """Student before the first stage: a factory of its own, or the teacher's with other arguments.

    Attributes:
        inherits: whether it starts from the teacher's weights as far as they fit.
        between: arguments of a model of the student's depth and the teacher's width.
        search: chooses arguments before the first stage.
        pretrained, revision: as of [teacher].
    """

    model: str
    arguments: Mapping[str, Any]
    same_as_teacher: bool
    inherits: bool
    between: Mapping[str, Any] | None = None
    search: StudentSearch | None = None
    pretrained: bool = False
    revision: str = ""

    @property
    def is_published(self) -> bool:
        """Say whether it brings published weights."""
        return self.pretrained or bool(self.revision)


def parse_student(
    table: Mapping[str, Any],
    teacher: tuple[str, Mapping[str, Any]] | None,
    resolve: Callable[[str], str],
    source: str,
    faults: list[str],
) -> StudentSpec | None:
    """Parse the student of a table; its faults are added to ``faults``.

    Args:
        teacher: its model and arguments; None when it has faults itself.
        resolve: makes a reference to a model absolute.
    """
    where = f"{source}: [student]"
    allowed = ("from", "model", "width", "depth", "arguments", "inherit", "search", "pretrained", "revision")
    faults += [unknown("key", key, allowed, where) for key in table if key not in allowed]
    if ("from" in table) == ("model" in table):
        faults.append(f'{where} takes either from = "teacher" or model = "package.module:callable"')
        return None
    if "from" in table and table["from"] != "teacher":
        faults.append(f'{where} from: the student starts from "teacher"; given: {shown(table["from"])}')
        return None
    if teacher is None:
        return None
    wrong = _wrong_types(table, where)
    faults += wrong
    if wrong:
        return None
    scaled = {key: table[key] for key in ("width", "depth") if key in table}
    own = {**table.get("arguments", {}), **scaled}
    searched = _search(table["search"], own, where, faults) if "search" in table else None
    pretrained, revision = bool(table.get("pretrained", False)), str(table.get("revision", ""))
    if pretrained or revision:
        others = [key for key in ("from", "inherit", "search") if table.get(key)]
        faults += [f"{where}: published weights go with model = of its own, and not with {key}" for key in others]
    if "model" in table:
        faults += check_names(table["model"], pretrained=pretrained, revision=revision, weights=False, where=where)
        return StudentSpec(
            model=resolve(table["model"]),
            arguments=own,
            same_as_teacher=False,
            inherits=bool(table.get("inherit", False)),
            search=searched,
            pretrained=pretrained,
            revision=revision,
        )
    arguments = {**teacher[1], **own}
    return StudentSpec(
        model=teacher[0],
        arguments=arguments,
        same_as_teacher=not own and searched is None,
        inherits=bool(table.get("inherit", True)),
        between={key: value for key, value in arguments.items() if key != "width"} if "width" in own else None,
        search=searched,
    )


def _wrong_types(table: Mapping[str, Any], where: str) -> list[str]:
    """List keys of [student] whose value is of another type."""
    kinds: tuple[tuple[str, type, str], ...] = (
        ("model", str, "text, package.module:callable"),
        ("arguments", Mapping, "a table of the factory's arguments"),
        ("inherit", bool, "true or false"),
        ("pretrained", bool, "true or false"),
        ("revision", str, "text: a commit, branch or tag"),
    )
    faults = [
        f"{where} {key} is {words}; given: {shown(table[key])}"
        for key, kind, words in kinds
        if key in table and not isinstance(table[key], kind)
    ]
    return faults + [
        f"{where} {key} is a number above 0; given: {table[key]!r}"
        for key in ("width", "depth")
        if isinstance(table.get(key), (int, float)) and not 0 < table[key] < math.inf
    ]


def _search(table: Any, arguments: Mapping[str, Any], where: str, faults: list[str]) -> StudentSearch | None:
    place = where.removesuffix("]") + ".search]"
    if not isinstance(table, dict):
        faults.append(f"{place} is a table with choices; given: {shown(table)}")
        return None
    choices = table.get("choices", {})
    if not isinstance(choices, dict) or not choices or not all(isinstance(v, list) and v for v in choices.values()):
        faults.append(
            f"{place} choices: a list of values for each argument, such as blocks = [1, 2, 3]; given: {shown(choices)}"
        )
        return None
    faults += [f"{place} choices: {name} is in arguments too; keep one" for name in choices if name in arguments]
    search: StudentSearch | None = build(StudentSearch, table, place, faults)
    return search


def student_plan(student: StudentSpec, chosen: Mapping[str, Any] | None = None) -> Plan:
    """Return the plan of the student before any stage; ``chosen`` are arguments that a search gives."""
    return Plan(factory=student.model, arguments={**student.arguments, **(chosen or {})})
